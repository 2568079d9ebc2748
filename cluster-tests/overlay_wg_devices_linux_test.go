package clustertests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOverlayNetRevocation: a device that is removed on one POP hears nothing
// more of any, soon, and the others do.
func TestOverlayNetRevocation(t *testing.T) {
	const limit = 10 * time.Second
	eachMode(t, func(t *testing.T, mode string) {
		n, laptop, _ := served(t, mode)
		defer n.tell()
		n.only(t, "on-laptop")
		n.carries(t, "on-laptop")
		file := n.pops[0].exported(t, "laptop")
		for _, p := range n.pops {
			if x := laptop.peer(t, p); x.handshake == 0 {
				t.Errorf("laptop has had no handshake with %s", p.Node)
			}
		}
		began := time.Now()
		n.pops[1].says(t, "wg", "peer", "remove", "laptop")
		n.forgets(t, "laptop", limit)
		t.Logf("no POP has it after %s", time.Since(began).Round(time.Millisecond))

		laptop.restarts(t, file)
		for range 3 { // a handshake is tried again after 5 s
			laptop.knocks(t)
		}
		peers, err := laptop.dump()
		if err != nil || len(peers) != len(n.pops) {
			t.Fatalf("laptop has peers %+v, %v", peers, err)
		}
		for key, x := range peers {
			if x.handshake != 0 || x.received != 0 || x.sent == 0 {
				t.Errorf("%s answers who was removed: %+v", key, x)
			}
		}
		for _, p := range n.pops {
			if out := p.says(t, "wg", "peer", "list"); strings.Contains(out, "laptop") || !strings.Contains(out, "sensor") {
				t.Errorf("wg peer list on %s: %s", p.Node, out)
			}
			if v, err := p.call(""); err == nil {
				t.Errorf("a client of %s still comes to %s", p.Node, v.backend)
				v.Close()
			}
		}
		n.only(t, "on-sensor")
		n.carries(t, "on-sensor")
	})
}

// TestOverlayNetVia: a device that has tunnels with two POPs only serves the
// clients of the third through the first of them, and each of the two alone.
func TestOverlayNetVia(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n := startWG(t, mode, three, 1, unchecked)
		defer n.tell()
		sa, us, eu := n.pops[0], n.pops[1], n.pops[2]
		laptop := n.plain(t, "laptop")
		laptop.joins(t, "us", "--endpoint", laptop.endpoint(), "--via", us.Node+","+eu.Node)
		for _, p := range n.pops {
			eventually(t, soon, func() error {
				s, err := p.wg()
				if err == nil && slices.Contains(s.names("peer"), "laptop") != (p != sa) {
					err = fmt.Errorf("%s has the plain devices %q", p.Node, s.names("peer"))
				}
				return err
			})
		}
		if peers, err := laptop.dump(); err != nil || len(peers) != 2 {
			t.Errorf("laptop has peers %+v, %v; want two", peers, err)
		}
		n.backendAt(t, laptop.at, "by-four", laptop.four)
		n.backendAt(t, laptop.at, "by-six", laptop.six)
		for _, id := range []string{"by-four", "by-six"} {
			n.only(t, id)
			before := laptop.peer(t, us).received
			if v, err := sa.call(""); err != nil {
				t.Error(err)
			} else {
				if err := v.echo(heavy); err != nil {
					t.Error(err)
				}
				v.Close()
			}
			if got := laptop.peer(t, us).received - before; got < int64(len(heavy)) {
				t.Errorf("laptop heard %d bytes from %s of a client of %s, want %d", got, us.Node, sa.Node, len(heavy))
			}
			n.carries(t, id)
		}
		open := eu.visit(t, "")
		us.kill(t)
		open.alive(t)
		eventually(t, hubLimit, func() error { return eu.goesTo("", "by-six") })
		us.start(t)
		for _, p := range n.pops {
			eventually(t, soon, func() error { return p.goesTo("", "by-six") })
		}
	})
}

// TestOverlayNetRoaming: a device has another address and port from one moment
// to the next. Traffic follows, also that of open connections.
func TestOverlayNetRoaming(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n, laptop, _ := served(t, mode)
		defer n.tell()
		n.only(t, "on-laptop")
		n.carries(t, "on-laptop")
		var open []*visit
		for _, p := range n.pops {
			open = append(open, p.visit(t, ""))
		}
		for _, to := range []struct {
			host string
			port int
		}{{n.subnet + ".99", 51999}, {n.subnet + ".98", 51999}, {n.subnet + ".98", wgPort}} {
			began := time.Now()
			laptop.moves(t, to.host, to.port)
			laptop.knocks(t) // it has something to say; POPs cannot know otherwise
			for _, v := range open {
				v.alive(t)
			}
			for _, p := range n.pops {
				eventually(t, soon, func() error {
					s, err := p.wg()
					if err != nil {
						return err
					}
					x, err := s.peer("laptop")
					if err == nil && x.Endpoint != laptop.endpoint() {
						err = fmt.Errorf("%s has laptop at %s, want %s", p.Node, x.Endpoint, laptop.endpoint())
					}
					return err
				})
			}
			n.carries(t, "on-laptop")
			t.Logf("at %s after %s", laptop.endpoint(), time.Since(began).Round(time.Millisecond))
		}
	})
}
