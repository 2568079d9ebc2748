package dns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestRate: a network outside that asks very much by UDP is told to ask by TCP,
// and others are not.
func TestRate(t *testing.T) {
	s := newServer(t, example())
	s.rate.multiplier = 0x9e3779b97f4a7c15 // with which none of the networks below share a counter
	packet, err := query("shop.internal", dns.TypeA, edns(1232)).Pack()
	if err != nil {
		t.Fatal(err)
	}
	limited := func(from string, udp bool, after time.Duration) bool {
		t.Helper()
		m, n := parse(t, s.respond(packet, netip.MustParseAddr(from), udp, noon.Add(after)).packet)
		if m.Truncated != (len(m.Answer) == 0) || m.Rcode != dns.RcodeSuccess || m.Truncated && n > len(packet) {
			t.Fatalf("%s: %v", from, m)
		}
		return m.Truncated
	}
	for _, c := range []struct{ from, neighbour, other string }{
		{"203.0.113.5", "203.0.113.250", "203.0.114.5"},
		{"::ffff:198.51.100.1", "198.51.100.2", "198.51.101.1"},
		{"2001:db8:1:100::1", "2001:db8:1:1ff::1", "2001:db8:1:200::1"},
	} {
		for i := range mostPerSecond {
			if limited(c.from, true, time.Duration(i)) {
				t.Fatalf("%s is limited after %d answers", c.from, i)
			}
		}
		if !limited(c.from, true, 0) || !limited(c.neighbour, true, time.Second-1) {
			t.Errorf("%s: %d answers by UDP, and more", c.from, mostPerSecond)
		}
		if limited(c.from, false, 0) || limited(c.other, true, 0) {
			t.Errorf("%s: limited by TCP, or %s with it", c.from, c.other)
		}
		if limited(c.from, true, time.Second) {
			t.Errorf("%s is limited a second later", c.from)
		}
	}
	for _, from := range []string{"127.0.0.1", "10.1.2.3", "192.168.1.1", "fd50:ed9e::9", "::1"} {
		for range 2 * mostPerSecond {
			if limited(from, true, 0) {
				t.Fatalf("%s is limited", from)
			}
		}
	}
	if n := s.Stats().Limited; n != 6 {
		t.Errorf("%d counted, want 6", n)
	}
}

// TestConnectionsOfOneClient: a client outside has so many, and those of others stay.
func TestConnectionsOfOneClient(t *testing.T) {
	x := &tcp{Server: newServer(t, example()), conns: map[*tcpConn]struct{}{}}
	age := int64(0)
	admit := func(from string) *tcpConn {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		c := &tcpConn{Conn: here, from: netip.MustParseAddr(from)}
		age++
		c.active.Store(age)
		x.admit(c)
		return c
	}
	has := func(c *tcpConn) bool { _, is := x.conns[c]; return is }
	other := admit("203.0.113.9")
	for name, from := range map[string]func(i int) string{
		"IPv4": func(int) string { return "203.0.113.5" },
		"IPv6": func(i int) string { return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i)}).String() },
	} {
		var all []*tcpConn
		for i := range mostOfClient + 3 {
			all = append(all, admit(from(i)))
		}
		for i, c := range all {
			if has(c) != (i >= 3) {
				t.Errorf("%s: number %d of %d is there: %v", name, i, len(all), has(c))
			}
		}
	}
	for range mostConns - 2*mostOfClient - 1 {
		admit("10.1.2.3")
	}
	if !has(other) || len(x.conns) != mostConns {
		t.Errorf("%d connections, the first is there: %v", len(x.conns), has(other))
	}
	if admit("10.1.2.3"); has(other) || len(x.conns) != mostConns {
		t.Errorf("%d connections, the one that was silent for longest is there: %v", len(x.conns), has(other))
	}
}
