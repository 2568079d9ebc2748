package dns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// brittle is a record that came in a packet and goes into none.
type brittle struct{ arrived bool }

func (b *brittle) String() string              { return "" }
func (b *brittle) Parse([]string) error        { return nil }
func (b *brittle) Copy(dns.PrivateRdata) error { return nil }
func (b *brittle) Len() int                    { return 1 }
func (b *brittle) Unpack([]byte) (int, error) {
	b.arrived = true
	return 1, nil
}

func (b *brittle) Pack([]byte) (int, error) {
	if b.arrived {
		panic("of all records this one")
	}
	return 1, nil
}

// TestPanicOfForwarded: another server's answer that makes this one fall over
// becomes SERVFAIL.
func TestPanicOfForwarded(t *testing.T) {
	const private = 0xff00
	dns.PrivateHandle("BRITTLE", private, func() dns.PrivateRdata { return &brittle{} })
	t.Cleanup(func() { dns.PrivateHandleRemove(private) }) // when nobody serves any more
	s := newServer(t, example(), resolver(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.PrivateRR{Hdr: header(q.Question[0].Name, private, 60), Data: &brittle{}}}
		return m
	}))
	udp, tcp := serving(t, s, "127.0.0.1")
	for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
		if m := exchanged(t, network, addr, query("example.com", private)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v", network, m)
		}
	}
	if n := s.Stats().Fell; n != 2 {
		t.Errorf("%d counted, want 2", n)
	}
}

// resolver is another DNS server, of which a test says what it answers; nil: nothing.
func resolver(t *testing.T, answer func(q *dns.Msg, tcp bool) *dns.Msg) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for tcp, srv := range map[bool]*dns.Server{true: {Listener: ln}, false: {PacketConn: conn}} {
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
			if m := answer(q, tcp); m != nil {
				_ = w.WriteMsg(m)
			}
		})
		started := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { _ = srv.ActivateAndServe() })
		<-started
		defer t.Cleanup(func() { _ = srv.Shutdown() })
	}
	t.Cleanup(running.Wait) // after the shutdowns, which are registered later
	return netip.MustParseAddrPort(ln.Addr().String())
}

func fixedAnswer(q *dns.Msg, ip string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: header(q.Question[0].Name, dns.TypeA, 60), A: net.ParseIP(ip)}}
	return m
}

// TestForward: other names come from the first server that answers, in whole
// also where that takes TCP, and as if the client had asked there itself.
func TestForward(t *testing.T) {
	var asked atomic.Pointer[dns.Msg]
	good := resolver(t, func(q *dns.Msg, tcp bool) *dns.Msg {
		asked.Store(q.Copy())
		m := fixedAnswer(q, "192.0.2.80")
		if strings.HasPrefix(q.Question[0].Name, "large") {
			m.Answer[0].(*dns.A).A = net.ParseIP("192.0.2.81")
			if m.Truncated = !tcp; !tcp {
				m.Answer = nil
			}
		}
		m.SetEdns0(1232, false)
		return m
	})
	failing := resolver(t, func(q *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) })
	guesser := resolver(t, func(q *dns.Msg, _ bool) *dns.Msg {
		m := fixedAnswer(q, "192.0.2.66")
		m.Id++ // as somebody does who has not seen the query
		return m
	})
	for name, servers := range map[string][]netip.AddrPort{"the first": {good}, "the second, the first fails": {failing, good}, "the second, the first only guesses": {guesser, good}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, example(), servers...)
			udp, tcp := serving(t, s, "127.0.0.1")
			failed := uint64(0)
			exchanged := func(t testing.TB, network, addr string, q *dns.Msg) (m *dns.Msg) {
				for range 5 { // a machine that stands still for as long as a server has is no answer either
					if m = exchanged(t, network, addr, q); m.Rcode != dns.RcodeServerFailure {
						break
					}
					failed++
				}
				return m
			}
			for network, addr := range map[string]string{"udp": udp, "tcp": tcp} {
				q := query("WwW.example.com", dns.TypeA, edns(1232, subnet("200.160.2.0/24")))
				m := exchanged(t, network, addr, q)
				if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.80" || !m.RecursionAvailable || m.Authoritative || m.Question[0] != q.Question[0] {
					t.Errorf("%s: %v", network, m)
				}
			}
			if m := exchanged(t, "udp", udp, query("large.example.com", dns.TypeA)); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != "192.0.2.81" || m.Truncated || m.IsEdns0() != nil {
				t.Errorf("large: %v", m)
			}
			if st := s.Stats(); st.Forwarded != [2]uint64{3, failed} {
				t.Errorf("counted %v", st.Forwarded)
			}
		})
	}
	t.Cleanup(func() {
		for _, o := range asked.Load().IsEdns0().Option {
			if _, is := o.(*dns.EDNS0_SUBNET); is {
				t.Error("the client's network went on to others")
			}
		}
	})
}

