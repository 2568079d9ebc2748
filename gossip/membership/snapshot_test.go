package membership_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// A node finds the others again by what it remembers: after a crash, and after
// it left.
func TestSnapshotFindsTheOthers(t *testing.T) {
	t.Parallel()
	a := start(t, membership.Config{Node: "a", Timing: quick})
	cfg := membership.Config{Node: "b", Timing: quick, Join: []string{a.Addr().String()}, Snapshot: filepath.Join(t.TempDir(), "members")}
	b := start(t, cfg)
	b.until(t, "a=alive b=alive")
	wait := func() {
		eventually(t, "the file names a", patience, func() bool {
			content, _ := os.ReadFile(cfg.Snapshot)
			return strings.Contains(string(content), "alive: a "+a.Addr().String()+"\n")
		})
	}
	wait()
	b.stop()
	cfg.Join = nil
	b = start(t, cfg)
	b.until(t, "a=alive b=alive")
	a.until(t, "a=alive b=alive")
	if err := os.Remove(cfg.Snapshot); err != nil {
		t.Fatal(err)
	}
	c := start(t, membership.Config{Node: "c", Timing: quick, Join: []string{b.Addr().String()}})
	b.until(t, "a=alive b=alive c=alive")
	wait() // a file that was deleted under it is written again
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	a.until(t, "a=alive b=left c=alive")
	b = start(t, cfg)
	b.until(t, "a=alive b=alive c=alive")
	a.until(t, "a=alive b=alive c=alive")

	// Whoever remembers somebody who is gone says so, and goes on looking.
	b.stop()
	a.stop()
	c.stop()
	b = start(t, cfg)
	eventually(t, "b says whom it looks for", patience, func() bool { return strings.Contains(b.Waiting(), "a: "+a.Addr().String()) })
}

func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	a := start(t, membership.Config{Node: "a", Timing: quick})
	noise := make([]byte, 3<<20)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	good := "alive: a " + a.Addr().String() + "\n"
	for name, content := range map[string]string{
		"truncated": good + "alive: other 10.0.0.",
		"garbage":   good + string(noise[:5000]) + "\n",
		"too long":  good + strings.Repeat("alive: x\n", 1<<18),
		"serf's":    "not-alive: z\nclock: 17\n" + good + "event-clock: 99999999999999999999999\nquery-clock: 1\ncoordinate: {}\nleave\n",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "members")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			b := start(t, membership.Config{Node: "b", Timing: quick, Snapshot: path})
			eventually(t, "b finds a", patience, func() bool { return b.member("a").Status == "alive" })
			if damaged := b.log.count("snapshot damaged") > 0; damaged == (name == "serf's") {
				t.Errorf("damage told: %v", damaged)
			}
		})
	}
	for name, path := range map[string]string{"only noise": filepath.Join(t.TempDir(), "noise"), "directory": t.TempDir(), "nowhere": "/nonexistent/members"} {
		t.Run(name, func(t *testing.T) {
			if name == "only noise" {
				if err := os.WriteFile(path, bytes.ReplaceAll(noise, []byte("\n"), nil), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			b := start(t, membership.Config{Node: "b", Timing: quick, Snapshot: path, Join: []string{a.Addr().String()}})
			eventually(t, "b finds a", patience, func() bool { return b.member("a").Status == "alive" })
			if name != "only noise" {
				eventually(t, "b tells", patience, func() bool { return b.log.count("members not remembered") > 0 })
			}
		})
	}
}
