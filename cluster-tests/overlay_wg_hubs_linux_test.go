package clustertests

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// hubLimit is how long traffic may stand still where a hub dies.
const hubLimit = 10 * time.Second

// TestOverlayNetHubSpoke: a backend at the address of one spoke serves clients
// of the others, through hubs; whichever hub dies, traffic is back soon.
func TestOverlayNetHubSpoke(t *testing.T) {
	needs(t, "netns")
	// Unchecked: what a check learns late of a backend is not the overlay's.
	n := startWG(t, "tun", []string{"sa", "us", "eu", "ap", "af"}, 0, unchecked, "EDGEPROXY_WG_TOPOLOGY=hub-spoke", "EDGEPROXY_WG_HUBS=pop-sa,pop-us")
	defer n.tell()
	hubs, far := []int{0, 1}, 4
	for i, p := range n.pops {
		hub := slices.Contains(hubs, i)
		var want []string
		for j, q := range n.pops {
			if j != i && (hub || slices.Contains(hubs, j)) {
				want = append(want, q.Node)
			}
		}
		slices.Sort(want)
		eventually(t, soon, func() error {
			s, err := p.wg()
			if got := s.names("pop"); err != nil || !slices.Equal(got, want) || s.Hub != hub || s.Topology != "hub-spoke" {
				return fmt.Errorf("%s: hub %v of %s, has tunnels with %q, want hub %v and %q; %v", p.Node, s.Hub, s.Topology, got, hub, want, err)
			}
			return nil
		})
	}
	four, six := n.pops[far].overlay(t)
	n.backendAt(t, far, "far-four", four)
	n.backendAt(t, far, "far-six", six)
	for _, id := range []string{"far-four", "far-six"} {
		n.only(t, id)
		n.through(t, hubs, n.pops[2], id)
	}
	for _, hub := range hubs {
		back := n.losesHub(t, hub, []*pop{n.pops[2], n.pops[3]}, "far-six")
		node := n.pops[hub].Node
		for _, p := range n.pops[2:] { // it is theirs again
			eventually(t, soon, func() error {
				s, err := p.wg()
				if err != nil {
					return err
				}
				x, err := s.peer(node)
				if err == nil && x.Handshake.Before(back.Truncate(time.Second)) {
					err = fmt.Errorf("%s has had no handshake with %s since %s", p.Node, node, back)
				}
				return err
			})
		}
	}
}

// TestOverlayNetHierarchical: two regions, whose hubs their POPs elect.
func TestOverlayNetHierarchical(t *testing.T) {
	needs(t, "netns")
	n := startWG(t, "tun", []string{"sa", "sa", "us", "us", "us"}, 0, unchecked, "EDGEPROXY_WG_TOPOLOGY=hierarchical")
	defer n.tell()
	hubs, err := n.elected(t)
	if err != nil {
		t.Fatal(err)
	}
	// A client at a spoke of sa, a backend at a spoke of us, and a client at the other one there.
	spokes := func(from, to int) (all []int) {
		for i := from; i < to; i++ {
			if !slices.Contains(hubs, i) {
				all = append(all, i)
			}
		}
		return all
	}
	sa, us := spokes(0, 2), spokes(2, 5)
	if len(sa) == 0 {
		sa = hubs[1:2] // both are hubs, and one will do as a client's POP
	}
	if len(us) == 0 {
		t.Fatalf("region us has hubs only%s", wgStates(n.pops...))
	}
	clients, far := []*pop{n.pops[sa[0]]}, us[0]
	if len(us) > 1 {
		clients = append(clients, n.pops[us[1]])
	}
	four, _ := n.pops[far].overlay(t)
	n.backendAt(t, far, "far", four)
	n.only(t, "far")
	n.through(t, hubs, clients[0], "far")
	for _, hub := range hubs {
		if hub == sa[0] {
			continue
		}
		n.losesHub(t, hub, clients, "far")
		if _, err := n.elected(t); err != nil {
			t.Fatal(err)
		}
	}
}