// TestForwardFails: where nobody answers, the client hears of it before it has
// given up; names of the mesh are answered meanwhile.
func TestForwardFails(t *testing.T) {
	silent := resolver(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	s := newServer(t, example(), silent)
	udp, _ := serving(t, s, "127.0.0.1")
	began := time.Now()
	done := make(chan *dns.Msg)
	go func() { done <- exchanged(t, "udp", udp, query("example.com", dns.TypeA)) }()
	exchanged(t, "udp", udp, query("shop.internal", dns.TypeA))
	if m := <-done; m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", m)
	}
	if took := time.Since(began); took < forwardTry || took > soon/2 {
		t.Errorf("SERVFAIL after %s", took)
	}
}

// TestForwardsForWhom: this is no resolver for the internet, and none that asks
// itself for ever.
func TestForwardsForWhom(t *testing.T) {
	s := newServer(t, example(), netip.MustParseAddrPort("192.0.2.53:53"))
	for from, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "192.168.1.1": true, "fd50:ed9e::9": true, "fe80::1": true, "::ffff:10.0.0.1": true, "169.254.1.1": true,
		"203.0.113.5": false, "8.8.8.8": false, "2001:db8::1": false, "::ffff:8.8.8.8": false, "100.64.0.1": false,
	} {
		packet, _ := query("example.com", dns.TypeA).Pack()
		r := s.respond(packet, netip.MustParseAddr(from), true, noon)
		if (r.forward != nil) != want {
			t.Errorf("%s: forwarded %v, want %v", from, r.forward != nil, want)
		}
		if m, _ := parse(t, r.packet); !want && (m.Rcode != dns.RcodeRefused || m.RecursionAvailable) {
			t.Errorf("%s: %v", from, m)
		}
	}
	hops := func(n byte) func(*dns.Msg) { return edns(1232, &dns.EDNS0_LOCAL{Code: hopsOption, Data: []byte{n}}) }
	for n, want := range map[byte]bool{0: true, 1: true, 2: false, 255: false} {
		packet, _ := query("example.com", dns.TypeA, hops(n)).Pack()
		if r := s.respond(packet, netip.MustParseAddr("127.0.0.1"), true, noon); (r.forward != nil) != want {
			t.Errorf("after %d servers: forwarded %v, want %v", n, r.forward != nil, want)
		}
	}
}

// TestForwardLoop: a server told to ask itself ends that soon.
func TestForwardLoop(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, example(), netip.MustParseAddrPort(ln.Addr().String()))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, []net.PacketConn{conn}, ln) }()
	m := exchanged(t, "udp", ln.Addr().String(), query("example.com", dns.TypeA))
	if m.Rcode != dns.RcodeRefused {
		t.Errorf("got %v", m)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	sum := uint64(0)
	for _, c := range s.Stats().Answers {
		sum += c.N
	}
	if sum != mostHops+1 {
		t.Errorf("%d answers, want %d", sum, mostHops+1)
	}
}

// FuzzForwarded: whatever another server says to a query, what the client gets
// is an answer to its own.
func FuzzForwarded(f *testing.F) {
	q := query("example.com", dns.TypeA, edns(1232))
	q.Id = 1 // not another one in each of the fuzzer's processes
	packet, _ := q.Pack()
	good, _ := fixedAnswer(q, "192.0.2.1").Pack()
	f.Add(good)
	f.Add(good[:20])
	req, _ := read(packet, netip.MustParseAddr("127.0.0.1"), true)
	f.Fuzz(func(t *testing.T, body []byte) {
		m := new(dns.Msg)
		if m.Unpack(body) != nil || !answers(m, &req.msg) {
			return
		}
		packet, _ := req.passedOn(m)
		out, n := parse(t, packet)
		if out.Id != q.Id || !out.Response || out.Question[0] != q.Question[0] || n > mostUDP {
			t.Fatalf("%d bytes: %v", n, out)
		}
	})
}
