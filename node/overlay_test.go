package node

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/wg"
)

// TestOverlayKeyFile: made once with mode 0600, as wg(8) reads it; what others
// can read, or is no key, is refused by a sentence and left as it is.
func TestOverlayKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db.wg")
	k := &overlayKeys{path: path}
	if err := k.open(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	now, next := k.public()
	if now == (wg.Key{}) || next != (wg.Key{}) {
		t.Fatalf("keys %s and %s", now, next)
	}
	if tool, err := exec.LookPath("wg"); err == nil {
		cmd := exec.Command(tool, "pubkey")
		body, _ := os.ReadFile(path)
		cmd.Stdin = strings.NewReader(string(body))
		if out, err := cmd.Output(); err != nil || strings.TrimSpace(string(out)) != now.String() {
			t.Errorf("wg pubkey says %s, %v; we say %s", out, err, now)
		}
	}
	again := func() (*overlayKeys, error) {
		k := &overlayKeys{path: path}
		return k, k.open()
	}
	same, err := again()
	if got, _ := same.public(); err != nil || got != now {
		t.Errorf("opened again: %s, want %s: %v", got, now, err)
	}

	if err := k.begin(); err != nil {
		t.Fatal(err)
	}
	_, announced := k.public()
	cut, err := again() // as after kill -9 before the change
	if got, next := cut.public(); err != nil || got != now || next != (wg.Key{}) {
		t.Errorf("cut off before the change: %s and %s: %v", got, next, err)
	}
	if err := k.promote(); err != nil {
		t.Fatal(err)
	}
	cut, err = again() // and after it
	if got, _ := cut.public(); err != nil || got != announced {
		t.Errorf("cut off after the change: %s, want %s: %v", got, announced, err)
	}

	for name, spoil := range map[string]func() error{
		"chmod 600":     func() error { return os.Chmod(path, 0o644) },
		"is empty":      func() error { return os.WriteFile(path, nil, 0o600) },
		"does not hold": func() error { return os.WriteFile(path, []byte("hello\n"), 0o600) },
		"not hold":      func() error { return os.WriteFile(path, []byte(strings.Repeat(announced.String()+"\n", 3)), 0o600) },
	} {
		if err := errors.Join(os.Chmod(path, 0o600), spoil()); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(path)
		if _, err := again(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); string(after) != string(before) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// overlayRow is a row of wg_pops with every column.
func overlayRow(change func(row []any)) []any {
	row := []any{"a", "sa", wg.Key{1}.String(), nil, "10.50.0.1", "fd50:ed9e::1", "192.0.2.1:51820", "full-mesh", int64(5)}
	change(row)
	return row
}

// TestOverlayRows: who writes nonsense is named and left out, and nobody else.
func TestOverlayRows(t *testing.T) {
	good := readOverlay([][]any{overlayRow(func([]any) {}), overlayRow(func(row []any) { row[0], row[3], row[4], row[6] = "b", wg.Key{2}.String(), nil, nil })},
		[][]any{{"d", "us", wg.Key{3}.String(), nil, "fd50:ed9e:0:2::1", nil, " a , b,", "192.168.7.0/24,fd00::/64", int64(1)}})
	if len(good.problems) > 0 || len(good.pops) != 2 || len(good.devices) != 1 {
		t.Fatalf("%+v", good)
	}
	if a := good.pops[0]; a.Endpoint != netip.MustParseAddrPort("192.0.2.1:51820") || a.Four != netip.MustParseAddr("10.50.0.1") || a.Claimed != 5 {
		t.Errorf("%+v", a)
	}
	if b := good.pops[1]; b.Endpoint.IsValid() || b.Four.IsValid() || b.Next != (wg.Key{2}) {
		t.Errorf("%+v", b)
	}
	if d := good.devices[0]; len(d.Via) != 2 || d.Via[1] != "b" || len(d.Routes) != 2 {
		t.Errorf("%+v", d)
	}
	for name, change := range map[string]func(row []any){
		"its name is <nil>":      func(row []any) { row[0] = nil },
		"its name":               func(row []any) { row[0] = "a\nPostUp = reboot" },
		"its region":             func(row []any) { row[1] = "sa\n[Interface]" },
		"want a WireGuard key":   func(row []any) { row[2] = "x" },
		"32 bytes in base64":     func(row []any) { row[2] = nil },
		"WireGuard key":          func(row []any) { row[3] = "y" },
		"too short":              func(row []any) { row[4] = "10.50.0" },
		"plain IPv4":             func(row []any) { row[5] = "fe80::1%eth0" },
		"want the address and":   func(row []any) { row[6] = "0.0.0.0:9" },
		"port of one host":       func(row []any) { row[6] = "255.255.255.255:9" },
		"of one host":            func(row []any) { row[6] = "[ff02::1]:9" },
		"one host":               func(row []any) { row[6] = "192.0.2.1:0" },
		"column 7 is int64":      func(row []any) { row[6] = int64(4) },
		"column 9 is string":     func(row []any) { row[8] = "long ago" },
		"its name is float64":    func(row []any) { row[0] = 1.5 },
		"ParseAddr(\"a\\x00b\")": func(row []any) { row[4] = "a\x00b" },
	} {
		r := readOverlay([][]any{overlayRow(change), overlayRow(func(row []any) { row[0] = "good" })}, nil)
		if len(r.pops) != 1 || r.pops[0].Name != "good" || len(r.problems) != 1 || !strings.Contains(r.problems[0].Message, name) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// FuzzOverlayRows: whatever text stands in the tables, what is read of it makes
// a plan in which nothing is assigned twice.
func FuzzOverlayRows(f *testing.F) {
	key := wg.Key{1}.String()
	f.Add("a", key, "", "10.50.0.1", "fd50:ed9e::1", "192.0.2.1:9", "a,b", "192.168.0.0/16", int64(3))
	f.Add("PostUp", key, "", "10.50.0.1", "fd50:ed9e::1", "192.0.2.1:9", "a,b", "192.168.0.0/16", int64(3))
	hook := regexp.MustCompile(`(?m)^[^#\n]*PostUp`) // in a comment it is a POP's name
	f.Add("a\nPostUp = reboot", key, "", "10.50.0.1", "fd50:ed9e::1", "192.0.2.1:9", "a,b", "192.168.0.0/16", int64(3))
	f.Add("a", key, "", "10.50.0.1", "fd50:ed9e::1", "[fe80::1%x]:51820\n[Interface]\nPostUp = reboot\n[Peer]\nEndpoint = [fe80::2%y]:51820", "", "", int64(3))
	f.Add("b", key, key, "fd50:ed9e::1", "10.50.0.1", "[fe80::1%x]:9", "", "::/0,10.50.1.0/24", int64(-1))
	networks, err := wg.ParseNetworks([]netip.Prefix{netip.MustParsePrefix("10.50.0.0/16"), netip.MustParsePrefix("fd50:ed9e::/48")})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, public, next, four, six, endpoint, via, routes string, claimed int64) {
		rows := readOverlay(
			[][]any{{name, "sa", public, next, four, six, endpoint, via, claimed}, {"self", "us", wg.Key{9}.String(), nil, "10.50.0.9", nil, "192.0.2.9:9", nil, int64(2)}},
			[][]any{{name, "sa", next, six, four, endpoint, via, routes, claimed}, {"d" + name, "sa", public, four, six, endpoint, via, routes, claimed}})
		roster, _ := wg.Settle(rows.pops, rows.devices, networks, wg.Roster{})
		for _, topology := range []wg.Topology{wg.FullMesh, wg.HubSpoke, wg.Hierarchical} {
			layout := wg.Layout{Topology: topology, Networks: networks}
			seen := map[netip.Prefix]bool{}
			for _, p := range layout.Plan("self", roster).Peers {
				for _, a := range p.AllowedIPs {
					if seen[a] || a.Bits() == 0 {
						t.Fatalf("%s is assigned twice, or everything is: %+v", a, roster)
					}
					seen[a] = true
				}
			}
			if file, ok := layout.Export("self", roster, 1, 1420); ok && (strings.Count(file, "[Interface]") != 1 || hook.MatchString(file)) {
				t.Fatalf("a file in which somebody wrote: %q", file)
			}
		}
	})
}

// TestOwnKeyHolds: who claims a POP's key while that is off, with whatever date,
// does not get it in that POP's own eyes when it is back.
func TestOwnKeyHolds(t *testing.T) {
	networks, err := wg.ParseNetworks([]netip.Prefix{netip.MustParsePrefix("fd50:ed9e::/48")})
	if err != nil {
		t.Fatal(err)
	}
	o := &overlay{node: "b", networks: networks, keys: overlayKeys{path: filepath.Join(t.TempDir(), "wg")}}
	if err := o.keys.open(); err != nil {
		t.Fatal(err)
	}
	own, _ := o.keys.public()
	thief := wg.POP{Name: "a", Key: own, Claimed: 1}
	for _, before := range []wg.Roster{{}, {POPs: []wg.POP{thief}}} {
		o.roster = before
		r, problems := wg.Settle([]wg.POP{thief, {Name: "b", Key: own, Claimed: 5}}, nil, networks, o.incumbents())
		if len(r.POPs) != 1 || r.POPs[0].Name != "b" || len(problems) != 1 || problems[0].Name != "a" {
			t.Errorf("after %v: %v, %v", before, r.POPs, problems)
		}
	}
}
