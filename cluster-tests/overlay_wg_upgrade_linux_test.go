package clustertests

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestOverlayNetUpgrade: a POP that is upgraded keeps its connections through
// the kernel's sockets and a TUN interface, although that is made anew, and its
// key and addresses; on a stack in the process the new ones work.
func TestOverlayNetUpgrade(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n, _, _ := served(t, mode)
		defer n.tell()
		n.only(t, "on-laptop")
		p := n.pops[1]
		was, err := p.wg()
		if err != nil {
			t.Fatal(err)
		}
		var open []*visit
		for range 20 {
			open = append(open, p.visit(t, ""))
		}
		p.upgrade(t)
		began := time.Now()
		if err := waitFor(soon, func() error { return p.goesTo("", "on-laptop") }); err != nil {
			t.Fatal(err)
		}
		t.Logf("new clients are served %s after the upgrade", time.Since(began).Round(time.Millisecond))
		if now, err := p.wg(); err != nil || now.PublicKey != was.PublicKey || len(now.Addresses) != 2 || now.Addresses[0] != was.Addresses[0] || now.Error != "" {
			t.Errorf("before %+v, after %+v: %v", was, now, err)
		}
		if mode != "netstack" {
			for _, v := range open {
				v.alive(t)
			}
		}
		n.carries(t, "on-laptop")
	})
}

// TestOverlayNetTampered: what somebody does to the device by wg(8) does not
// last, and a device that somebody deletes comes back.
func TestOverlayNetTampered(t *testing.T) {
	needs(t, "netns")
	n, laptop, _ := served(t, "tun")
	defer n.tell()
	n.only(t, "on-laptop")
	p := n.pops[1]
	stranger := strings.TrimSpace(n.must(t, 1, "sh", "-c", "wg genkey | wg pubkey"))
	x, err := p.wg()
	if err != nil {
		t.Fatal(err)
	}
	device, err := x.peer("laptop")
	if err != nil {
		t.Fatal(err)
	}
	n.must(t, 1, "wg", "set", "wg0", "peer", device.PublicKey, "remove")
	n.must(t, 1, "wg", "set", "wg0", "peer", stranger, "allowed-ips", laptop.four.String()+"/32")
	whole := func() error {
		_, peers, err := n.dump(1)
		if _, has := peers[device.PublicKey]; err != nil || !has || len(peers) != len(x.Peers) {
			return fmt.Errorf("%d peers, laptop among them: %v, want %d: %v", len(peers), has, len(x.Peers), err)
		}
		return nil
	}
	if whole() == nil {
		t.Fatal("wg set did nothing")
	}
	eventually(t, soon, whole)
	eventually(t, soon, func() error { return p.goesTo("", "on-laptop") })

	n.must(t, 1, "ip", "link", "del", "wg0")
	eventually(t, soon, whole)
	eventually(t, soon, func() error { return p.goesTo("", "on-laptop") })
}
