//go:build linux

package main

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roleCopy is a plain goroutine proxy, a target for this test.
const roleCopy = "copy"

func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == roleFlag && os.Args[2] == roleCopy {
		copyProxy(os.Args[3], os.Args[4:])
	}
	if len(os.Args) > 2 && os.Args[1] == roleFlag {
		os.Exit(runRole(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// copyProxy forwards what arrives on listen to the backends in turns, until it is killed.
func copyProxy(listen string, backends []string) {
	ln, err := net.Listen("tcp", listen)
	if err != nil {
		panic(err)
	}
	for i := 0; ; i++ {
		c, err := ln.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer c.Close()
			b, err := net.Dial("tcp", backends[i%len(backends)])
			if err != nil {
				return
			}
			defer b.Close()
			var wg sync.WaitGroup
			wg.Go(func() { io.Copy(b, c); b.(*net.TCPConn).CloseWrite() })
			wg.Go(func() { io.Copy(c, b); c.(*net.TCPConn).CloseWrite() })
			wg.Wait()
		}()
	}
}

func copyTarget() *target {
	return &target{name: "copy", command: func(_ context.Context, _ string, listen netip.AddrPort, backends []netip.AddrPort, _ *ports) (*exec.Cmd, error) {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		args := []string{roleFlag, roleCopy, listen.String()}
		for _, b := range backends {
			args = append(args, b.String())
		}
		return exec.Command(self, args...), nil
	}}
}

// One tiny round of everything: what is measured may be anything, but it must be there, positive and consistent.
func TestRound(t *testing.T) {
	cfg := config{rounds: 1, window: 250 * time.Millisecond, measures: allMeasures(), conns: 8, streams: 2, idle: 20, most: 80, few: 1, settle: 20 * time.Millisecond, network: "shared"}
	var progress strings.Builder
	rig, err := newRig(cfg, t.TempDir(), &progress)
	if err != nil {
		t.Fatal(err)
	}
	defer rig.close()
	// Named after a peer, so that the ratio to it is computed too.
	twin := copyTarget()
	twin.name = haproxy
	res, err := rig.measure(t.Context(), []*target{{name: direct}, copyTarget(), twin})
	if err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}

	var table, doc strings.Builder
	if err := res.writeTable(&table); err != nil {
		t.Fatal(err)
	}
	if err := res.writeJSON(&doc); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + table.String())
	var rep report
	if err := json.Unmarshal([]byte(doc.String()), &rep); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]targetReport)
	for _, f := range rep.Figures {
		for _, v := range f.Targets {
			found[f.Key+" "+v.Name] = v
		}
	}
	noProxy := []string{"requests.cpu", "connections.cpu", "resets.cpu", "bulk.cpu", "latency.added",
		"latency.p99", "latency.p999", "idle.rss", "idle.fds", "idle.base", "start.accept", "start.reply",
		"curve.800", "curve.80", "curve.8", "curve.1", "many.few", "many.many", "many.times"}
	mayBeZero := []string{"idle.rss", "latency.added", "latency.p99", "latency.p999"}
	for _, m := range allMeasures() {
		for _, f := range m.figures {
			for _, name := range []string{direct, "copy", haproxy} {
				v, ok := found[f.key+" "+name]
				if want := name != direct || !slices.Contains(noProxy, f.key); ok != want {
					t.Errorf("%s of %s: found %v, want %v", f.key, name, ok, want)
					continue
				}
				if !ok {
					continue
				}
				if v.Median <= 0 && !slices.Contains(mayBeZero, f.key) {
					t.Errorf("%s of %s is %g", f.key, name, v.Median)
				}
				if len(v.Rounds) != 1 || v.Min != v.Median || v.Max != v.Median {
					t.Errorf("%s of %s: %+v, want one round", f.key, name, v)
				}
			}
			a, b := found[f.key+" copy"], found[f.key+" "+haproxy]
			if b.Median > 0 && (a.ToHAProxy == nil || math.Abs(*a.ToHAProxy-a.Median/b.Median) > 1e-9) {
				t.Errorf("%s: ratio to haproxy %v of %g and %g", f.key, a.ToHAProxy, a.Median, b.Median)
			}
			if a.BestPeer != haproxy || b.BestPeer != "copy" || b.ToHAProxy != nil {
				t.Errorf("%s: peers %q and %q, haproxy to itself %v", f.key, a.BestPeer, b.BestPeer, b.ToHAProxy)
			}
		}
	}
	// io.Copy between TCP connections: two of them and a pipe for each direction.
	if fds := found["idle.fds copy"].Median; fds < 2 || fds > 6.5 {
		t.Errorf("%g descriptors per idle connection of a plain copy proxy", fds)
	}
}

// A target that ends at once is an error that quotes what it said, and nothing is left running.
func TestTargetThatFails(t *testing.T) {
	rig, err := newRig(config{rounds: 1}, t.TempDir(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer rig.close()
	bad := &target{name: "bad", command: func(context.Context, string, netip.AddrPort, []netip.AddrPort, *ports) (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "echo no such luck >&2; exit 3"), nil
	}}
	_, err = rig.measure(t.Context(), []*target{bad})
	if err == nil || !strings.Contains(err.Error(), "no such luck") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v", err)
	}
	if len(rig.running) != 0 {
		t.Errorf("%d targets still running", len(rig.running))
	}
}

// Cancelling ends a job in the middle.
func TestInterrupt(t *testing.T) {
	rig, err := newRig(config{rounds: 1, window: time.Minute, conns: 2, measures: allMeasures()[:1]}, t.TempDir(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err = rig.measure(ctx, []*target{copyTarget()}); err == nil {
		t.Error("no error")
	}
	procs := []*process{rig.load.process, rig.backend.process}
	for _, in := range rig.running {
		procs = append(procs, in.proc)
	}
	rig.close()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	for _, p := range procs {
		if !p.ended() {
			t.Errorf("%s still runs", p.name)
		}
	}
}
