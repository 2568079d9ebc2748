package device

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/edgeproxy/edgeproxy/wg"
)

// echo answers every connection until the test ends.
func (p *pop) echo(t testing.TB, port uint16) {
	t.Helper()
	for _, at := range p.families(port) {
		l, err := p.Listen(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		ended := make(chan struct{})
		t.Cleanup(func() {
			l.Close()
			close(ended)
			serving.Wait()
		})
		serving.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				done := make(chan struct{})
				serving.Go(func() { defer close(done); io.Copy(c, c) })
				serving.Go(func() { // the other side may be gone without a word
					defer c.Close()
					select {
					case <-done:
					case <-ended:
					}
				})
			}
		})
	}
}

// asks sends a word through c and expects it back.
func asks(t testing.TB, c net.Conn, word string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := fmt.Fprint(c, word); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(word))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != word {
		t.Fatalf("asked %q, answer %q: %v", word, got, err)
	}
}

// status is what p knows of o; the zero one if it does not know it.
func (p *pop) status(t testing.TB, key wg.Key) wg.Status {
	t.Helper()
	peers, err := p.Peers()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range peers {
		if s.Key == key {
			return s
		}
	}
	return wg.Status{}
}

// sentInVain: something was sent to the peer, and nothing came back.
func (p *pop) sentInVain(t testing.TB, key wg.Key) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); p.status(t, key).Sent == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nothing was sent: %+v", p.status(t, key))
		}
	}
	if s := p.status(t, key); s.Received != 0 {
		t.Errorf("want no answer: %+v", s)
	}
}

// tunnels are the tests of what every kind of device does. Of the devices one
// is changed by on; the others are on the netstack.
var tunnels = map[string]func(t *testing.T, on func(*Config)){
	"Forward":            testForward,
	"KeyChange":          testKeyChange,
	"RoamingIsKept":      testRoamingIsKept,
	"OwnAddressesChange": testOwnAddressesChange,
}

func TestTunnels(t *testing.T) {
	for name, test := range tunnels {
		t.Run(name, func(t *testing.T) { test(t, func(*Config) {}) })
	}
}

func testForward(t *testing.T, on func(*Config)) {
	hub, a, b := newPOP(t, 1, forwards, on), newPOP(t, 2), newPOP(t, 3)
	star(t, hub, a, b)
	b.echo(t, 80)
	big := strings.Repeat("0123456789", 300_000)
	for family, at := range b.families(80) {
		t.Run(family, func(t *testing.T) {
			if family == "IPv6" && hub.Mode() != Netstack && !forwardsIPv6() {
				t.Skip("this kernel does not forward IPv6 (sysctl -w net.ipv6.conf.all.forwarding=1)")
			}
			c := a.dialTCP(t, at)
			asks(t, c, "through the hub")
			go fmt.Fprint(c, big)
			got := make([]byte, len(big))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, []byte(big)) {
				t.Errorf("what came back is not what was sent: %v", err)
			}
		})
	}
	if err := hub.SetForwarding(false); err != nil {
		t.Fatal(err)
	}
	if c, err := a.DialContext(within(t, 300*time.Millisecond), "tcp", b.at(80).String()); err == nil {
		c.Close()
		t.Error("a hub that does not forward did")
	}
}

// forwardsIPv6 says whether this machine does so for an interface, or for all.
func forwardsIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6/conf/all/force_forwarding")
	all, _ := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
	return err == nil || strings.HasPrefix(string(all), "1")
}

