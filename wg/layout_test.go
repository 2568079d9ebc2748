package wg

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var testNetworks = Networks{Four: netip.MustParsePrefix("10.50.0.0/16"), Six: netip.MustParsePrefix("fd50:ed9e::/48")}

func key(n int) (k Key) {
	k[0], k[1], k[2] = byte(n), byte(n>>8), 1
	return k
}

// pops are n POPs in the given regions by turns.
func pops(n int, regions ...string) []POP {
	taken := map[netip.Addr]bool{}
	list := make([]POP, n)
	for i := range list {
		name := fmt.Sprintf("pop-%04d", i)
		four := testNetworks.POPFour(name, func(a netip.Addr) bool { return taken[a] })
		taken[four] = true
		list[i] = POP{Name: name, Region: regions[i%len(regions)], Key: key(i), Four: four, Six: testNetworks.POPSix(name),
			Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), Port), Claimed: int64(i), Alive: true}
	}
	return list
}

// walk follows a packet as WireGuard does: to the peer that the destination is
// assigned to, which takes it only if it has assigned the source to whoever
// sent it. Names of plain devices have a slash before them.
func walk(t interface{ Fatalf(string, ...any) }, l Layout, r Roster, dead map[string]bool, from, to string, src, dst netip.Addr) (path []string) {
	owner := func(at string, a netip.Addr) *Peer {
		var best *Peer
		bits := -1
		plan := l.Plan(at, r)
		for i := range plan.Peers {
			for _, p := range plan.Peers[i].AllowedIPs {
				if p.Contains(a) && p.Bits() > bits {
					best, bits = &plan.Peers[i], p.Bits()
				}
			}
		}
		return best
	}
	for at := from; at != to; {
		path = append(path, at)
		if len(path) > 4 {
			t.Fatalf("%s to %s: a loop: %v", from, to, path)
		}
		if !slices.ContainsFunc(r.POPs, func(p POP) bool { return p.Name == at }) {
			t.Fatalf("%s to %s: ends at %s", from, to, at)
		}
		if len(path) > 1 && !l.Plan(at, r).Forwards {
			t.Fatalf("%s to %s by %v: %s does not forward", from, to, path, at)
		}
		next := owner(at, dst)
		if next == nil {
			t.Fatalf("%s to %s: %s has no peer for %s", from, to, at, dst)
		}
		if dead[next.Name] && next.Name != to {
			t.Fatalf("%s to %s by %s, which is dead", from, to, next.Name)
		}
		if slices.ContainsFunc(r.POPs, func(p POP) bool { return p.Name == next.Name }) {
			if back := owner(next.Name, src); back == nil || back.Name != at {
				t.Fatalf("%s to %s: %s takes nothing of %s from %s", from, to, next.Name, src, at)
			}
		}
		at = next.Name
	}
	return path
}

func layouts() []Layout {
	return []Layout{
		{Topology: FullMesh, Networks: testNetworks}, {Topology: HubSpoke, Networks: testNetworks},
		{Topology: Hierarchical, Networks: testNetworks}, {Topology: HubSpoke, Networks: testNetworks, Hubs: []string{"pop-0001"}},
		{Topology: Hierarchical, Networks: testNetworks, Hubs: []string{"pop-0003", "pop-0004"}},
	}
}