// elected waits until all agree who is a hub, each region has one, and no
// spoke has a tunnel with a POP that is not a hub of its region.
func (n *wgNet) elected(t testing.TB) (hubs []int, err error) {
	t.Helper()
	err = waitFor(soon, func() error {
		hubs = nil
		of, at := map[string]string{}, map[string]string{} // region of a hub; of any POP
		all := make([]wgStatus, len(n.pops))
		for i, p := range n.pops {
			var err error
			if all[i], err = p.wg(); err != nil {
				return err
			}
			at[p.Node] = p.setting("EDGEPROXY_REGION")
			if all[i].Hub {
				hubs = append(hubs, i)
				of[p.Node] = at[p.Node]
			}
		}
		for i, p := range n.pops {
			hasHub := false
			for _, x := range all[i].names("pop") {
				near := at[x] == at[p.Node]
				hasHub = hasHub || near && of[x] != ""
				if !all[i].Hub && (!near || of[x] == "") || all[i].Hub && !near && of[x] == "" {
					return fmt.Errorf("%s, hub %v, has a tunnel with %s; hubs are %q", p.Node, all[i].Hub, x, sorted(of))
				}
			}
			if !all[i].Hub && !hasHub {
				return fmt.Errorf("%s has no hub; hubs are %q", p.Node, sorted(of))
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%w%s", err, wgStates(n.pops...))
	}
	return hubs, err
}

// through checks that what a client sends to a backend crosses one of the hubs.
func (n *wgNet) through(t testing.TB, hubs []int, p *pop, id string) {
	t.Helper()
	crossed := func() (sum int64) {
		for _, hub := range hubs {
			_, peers, err := n.dump(hub)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range peers {
				sum += x.received
			}
		}
		return sum
	}
	before := crossed()
	v := p.visit(t, "")
	if err := v.echo(heavy); err != nil || v.backend != id {
		t.Errorf("%s by %s to %s: %v", v.backend, p.Node, id, err)
	}
	if got := crossed() - before; got < 2*int64(len(heavy)) { // there and back
		t.Errorf("hubs have heard %d bytes, want %d", got, 2*len(heavy))
	}
}

// losesHub kills a hub, waits until clients get to the backend again, and starts it again.
func (n *wgNet) losesHub(t testing.TB, hub int, clients []*pop, id string) (back time.Time) {
	t.Helper()
	var open []*visit
	for _, p := range clients {
		open = append(open, p.visit(t, ""))
	}
	n.pops[hub].kill(t)
	began := time.Now()
	for _, p := range clients {
		if err := waitFor(hubLimit-time.Since(began), func() error { return p.goesTo("", id) }); err != nil || time.Since(began) > hubLimit {
			t.Fatalf("%s since %s died, clients of %s: %v%s", time.Since(began).Round(time.Millisecond), n.pops[hub].Node, p.Node, err, wgStates(clients...))
		}
	}
	t.Logf("without %s traffic is back after %s", n.pops[hub].Node, time.Since(began).Round(time.Millisecond))
	for _, v := range open { // they only passed by there
		v.alive(t)
	}
	back = time.Now()
	n.pops[hub].start(t)
	together(t, n.pops...)
	for _, p := range n.pops {
		if err := waitFor(hubLimit, func() error { return p.goesTo("", id) }); err != nil {
			t.Errorf("%s is back, clients of %s: %v", n.pops[hub].Node, p.Node, err)
		}
	}
	for _, v := range open {
		v.alive(t)
	}
	return back
}

// TestOverlayNetSyncOver: where no record gets from POP to POP but through the
// tunnels, they agree all the same, from the start on and after a restart.
func TestOverlayNetSyncOver(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n := planWG(t, mode, three, 0, "EDGEPROXY_SYNC_OVER=overlay")
		for i, p := range n.pops {
			p.set("EDGEPROXY_GOSSIP_ADDR", "0.0.0.0:7946")
			p.set("EDGEPROXY_SYNC_ADDR", "0.0.0.0:7947")
			p.set("EDGEPROXY_ADVERTISE_ADDR", n.addr(i))
			n.nft(t, i, "table inet shut {\n chain in {\n type filter hook input priority 0\n iifname \"eth0\" tcp dport 7947 drop\n }\n}\n")
		}
		began := time.Now()
		n.up(t)
		defer n.tell()
		t.Logf("a mesh after %s", time.Since(began).Round(time.Millisecond))
		var timeout net.Error
		if c, err := net.DialTimeout("tcp", n.addr(0)+":7947", 500*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
			if err == nil {
				c.Close()
			}
			t.Fatalf("port 7947 can be reached from the underlay: %v", err)
		}
		n.fill(t, "at-first")
		t.Logf("rows of each POP are on all after %s", settle(t, converged, n.pops...))
		n.pops[1].kill(t)
		if err := n.pops[0].write("UPDATE backends SET weight=7"); err != nil {
			t.Fatal(err)
		}
		n.pops[1].start(t)
		together(t, n.pops...)
		t.Logf("equal again after %s", settle(t, converged, n.pops...))
		everywhere(t, "SELECT count(DISTINCT weight), min(weight) FROM backends", "1|7", n.pops...)
	})
}
