package clustertests

import (
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
		if mode == "tun" {
			for _, v := range open {
				v.alive(t)
			}
		}
		n.carries(t, "on-laptop")
	})
}