// TestEverybodyReachesEverybody on every topology, whoever of them is dead, in
// both families, and the plain devices, by plans that each makes for itself.
func TestEverybodyReachesEverybody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rapid.SampledFrom(layouts()).Draw(t, "layout")
		all := pops(rapid.IntRange(2, 9).Draw(t, "pops"), "sa", "us", "xx")
		dead := map[string]bool{}
		for i := range all {
			if all[i].Alive = rapid.IntRange(0, 3).Draw(t, "alive") > 0; !all[i].Alive {
				dead[all[i].Name] = true
			}
		}
		devices := []Device{
			{Name: "d-all", Region: "sa", Key: key(1000), Four: netip.MustParseAddr("10.50.1.1"), Six: testNetworks.DeviceSix("d-all", "sa")},
			{Name: "d-via", Region: "us", Key: key(1001), Six: testNetworks.DeviceSix("d-via", "us"), Via: []string{"pop-0000", "pop-0001"},
				Routes: []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24")}},
		}
		r, problems := Settle(all, devices, testNetworks, Roster{})
		if len(problems) > 0 {
			t.Fatalf("problems: %v", problems)
		}
		for _, a := range r.POPs {
			if dead[a.Name] {
				continue
			}
			for _, b := range r.POPs {
				if a.Name == b.Name || dead[b.Name] {
					continue
				}
				if path := walk(t, l, r, dead, a.Name, b.Name, a.Four, b.Four); l.Topology == FullMesh && len(path) != 1 {
					t.Fatalf("full mesh, and %s to %s by %v", a.Name, b.Name, path)
				}
				walk(t, l, r, dead, a.Name, b.Name, a.Six, b.Six)
			}
			walk(t, l, r, dead, a.Name, "d-all", a.Four, devices[0].Four)
			if !dead["pop-0000"] || a.Name == "pop-0001" { // the first of via carries for the others
				walk(t, l, r, dead, a.Name, "d-via", a.Six, devices[1].Six)
				walk(t, l, r, dead, a.Name, "d-via", a.Four, netip.MustParseAddr("192.168.7.9"))
			}
		}
	})
}

// TestHubs: two for each group, the named ones where they live, another one
// for one that dies, and nobody else moves.
func TestHubs(t *testing.T) {
	hubs := func(l Layout, r Roster) (names []string) {
		for _, p := range r.POPs {
			if p.Alive && l.Hub(p.Name, r) {
				names = append(names, p.Name)
			}
		}
		return names
	}
	r, _ := Settle(pops(12, "sa", "us", "eu"), nil, testNetworks, Roster{})
	for _, c := range []struct {
		layout Layout
		want   int
	}{{Layout{Topology: FullMesh}, 12}, {Layout{Topology: HubSpoke}, 2}, {Layout{Topology: Hierarchical}, 6},
		{Layout{Topology: HubSpoke, Hubs: []string{"pop-0005", "pop-0006", "pop-0007"}}, 3}} {
		c.layout.Networks = testNetworks
		before := hubs(c.layout, r)
		if len(before) != c.want {
			t.Errorf("%s: hubs %v, want %d", c.layout.Topology, before, c.want)
		}
		if c.want == 12 {
			continue
		}
		dying := before[0]
		i := slices.IndexFunc(r.POPs, func(p POP) bool { return p.Name == dying })
		r.POPs[i].Alive = false
		after := hubs(c.layout, r)
		r.POPs[i].Alive = true
		if slices.Contains(after, dying) {
			t.Errorf("%s: the dead %s is a hub: %v", c.layout.Topology, dying, after)
		}
		for _, h := range before[1:] {
			if !slices.Contains(after, h) {
				t.Errorf("%s: %s is no hub any more because %s died: %v", c.layout.Topology, h, dying, after)
			}
		}
		if len(c.layout.Hubs) == 0 && len(after) != len(before) {
			t.Errorf("%s: nobody took the place of %s: %v", c.layout.Topology, dying, after)
		}
	}
	l := Layout{Topology: HubSpoke, Networks: testNetworks, Hubs: []string{"nobody"}}
	if got := hubs(l, r); len(got) != 2 {
		t.Errorf("hubs %v where the named one does not exist, want two", got)
	}
	r.POPs[0].Endpoint = netip.AddrPort{}
	for i := range r.POPs[1:] {
		r.POPs[i+1].Alive = false
	}
	if got := hubs(Layout{Topology: HubSpoke, Networks: testNetworks}, r); len(got) != 0 {
		t.Errorf("hubs %v, though nobody alive can be reached", got)
	}
}