func testKeyChange(t *testing.T, on func(*Config)) {
	a, b := newPOP(t, 1, on), newPOP(t, 2)
	join(t, a, b)
	b.echo(t, 80)
	c, err := a.DialContext(within(t, 20*time.Second), "tcp", b.at(80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	asks(t, c, "before")

	before := a.peer()
	a.keys = newKeys(t)
	if err := b.Configure(diff([]wg.Peer{before}, []wg.Peer{a.peer()})); err != nil {
		t.Fatal(err)
	}
	if err := a.SetPrivateKey(a.private); err != nil {
		t.Fatal(err)
	}
	asks(t, c, "after")
	if s := b.status(t, a.public); s.Handshake.IsZero() || s.Received == 0 {
		t.Errorf("nothing came by the new key: %+v", s)
	}
	if s := b.status(t, before.Key); s.Key == before.Key {
		t.Error("the old key is still there")
	}
	if s := a.status(t, b.public); !slices.Contains(s.AllowedIPs, netip.PrefixFrom(b.v6, 128)) {
		t.Errorf("the peer has lost its addresses: %+v", s)
	}
}

func testRoamingIsKept(t *testing.T, on func(*Config)) {
	a, b, other := newPOP(t, 1, on), newPOP(t, 2), newPOP(t, 3)
	a.echo(t, 80)
	// a thinks b elsewhere, until b calls.
	wrong := b.peer()
	wrong.Endpoint = netip.MustParseAddrPort("127.0.0.1:9")
	a.follow(t, wrong)
	b.follow(t, a.peer())
	c := b.dialTCP(t, a.at(80))
	asks(t, c, "here I am")
	if got := a.status(t, b.public).Endpoint; got != b.endpoint() {
		t.Fatalf("endpoint %s, want %s", got, b.endpoint())
	}
	// Another peer comes, and this one gets another address.
	more := wrong
	more.AllowedIPs = append([]netip.Prefix{netip.MustParsePrefix("10.50.9.0/24")}, wrong.AllowedIPs...)
	more.Keepalive = wg.Keepalive
	for range 2 { // twice is as once
		if err := a.Configure(diff([]wg.Peer{wrong}, []wg.Peer{more, other.peer()})); err != nil {
			t.Fatal(err)
		}
	}
	s := a.status(t, b.public)
	if s.Endpoint != b.endpoint() {
		t.Errorf("endpoint %s, want it kept at %s", s.Endpoint, b.endpoint())
	}
	if len(s.AllowedIPs) != 3 || s.Keepalive != wg.Keepalive {
		t.Errorf("the change has not come: %+v", s)
	}
	asks(t, c, "still here")
	more2 := more
	more2.Endpoint = netip.MustParseAddrPort("[::1]:9")
	for n := 0; a.status(t, b.public).Endpoint != more2.Endpoint; n++ { // what b has still to say moves it back
		if n == 100 {
			t.Fatalf("endpoint %s, want the new one", a.status(t, b.public).Endpoint)
		}
		if err := a.Configure(diff([]wg.Peer{more}, []wg.Peer{more2})); err != nil {
			t.Fatal(err)
		}
	}
	// A part of a peer that is not there makes none, and to remove it is nothing.
	stranger := wg.Change{Peer: wg.Peer{Key: newKeys(t).public, Endpoint: b.endpoint()}, NewEndpoint: true}
	gone := wg.Change{Peer: wg.Peer{Key: newKeys(t).public}, Remove: true}
	if err := a.Configure([]wg.Change{stranger, gone}); err != nil {
		t.Fatal(err)
	}
	if peers, err := a.Peers(); len(peers) != 2 || err != nil {
		t.Errorf("%d peers, %v, want 2", len(peers), err)
	}
}

func TestStrangersGetNoAnswer(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	b.echo(t, 80)
	b.follow(t, wg.Peer{Key: newKeys(t).public, AllowedIPs: []netip.Prefix{netip.PrefixFrom(a.v4, 32)}})
	t.Run("unknown peer", func(t *testing.T) {
		a.follow(t, b.peer())
		if _, err := a.DialContext(within(t, 300*time.Millisecond), "tcp", b.at(80).String()); err == nil {
			t.Error("connected")
		}
		a.sentInVain(t, b.public)
	})
	t.Run("wrong key", func(t *testing.T) {
		wrong := b.peer()
		wrong.Key = newKeys(t).public
		if err := a.Configure(diff([]wg.Peer{b.peer()}, []wg.Peer{wrong})); err != nil {
			t.Fatal(err)
		}
		if _, err := a.DialContext(within(t, 300*time.Millisecond), "tcp", b.at(80).String()); err == nil {
			t.Error("connected")
		}
		a.sentInVain(t, wrong.Key)
	})
}

func testOwnAddressesChange(t *testing.T, on func(*Config)) {
	a, b := newPOP(t, 1), newPOP(t, 2, on)
	join(t, a, b)
	b.echo(t, 80)
	a.dialTCP(t, b.at(80)).Close()
	before := b.peer()
	b.v4 = netip.MustParseAddr("10.50.7.7")
	if err := b.SetAddresses([]netip.Prefix{netip.PrefixFrom(b.v4, 16), netip.PrefixFrom(b.v6, 48)}); err != nil {
		t.Fatal(err)
	}
	if err := a.Configure(diff([]wg.Peer{before}, []wg.Peer{b.peer()})); err != nil {
		t.Fatal(err)
	}
	b.serveOnce(t, b.at(81))
	asks(t, a.dialTCP(t, b.at(81)), "new address")
	asks(t, a.dialTCP(t, netip.AddrPortFrom(b.v6, 80)), "the other one stays")
	if _, err := b.Listen(t.Context(), netip.MustParseAddrPort("10.50.0.2:82")); err == nil {
		t.Error("listens on the old address")
	}
}

func (p *pop) serveOnce(t *testing.T, at netip.AddrPort) {
	t.Helper()
	done := p.serve(t, at, func(c net.Conn) error { defer c.Close(); _, err := io.Copy(c, c); return err })
	t.Cleanup(func() { <-done })
}

func TestOpenRefuses(t *testing.T) {
	taken := newPOP(t, 1)
	good := Config{Mode: Netstack, PrivateKey: newKeys(t).private, Addresses: []netip.Prefix{netip.MustParsePrefix("10.50.0.9/16")}}
	for _, c := range []struct {
		name   string
		change func(*Config)
		is     error
		says   string
	}{
		{"port taken", func(c *Config) { c.Port = taken.Port() }, ErrPortTaken, fmt.Sprintf("UDP port %d is taken: name another with --wg-port", taken.Port())},
		{"MTU too small for IPv6", func(c *Config) { c.MTU = 1279; c.Addresses = append(c.Addresses, netip.MustParsePrefix("fd50::9/48")) }, ErrMTU, "MTU 1279 is too small for IPv6: give --wg-mtu at least 1280"},
		{"MTU too small", func(c *Config) { c.MTU = 575 }, ErrMTU, "MTU 575 is too small: give --wg-mtu at least 576"},
		{"MTU too large", func(c *Config) { c.MTU = 65456 }, ErrMTU, "MTU 65456 is too large: give --wg-mtu at most 65455"},
		{"mode", func(c *Config) { c.Mode = "tap" }, nil, "want kernel, tun or netstack"},
		{"no key", func(c *Config) { c.PrivateKey = [32]byte{} }, nil, "private key"},
		{"no name", func(c *Config) { c.Mode = TUN }, nil, "--wg-interface"},
		{"path", func(c *Config) { c.Interface = "../wg0" }, nil, "--wg-interface"},
		{"address", func(c *Config) { c.Addresses = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.1/120")} }, nil, "own address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := good
			cfg.Addresses = slices.Clone(good.Addresses)
			c.change(&cfg)
			d, err := Open(cfg, zerolog.Nop())
			if err == nil {
				d.Close()
				t.Fatal("opened")
			}
			if c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q, want %q", err, c.says)
			}
		})
	}
}

func TestClose(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	b.echo(t, 80)
	c := a.dialTCP(t, b.at(80))
	asks(t, c, "hello")
	result := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); result <- err }()
	reset := b.serve(t, b.at(81), func(c net.Conn) error {
		defer c.Close()
		_, err := io.Copy(io.Discard, c)
		return err
	})
	asked, err := a.DialContext(within(t, 20*time.Second), "tcp", b.at(81).String())
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	l, err := a.Listen(t.Context(), a.at(80))
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() { _, err := l.Accept(); accepted <- err }()
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for what, ended := range map[string]chan error{"read": result, "accept": accepted} {
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%s has not failed", what)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s still waits", what)
		}
	}
	// The other side need not find out by itself.
	select {
	case err := <-reset:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side read %v, want ECONNRESET", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the other side still waits")
	}
	if err := a.Configure(diff(nil, []wg.Peer{b.peer()})); !errors.Is(err, net.ErrClosed) {
		t.Errorf("configure after close: %v, want ErrClosed", err)
	}
	if _, err := a.Peers(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("peers after close: %v, want ErrClosed", err)
	}
	if _, err := a.DialContext(within(t, time.Second), "tcp", b.at(80).String()); err == nil {
		t.Error("dialed after close")
	}
	select {
	case err := <-a.Failed():
		t.Errorf("failed: %v", err)
	default:
	}
	// The port is free again.
	again := newPOP(t, 3, func(cfg *Config) { cfg.Port = a.Port() })
	if again.Port() != a.Port() {
		t.Errorf("port %d, want %d", again.Port(), a.Port())
	}
}
