package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/miekg/dns"
)

// soon is how long anything may take on a busy machine.
const soon = 20 * time.Second

// serving runs the server on free ports of 127.0.0.1 until the test ends.
func serving(t *testing.T, s *Server, host string) (udp, tcp string) {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, []net.PacketConn{conn}, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(soon):
			t.Error("it does not end")
		}
	})
	return conn.LocalAddr().String(), ln.Addr().String()
}

func exchanged(t testing.TB, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: soon}
	in, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatalf("%s %s: %v", network, addr, err)
	}
	return in
}

// TestServe: the same by UDP and TCP.
func TestServe(t *testing.T) {
	s := newServer(t, example())
	udp, tcp := serving(t, s, "127.0.0.1")
	for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
		m := exchanged(t, network, addr, query("eu.shop.internal", dns.TypeA))
		if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "10.50.3.2" {
			t.Errorf("%s: %v", network, m)
		}
	}
	for _, c := range s.Stats().Answers {
		if c.Rcode != "NOERROR" || c.N != 1 {
			t.Errorf("counted %+v", c)
		}
	}
}

// TestAnswersFromTheAddressAsked: a socket of every address answers from the
// one that was asked, or the client would not take it.
func TestAnswersFromTheAddressAsked(t *testing.T) {
	udp, _ := serving(t, newServer(t, example()), "")
	_, port, _ := net.SplitHostPort(udp)
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "::1"} {
		probe, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("%s: %v", host, err)
			continue // not Linux, or no IPv6
		}
		probe.Close()
		exchanged(t, "udp", net.JoinHostPort(host, port), query("shop.internal", dns.TypeA)) // over a connected socket
	}
}

// TestPipelining: queries of one connection that are sent at once are all
// answered, also where bytes of them come one by one.
func TestPipelining(t *testing.T) {
	_, tcp := serving(t, newServer(t, example()), "127.0.0.1")
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	const n = 50
	var all []byte
	for i := range n {
		m := query("shop.internal", dns.TypeA)
		m.Id = uint16(i)
		packet, _ := m.Pack()
		all = append(binary.BigEndian.AppendUint16(all, uint16(len(packet))), packet...)
	}
	for i, b := range all[:100] {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(i, err)
		}
	}
	if _, err := conn.Write(all[100:]); err != nil {
		t.Fatal(err)
	}
	seen := map[uint16]bool{}
	for range n {
		m, err := (&dns.Conn{Conn: conn}).ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		seen[m.Id] = len(m.Answer) == 4
	}
	if len(seen) != n || seen[0] != true {
		t.Errorf("%d of %d answered", len(seen), n)
	}
}

// TestTooManyConnections: the one that says nothing for longest makes room.
func TestTooManyConnections(t *testing.T) {
	s := newServer(t, example())
	_, tcp := serving(t, s, "127.0.0.1")
	var all []net.Conn
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range mostConns {
		c, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for began := time.Now(); s.Stats().Connections < mostConns; <-time.After(time.Millisecond) {
		if time.Since(began) > soon {
			t.Fatalf("%d connections, want %d", s.Stats().Connections, mostConns)
		}
	}
	for range 3 {
		exchanged(t, "tcp", tcp, query("shop.internal", dns.TypeA))
	}
	_ = all[0].SetReadDeadline(time.Now().Add(soon))
	if _, err := all[0].Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the oldest one is there still: %v", err)
	}
	for began := time.Now(); s.Stats().Connections > mostConns; <-time.After(time.Millisecond) { // who has to go is gone soon
		if time.Since(began) > soon {
			t.Fatalf("%d connections, at most %d", s.Stats().Connections, mostConns)
		}
	}
}

// TestJunk: what is no query, by either way, does the others no harm.
func TestJunk(t *testing.T) {
	udp, tcp := serving(t, newServer(t, example()), "127.0.0.1")
	conn, err := net.Dial("udp", udp)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 500 {
		if _, err := conn.Write([]byte(strings.Repeat(string(rune('a'+i%26)), i*7%1400))); err != nil {
			t.Fatal(err)
		}
	}
	for _, junk := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00", "\xff\xff" + strings.Repeat("x", 65535), "\x00\x0c" + strings.Repeat("\xff", 12), "\x00"} {
		c, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte(junk)) // it may be thrown out before all of it is there
		c.Close()
	}
	patient := dns.Client{Timeout: soon / 5}
	for try := 1; ; try++ { // so much junk may have filled the socket
		if _, _, err := patient.Exchange(query("shop.internal", dns.TypeA), udp); err == nil {
			break
		} else if try == 5 {
			t.Fatal(err)
		}
	}
	exchanged(t, "tcp", tcp, query("shop.internal", dns.TypeA))
}

// falling is a mesh in which one app makes whoever asks for it panic.
type falling struct{ *picture }

func (f falling) Rank(q route.Query, only geo.Region, most int) []route.Ranked {
	if q.App == "old" {
		panic("of all apps this one")
	}
	return f.picture.Rank(q, only, most)
}

// TestPanic: a query that makes the server fall over is dropped, and counted;
// the next one is answered.
func TestPanic(t *testing.T) {
	p := example()
	p.set(backend("a", "old", "sa", "10.50.1.1:80"), backend("b", "shop", "sa", "10.50.1.2:80"))
	s := newServer(t, falling{p})
	udp, tcp := serving(t, s, "127.0.0.1")
	for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
		c := dns.Client{Net: network, Timeout: 50 * time.Millisecond}
		if m, _, err := c.Exchange(query("old.internal", dns.TypeA), addr); err == nil {
			t.Errorf("%s: %v", network, m)
		}
		exchanged(t, network, addr, query("shop.internal", dns.TypeA))
	}
	for began := time.Now(); s.Stats().Fell != 2; <-time.After(time.Millisecond) {
		if time.Since(began) > soon {
			t.Fatalf("%d counted, want 2", s.Stats().Fell)
		}
	}
}
