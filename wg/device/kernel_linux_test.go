package device

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/edgeproxy/edgeproxy/wg"
)

func onKernel(n int) func(*Config) {
	return func(cfg *Config) { cfg.Mode, cfg.Interface = Kernel, testInterface(n) }
}

// needsKernel skips a test on a machine without WireGuard, where it looks at
// what Open says of that: testdata/kernel.sh has one that has it.
func needsKernel(t testing.TB) {
	t.Helper()
	needsNetns(t)
	cfg := Config{Mode: Kernel, PrivateKey: newKeys(t).private, Interface: testInterface(19), Node: "pop-test"}
	d, err := Open(cfg, zerolog.Nop())
	if err == nil {
		err = d.Close()
	}
	noInterface(t, cfg.Interface)
	if errors.Is(err, ErrNoKernel) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSystemTunnels is TestTunnels for the devices that are interfaces.
func TestSystemTunnels(t *testing.T) {
	needsNetns(t)
	for name, test := range tunnels {
		t.Run("tun/"+name, func(t *testing.T) { test(t, onTUN(10)) })
		t.Run("kernel/"+name, func(t *testing.T) {
			needsKernel(t)
			test(t, onKernel(10))
		})
	}
}

func TestKernel(t *testing.T) {
	needsKernel(t)
	name := testInterface(7)
	a, b := newPOP(t, 201, onKernel(7)), newPOP(t, 202)
	a.follow(t, b.peer())
	if s := a.status(t, b.public); !s.Handshake.IsZero() || s.Sent != 0 || s.Received != 0 || s.Endpoint != b.endpoint() {
		t.Errorf("nothing was said yet: %+v", s)
	}
	b.follow(t, a.peer())
	a.echo(t, 80)
	b.echo(t, 80)
	for family, at := range b.families(80) {
		t.Run(family, func(t *testing.T) {
			c, err := a.DialContext(within(t, 20*time.Second), "tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			asks(t, c, strings.Repeat("through the kernel ", 5000))
			asks(t, b.dialTCP(t, a.families(80)[family]), "from the other side")
			if _, err := a.Ping(within(t, 20*time.Second), at.Addr()); err != nil {
				t.Error(err)
			}
			if _, err := b.Ping(within(t, 20*time.Second), a.families(80)[family].Addr()); err != nil {
				t.Error(err)
			}
		})
	}
	s := a.status(t, b.public)
	if since := time.Since(s.Handshake); since < 0 || since > time.Minute || s.Sent < 150_000 || s.Received < 150_000 || len(s.AllowedIPs) != 2 {
		t.Errorf("status %+v, handshake %s ago", s, since)
	}
	// What changes nothing leaves the session, and the counters, alone.
	for range 2 {
		if err := a.Configure(diff([]wg.Peer{{Key: b.public}}, []wg.Peer{b.peer()})); err != nil {
			t.Fatal(err)
		}
	}
	if now := a.status(t, b.public); !now.Handshake.Equal(s.Handshake) || now.Sent < s.Sent || len(now.AllowedIPs) != 2 {
		t.Errorf("status %+v, was %+v", now, s)
	}

	link, err := linkNamed(name)
	if err != nil || link == nil {
		t.Fatal(err)
	}
	if attrs := link.Attrs(); link.Type() != linkType || attrs.Alias != "edgeproxy pop-test" || attrs.MTU != wg.MTU {
		t.Errorf("interface %+v", attrs)
	}
	routes := func() string { return ip(t, "route", "show", "dev", name) + ip(t, "-6", "route", "show", "dev", name) }
	for _, set := range [][]string{{"192.168.77.0/24", "fd77::/64", "192.168.78.0/24"}, {"192.168.78.0/24"}, {}} {
		var want []netip.Prefix
		for _, s := range set {
			want = append(want, netip.MustParsePrefix(s))
		}
		for range 2 {
			if err := a.SetRoutes(want); err != nil {
				t.Fatal(err)
			}
		}
		for _, s := range []string{"192.168.77.0/24", "fd77::/64", "192.168.78.0/24"} {
			if is := strings.Contains(routes(), s); is != strings.Contains(strings.Join(set, " "), s) {
				t.Errorf("routes %q, want %q", routes(), set)
			}
		}
		if !strings.Contains(routes(), "10.50.0.0/16") || !strings.Contains(routes(), "fd50::/48") {
			t.Errorf("the connected ones are not in %q", routes())
		}
	}
	for _, on := range []bool{true, false} {
		if err := a.SetForwarding(on); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/proc/sys/net/ipv4/conf/" + name + "/forwarding", "/proc/sys/net/ipv6/conf/" + name + "/force_forwarding"} {
			if is, err := readSwitch(path); is != on && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is %v, %v", path, is, err)
			}
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	noInterface(t, name)
	if now := ip(t, "route") + ip(t, "addr"); strings.Contains(now, name) || strings.Contains(now, "10.50.0.") {
		t.Errorf("left behind:\n%s", now)
	}
	select {
	case err := <-a.Failed():
		t.Errorf("failed: %v", err)
	default:
	}
}

func TestKernelIsDeleted(t *testing.T) {
	needsKernel(t)
	a := newPOP(t, 203, onKernel(8))
	ip(t, "link", "del", testInterface(8))
	select {
	case err := <-a.Failed():
		if !strings.Contains(err.Error(), testInterface(8)) {
			t.Errorf("error %q does not name the interface", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("not noticed")
	}
	// One of that name that another has made since is neither configured nor removed.
	ip(t, "link", "add", testInterface(8), "type", linkType)
	defer ip(t, "link", "del", testInterface(8))
	if err := a.Configure(diff(nil, []wg.Peer{{Key: newKeys(t).public}})); err == nil {
		t.Error("configured what is gone")
	}
	if err := a.SetPrivateKey(newKeys(t).private); err == nil {
		t.Error("gave a key to what is gone")
	}
	if _, err := a.Peers(); err == nil {
		t.Error("asked what is gone")
	}
	if err := a.SetForwarding(true); err == nil {
		t.Error("made what is gone forward")
	}
	if err := a.SetAddresses([]netip.Prefix{netip.MustParsePrefix("10.50.0.9/16")}); err == nil {
		t.Error("gave an address to what is gone")
	}
	if is, err := readSwitch("/proc/sys/net/ipv4/conf/" + testInterface(8) + "/forwarding"); is || err != nil {
		t.Errorf("the other's forwards: %v, %v", is, err)
	}
	client, err := wgctrl.New()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if d, err := client.Device(testInterface(8)); err != nil || d.PrivateKey != (wgtypes.Key{}) || len(d.Peers) != 0 {
		t.Errorf("the other's is %+v, %v", d, err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if l, err := linkNamed(testInterface(8)); l == nil || err != nil {
		t.Errorf("the other's is gone, too: %v", err)
	}
}

func TestKernelForeign(t *testing.T) {
	needsKernel(t)
	name := testInterface(9)
	cfg := Config{Mode: Kernel, PrivateKey: newKeys(t).private, Interface: name, Node: "pop-test"}
	for _, c := range []struct{ kind, alias string }{
		{"wireguard", ""}, {"wireguard", "edgeproxy pop-other"}, {"dummy", ""}, {"dummy", alias(cfg.Node)},
	} {
		t.Run(c.kind+" "+c.alias, func(t *testing.T) {
			ip(t, "link", "add", name, "type", c.kind)
			defer ip(t, "link", "del", name)
			if c.alias != "" {
				ip(t, "link", "set", name, "alias", c.alias)
			}
			before := ip(t, "-d", "addr", "show", "dev", name)
			d, err := Open(cfg, zerolog.Nop())
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if !errors.Is(err, ErrForeign) {
				t.Error(err)
			}
			if after := ip(t, "-d", "addr", "show", "dev", name); after != before {
				t.Errorf("it was\n%sand is\n%s", before, after)
			}
		})
	}
}

func TestKernelPortTaken(t *testing.T) {
	needsKernel(t)
	taken := newPOP(t, 204)
	cfg := Config{Mode: Kernel, PrivateKey: newKeys(t).private, Interface: testInterface(11), Port: taken.Port(), Node: "pop-test"}
	if d, err := Open(cfg, zerolog.Nop()); err == nil {
		d.Close()
		t.Error("opened")
	} else if !errors.Is(err, ErrPortTaken) {
		t.Error(err)
	}
	noInterface(t, cfg.Interface)
}

// TestKernelManyPeers: what does not go into one message of netlink is cut,
// and comes back whole.
func TestKernelManyPeers(t *testing.T) {
	needsKernel(t)
	a := newPOP(t, 208, onKernel(14))
	var last []wg.Peer
	for _, count := range []int{200, 150, 0} {
		peers := last[:min(len(last), count)]
		for i := len(peers); i < count; i++ {
			p := wg.Peer{Key: newKeys(t).public, Keepalive: wg.Keepalive, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 51820)}
			behind := 2
			if i == 100 {
				behind = 1000
			}
			for j := range behind {
				p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + j/250), byte(i), byte(j % 250)}), 32))
			}
			peers = append(peers, p)
		}
		peers = slices.Clone(peers)
		if count == 150 { // what was the large one's is another's
			peers[7].AllowedIPs, peers[100].AllowedIPs = slices.Concat(peers[7].AllowedIPs, peers[100].AllowedIPs[1:]), peers[100].AllowedIPs[:1]
			slices.SortFunc(peers[7].AllowedIPs, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		}
		for range 2 {
			if err := a.Configure(diff(last, peers)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := a.Peers()
		want := plan(peers).Peers
		if err != nil || len(got) != len(want) {
			t.Fatalf("%d peers, %v, want %d", len(got), err, len(want))
		}
		for i, w := range want {
			if g := got[i]; g.Key != w.Key || g.Endpoint != w.Endpoint || g.Keepalive != w.Keepalive || !slices.Equal(g.AllowedIPs, w.AllowedIPs) {
				t.Errorf("peer %+v\nwant %+v", g, w)
			}
		}
		last = peers
	}
}

// killed leaves of a device what kill -9 does: the kernel's part.
func (p *pop) killed(t testing.TB) {
	t.Helper()
	l := p.network.(*systemLink)
	remove := l.remove
	l.remove = func() error {
		l.link = &netlink.Dummy{LinkAttrs: *l.link.Attrs()} // so that delete takes it for another's
		return remove()
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestKernelTakeOver: what a killed process has left is this one's, and
// nothing of it stays that this one was not told.
func TestKernelTakeOver(t *testing.T) {
	needsKernel(t)
	name := testInterface(12)
	a, b := newPOP(t, 205, onKernel(12), forwards), newPOP(t, 206)
	join(t, a, b)
	b.echo(t, 80)
	if err := a.SetRoutes([]netip.Prefix{netip.MustParsePrefix("192.168.77.0/24"), netip.MustParsePrefix("fd77::/64")}); err != nil {
		t.Fatal(err)
	}
	dial := func(p *pop) net.Conn {
		c, err := p.DialContext(within(t, 20*time.Second), "tcp", b.at(80).String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	asks(t, dial(a), "before")
	open := dial(a)
	before, _ := linkNamed(name)
	a.killed(t)
	asks(t, open, "the kernel goes on by itself")

	// Another POP may not have it.
	cfg := a.cfg
	cfg.Node = "pop-other"
	if d, err := Open(cfg, zerolog.Nop()); err == nil {
		d.Close()
		t.Fatal("another's was opened")
	} else if !errors.Is(err, ErrForeign) {
		t.Error(err)
	}
	again := newPOP(t, 205, onKernel(12), func(cfg *Config) { cfg.PrivateKey, cfg.Port = a.private, a.Port() })
	again.keys = a.keys
	if now, _ := linkNamed(name); before == nil || now == nil || now.Attrs().Index != before.Attrs().Index {
		t.Errorf("interface %v, want it to be the same: %v", now, before)
	}
	if peers, err := again.Peers(); len(peers) != 0 || err != nil {
		t.Errorf("peers of the killed one: %+v, %v", peers, err)
	}
	if routes := ip(t, "route") + ip(t, "-6", "route"); strings.Contains(routes, "192.168.77.0/24") || strings.Contains(routes, "fd77::/64") {
		t.Errorf("routes of the killed one:\n%s", routes)
	}
	if is, err := readSwitch("/proc/sys/net/ipv4/conf/" + name + "/forwarding"); is || err != nil {
		t.Errorf("it forwards on, %v", err)
	}
	again.follow(t, b.peer())
	asks(t, open, "after")
	asks(t, dial(again), "after")

	// With another key, port and address, too.
	again.killed(t)
	other := newPOP(t, 207, onKernel(12))
	if other.Port() == again.Port() || other.Port() == 0 {
		t.Errorf("port %d, was %d", other.Port(), again.Port())
	}
	if now := ip(t, "addr", "show", "dev", name); strings.Contains(now, "10.50.0.205") || !strings.Contains(now, "10.50.0.207") {
		t.Errorf("addresses:\n%s", now)
	}
	if err := b.Configure(diff([]wg.Peer{a.peer()}, []wg.Peer{other.peer()})); err != nil {
		t.Fatal(err)
	}
	other.follow(t, b.peer())
	asks(t, dial(other), "hello")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	noInterface(t, name)
}
