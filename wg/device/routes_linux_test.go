package device

import (
	"net/netip"
	"strings"
	"testing"
)

// TestForeignRoutes: what lies behind a peer, and here as well, stays here; the
// other networks are reached, and go with their peer.
func TestForeignRoutes(t *testing.T) {
	needsNetns(t)
	d := newPOP(t, 231, onTUN(31))
	name, lan, other := testInterface(31), testInterface(32), testInterface(33)
	ip(t, "link", "add", lan, "type", "veth", "peer", "name", other)
	t.Cleanup(func() { ip(t, "link", "del", lan) })
	ip(t, "addr", "add", "192.168.7.1/24", "dev", lan)
	ip(t, "link", "set", lan, "up")
	ip(t, "link", "set", other, "up")
	ip(t, "route", "add", "192.168.9.0/24", "dev", other)

	networks := []netip.Prefix{netip.MustParsePrefix("192.168.7.0/24"), netip.MustParsePrefix("192.168.8.0/24"), netip.MustParsePrefix("192.168.9.0/24")}
	for range 2 {
		err := d.SetRoutes(networks)
		if err == nil || !strings.Contains(err.Error(), "192.168.7.0/24 is not set here: "+lan) || !strings.Contains(err.Error(), "192.168.9.0/24 is not set here") || strings.Contains(err.Error(), "192.168.8") {
			t.Errorf("networks that are here, too: %v", err)
		}
		routes := ip(t, "route")
		for _, want := range []string{"192.168.7.0/24 dev " + lan, "192.168.8.0/24 dev " + name, "192.168.9.0/24 dev " + other} {
			if !strings.Contains(routes, want) {
				t.Errorf("no %q in\n%s", want, routes)
			}
		}
	}
	if err := d.SetRoutes(nil); err != nil {
		t.Error(err)
	}
	if routes := ip(t, "route"); strings.Contains(routes, "192.168.8.0/24") || !strings.Contains(routes, "192.168.7.0/24") || !strings.Contains(routes, "192.168.9.0/24") {
		t.Errorf("routes\n%s", routes)
	}
}
