package clustertests

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestOverlayNetWrongKey: who has no key that a POP knows gets no packet in
// answer, whatever it sends.
func TestOverlayNetWrongKey(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n := startWG(t, mode, three, 2)
		defer n.tell()
		member, stranger := n.plain(t, "member"), n.plain(t, "stranger")
		file := n.pops[0].joined(t, "member", "sa", "--public-key", member.public(t))
		n.knows(t, "member")
		n.watch(t, stranger.at)
		stranger.boot(t, file) // with the keys of all POPs, and its own
		for range 3 {
			stranger.knocks(t)
		}
		for i := range n.pops { // the sizes of a handshake, its answer, a cookie, and data
			for _, size := range []int{148, 92, 64, 1400} {
				for kind := 1; kind <= 4; kind++ {
					n.must(t, stranger.at, "bash", "-c", fmt.Sprintf(`{ printf '\x%02x\0\0\0'; head -c %d /dev/urandom; } | tr '\n' x >/dev/udp/%s/%d`, kind, size-4, n.addr(i), wgPort))
				}
			}
		}
		eventually(t, soon, func() error {
			if said := n.counted(t, stranger.at, "watch", "said"); said < 50 {
				return fmt.Errorf("it has sent %d packets, want more", said)
			}
			return nil
		})
		if heard := n.counted(t, stranger.at, "watch", "heard"); heard != 0 {
			t.Errorf("%d packets in answer to a stranger, want none", heard)
		}
		for _, p := range n.pops {
			if x := stranger.peer(t, p); x.handshake != 0 || x.sent == 0 {
				t.Errorf("the stranger and %s: %+v", p.Node, x)
			}
		}

		// Known now, it is answered: the counter does count.
		own := n.pops[0].joined(t, "stranger", "sa", "--public-key", stranger.public(t))
		n.knows(t, "member", "stranger")
		stranger.restarts(t, own)
		stranger.knocks(t)
		eventually(t, soon, func() error {
			if n.counted(t, stranger.at, "watch", "heard") < len(n.pops) {
				return errors.New("nobody answers who is known")
			}
			return nil
		})
	})
}

// TestOverlayNetOneWay: a device, or a POP, that can dial and cannot be dialed,
// as behind a NAT: its own keepalives bring its tunnels up and keep them.
func TestOverlayNetOneWay(t *testing.T) {
	const idle = 32 * time.Second // longer than the NAT remembers
	eachMode(t, func(t *testing.T, mode string) {
		n := planWG(t, mode, three, 2, unchecked) // a check is no idling
		hidden := n.pops[2]
		n.dialsOnly(t, 2)
		n.up(t)
		defer n.tell()
		for _, p := range n.pops[:2] { // without any traffic of clients
			eventually(t, soon, func() error {
				s, err := p.wg()
				if err != nil {
					return err
				}
				x, err := s.peer(hidden.Node)
				if err == nil && x.Handshake.IsZero() {
					err = fmt.Errorf("%s has no tunnel with %s", p.Node, hidden.Node)
				}
				return err
			})
		}
		laptop, sensor := n.plain(t, "laptop"), n.plain(t, "sensor")
		n.dialsOnly(t, laptop.at)
		laptop.joins(t, "sa") // with no endpoint: it has none
		sensor.joins(t, "sa", "--endpoint", sensor.endpoint())
		n.knows(t, "laptop", "sensor")
		n.backendAt(t, laptop.at, "on-laptop", laptop.four)
		n.backendAt(t, sensor.at, "on-sensor", sensor.six)
		n.only(t, "on-sensor")
		n.carries(t, "on-sensor")
		for range often(1, 2) {
			// Two that cannot be dialed do not find each other: of the POPs the first two have a way to laptop.
			if err := n.pops[0].write("UPDATE backends SET healthy=(id='on-laptop')"); err != nil {
				t.Fatal(err)
			}
			for _, p := range n.pops[:2] {
				eventually(t, soon, func() error { return p.goesTo("", "on-laptop") })
			}
			if mode != "netstack" {
				four, six := hidden.overlay(t)
				for i := range 2 {
					for _, to := range []netip.Addr{four, six} {
						if err := waitFor(converged, func() error { return n.pings(i, to) }); err != nil {
							t.Errorf("%s to %s: %v", n.pops[i].Node, hidden.Node, err)
						}
					}
				}
			}
			<-time.After(idle)
			for _, p := range n.pops[:2] {
				if err := p.goesTo("", "on-laptop"); err != nil {
					t.Errorf("after %s without traffic a client of %s: %v", idle, p.Node, err)
				}
			}
		}
		t.Logf("packets refused: %d by the POP, %d by the device", n.counted(t, 2, "nat", "refused"), n.counted(t, laptop.at, "nat", "refused"))
	})
}