// TestDiff: following it makes one plan of another, and it names no peer that
// is the same in both.
func TestDiff(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) Plan {
			all := pops(6, "sa", "us")
			for i := range all {
				all[i].Alive = rapid.Bool().Draw(t, label)
				if rapid.IntRange(0, 4).Draw(t, label) == 0 {
					all[i].Endpoint = netip.MustParseAddrPort("198.51.100.9:9")
				}
				if rapid.IntRange(0, 4).Draw(t, label) == 0 {
					all[i].Next = key(500 + i)
				}
			}
			r, _ := Settle(all[:rapid.IntRange(1, 6).Draw(t, label)], nil, testNetworks, Roster{})
			return rapid.SampledFrom(layouts()).Draw(t, label).Plan("pop-0000", r)
		}
		from, to := draw("from"), draw("to")
		device := map[Key]Peer{}
		for _, p := range from.Peers {
			device[p.Key] = p
		}
		changes := Diff(from, to)
		for _, c := range changes {
			if c.Remove {
				delete(device, c.Key)
				continue
			}
			p := device[c.Key]
			p.Name, p.Key = c.Name, c.Key
			if c.NewEndpoint {
				p.Endpoint = c.Endpoint
			}
			if c.NewAllowedIPs {
				p.AllowedIPs = c.AllowedIPs
			}
			if c.NewKeepalive {
				p.Keepalive = c.Keepalive
			}
			device[c.Key] = p
		}
		same := func(a, b Peer) bool {
			return a.Name == b.Name && (a.Endpoint == b.Endpoint || !b.Endpoint.IsValid()) && slices.Equal(a.AllowedIPs, b.AllowedIPs) && a.Keepalive == b.Keepalive
		}
		if len(device) != len(to.Peers) {
			t.Fatalf("%d peers, want %d", len(device), len(to.Peers))
		}
		for _, p := range to.Peers {
			if !same(device[p.Key], p) {
				t.Fatalf("peer %+v, want %+v", device[p.Key], p)
			}
			old := slices.IndexFunc(from.Peers, func(o Peer) bool { return o.Key == p.Key })
			if old >= 0 && same(from.Peers[old], p) && slices.ContainsFunc(changes, func(c Change) bool { return c.Key == p.Key }) {
				t.Fatalf("%s is the same, and is changed", p.Name)
			}
		}
		if again := Diff(to, to); len(again) > 0 {
			t.Fatalf("the same plan twice: %v", again)
		}
	})
}

// TestOneMoved: the change of one POP touches its own peer only.
func TestOneMoved(t *testing.T) {
	list := pops(1000, "sa", "us", "eu", "ap")
	r, _ := Settle(list, nil, testNetworks, Roster{})
	for _, l := range layouts() {
		before := l.Plan("pop-0000", r)
		moved := Roster{POPs: slices.Clone(r.POPs)}
		moved.POPs[0].Endpoint, moved.POPs[1].Endpoint = netip.MustParseAddrPort("198.51.100.9:9"), netip.MustParseAddrPort("198.51.100.9:9")
		for _, c := range Diff(before, l.Plan("pop-0000", moved)) {
			if c.Name != "pop-0001" {
				t.Errorf("%s: pop-0001 moved, and %s is changed", l.Topology, c.Name)
			}
		}
	}
}

func TestNextKey(t *testing.T) {
	list := pops(2, "sa")
	list[1].Next = key(99)
	r, _ := Settle(list, nil, testNetworks, Roster{})
	l := Layout{Topology: FullMesh, Networks: testNetworks}
	with := func(p Plan) (key Key, others int) {
		for _, peer := range p.Peers {
			if len(peer.AllowedIPs) > 0 {
				key = peer.Key
			} else {
				others++
			}
		}
		return key, others
	}
	if k, n := with(l.Plan("pop-0000", r)); k != list[1].Key || n != 1 {
		t.Errorf("traffic to key %s beside %d others, want the old key's beside the new one", k, n)
	}
	r.POPs[1].Changed = true // it was heard with the new one
	if k, n := with(l.Plan("pop-0000", r)); k != list[1].Next || n != 1 {
		t.Errorf("traffic to key %s beside %d others, want the new key's beside the old one", k, n)
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{50, 1000} {
		list := pops(n, "sa", "us", "eu", "ap")
		for _, l := range layouts()[:3] {
			b.Run(fmt.Sprintf("%s/%d", l.Topology, n), func(b *testing.B) {
				for b.Loop() {
					r, _ := Settle(list, nil, testNetworks, Roster{})
					Diff(Plan{}, l.Plan("pop-0000", r))
				}
			})
		}
	}
}

// TestExport: what a plain device's file says is what the POPs' plans have for
// it, and devices reach each other through the gateway by both files.
func TestExport(t *testing.T) {
	devices := []Device{{Name: "a", Region: "sa", Key: key(1000), Four: netip.MustParseAddr("10.50.1.1"), Six: testNetworks.DeviceSix("a", "sa")},
		{Name: "b", Region: "us", Key: key(1001), Six: testNetworks.DeviceSix("b", "us"), Endpoint: netip.MustParseAddrPort("192.0.2.200:9")}}
	r, _ := Settle(pops(3, "sa", "us"), devices, testNetworks, Roster{})
	for _, l := range layouts()[:3] {
		for _, d := range devices {
			file, ok := l.Export(d.Name, r, 1, MTU)
			if !ok {
				t.Fatalf("no file of %s", d.Name)
			}
			for _, p := range r.POPs {
				if n := strings.Count(file, "PublicKey = "+p.Key.String()+"\n"); n != 1 {
					t.Errorf("%s is %d times in\n%s", p.Name, n, file)
				}
			}
			if n := strings.Count(file, "10.50.0.0/16, fd50:ed9e::/48"); n != 1 {
				t.Errorf("%d gateways in\n%s", n, file)
			}
			if gateway := l.view("", r).gateway(&d); gateway != "pop-0000" || !l.Plan(gateway, r).Forwards {
				t.Errorf("gateway %s forwards: %v", gateway, l.Plan(gateway, r).Forwards)
			}
			if strings.Contains(file, "ListenPort") != d.Endpoint.IsValid() {
				t.Errorf("listens where it has no endpoint, or not where it has:\n%s", file)
			}
		}
		walk(t, l, r, nil, "pop-0000", "b", devices[0].Six, devices[1].Six)
	}
	if _, ok := layouts()[0].Export("nobody", r, 1, MTU); ok {
		t.Error("a file of nobody")
	}
	file, _ := layouts()[0].Export("pop-0001", r, 51820, MTU)
	for _, want := range []string{"ListenPort = 51820\n", "Address = " + r.POPs[1].Four.String() + "/16, ", "PublicKey = " + devices[0].Key.String()} {
		if !strings.Contains(file, want) {
			t.Errorf("no %q in\n%s", want, file)
		}
	}
}

// TestDrift: a device that somebody has changed is set as planned, with nothing
// said of where a peer is that is still there, and one that was left alone not at all.
func TestDrift(t *testing.T) {
	r, _ := Settle(pops(4, "sa", "us"), nil, testNetworks, Roster{})
	plan := Layout{Topology: FullMesh, Networks: testNetworks}.Plan("pop-0000", r)
	is := func() (all []Status) {
		for _, p := range slices.Backward(plan.Peers) { // in whatever order, and roamed
			allowed := slices.Clone(p.AllowedIPs)
			slices.Reverse(allowed)
			all = append(all, Status{Key: p.Key, Endpoint: netip.MustParseAddrPort("198.51.100.9:9"), AllowedIPs: allowed, Keepalive: p.Keepalive})
		}
		return all
	}
	if changes := Drift(is(), plan); len(changes) > 0 {
		t.Errorf("left alone, and changed: %+v", changes)
	}
	gone, stranger := is()[1:], key(99)
	lost := plan.Peers[len(plan.Peers)-1]
	gone[0].AllowedIPs = nil
	changes := Drift(append(gone, Status{Key: stranger}), plan)
	if len(changes) != 3 {
		t.Fatalf("%d changes, want three: %+v", len(changes), changes)
	}
	for _, c := range changes {
		switch c.Key {
		case stranger:
			if !c.Remove {
				t.Errorf("the stranger stays: %+v", c)
			}
		case lost.Key:
			if !c.NewEndpoint || c.Endpoint != lost.Endpoint || !c.NewAllowedIPs || !c.NewKeepalive {
				t.Errorf("who was removed is not whole again: %+v", c)
			}
		case gone[0].Key:
			if c.NewEndpoint || !c.NewAllowedIPs || len(c.AllowedIPs) != 2 {
				t.Errorf("who had his addresses taken: %+v", c)
			}
		}
	}
}
