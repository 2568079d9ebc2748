package dns

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/miekg/dns"
)

var (
	outside = netip.MustParseAddr("203.0.113.5")
	brazil  = netip.MustParseAddr("200.160.2.3")
)

// query is one as resolvers send them, changed.
func query(name string, qtype uint16, change ...func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	for _, c := range change {
		c(m)
	}
	return m
}

func edns(size uint16, options ...dns.EDNS0) func(*dns.Msg) {
	return func(m *dns.Msg) {
		m.SetEdns0(size, true)
		m.IsEdns0().Option = options
	}
}

func subnet(prefix string) *dns.EDNS0_SUBNET {
	p := netip.MustParsePrefix(prefix)
	o := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: net.IP(p.Addr().AsSlice())}
	if p.Addr().Is6() {
		o.Family = 2
	}
	return o
}

// respondTo packs, responds and unpacks; nil: no answer.
func respondTo(t testing.TB, s *Server, m *dns.Msg, from netip.Addr, udp bool) (*dns.Msg, int) {
	t.Helper()
	packet, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, s.respond(packet, from, udp, noon).packet)
}

func parse(t testing.TB, packet []byte) (*dns.Msg, int) {
	t.Helper()
	if packet == nil {
		return nil, 0
	}
	var out dns.Msg
	if err := out.Unpack(packet); err != nil {
		t.Fatalf("answer %x: %v", packet, err)
	}
	return &out, len(packet)
}

// TestEDNS: RFC 6891 and what others build on it.
func TestEDNS(t *testing.T) {
	s := newServer(t, example())
	t.Run("none", func(t *testing.T) {
		m, _ := respondTo(t, s, query("shop.internal", dns.TypeA), brazil, true)
		if m.IsEdns0() != nil || !m.Authoritative || m.RecursionAvailable || !m.RecursionDesired {
			t.Errorf("got %v", m)
		}
	})
	t.Run("echoed", func(t *testing.T) {
		m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, edns(4096, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"})), brazil, true)
		opt := m.IsEdns0()
		if opt == nil || opt.UDPSize() != 1232 || !opt.Do() || opt.Version() != 0 || len(opt.Option) != 0 {
			t.Errorf("got %v", opt)
		}
	})
	t.Run("a later version", func(t *testing.T) {
		m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, edns(4096), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), brazil, true)
		if m.Rcode != dns.RcodeBadVers || len(m.Answer) != 0 || m.IsEdns0() == nil {
			t.Errorf("got %v", m)
		}
	})
	t.Run("two", func(t *testing.T) {
		m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, edns(4096), func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), brazil, true)
		if m.Rcode != dns.RcodeFormatError || m.IsEdns0() == nil {
			t.Errorf("got %v", m)
		}
	})
}

// TestClientSubnet: RFC 7871. The answer is for the network that is named.
func TestClientSubnet(t *testing.T) {
	s := newServer(t, example())
	for _, c := range []struct {
		name, subnet string
		want         string // the first address
		scope        uint8
	}{
		{"shop.internal", "200.160.2.0/24", "10.50.1.2", 24},
		{"shop.internal", "93.184.216.0/24", "10.50.3.2", 24},
		{"shop.internal", "93.184.0.0/16", "10.50.3.2", 16},
		{"shop.internal", "2a00:1:2:300::/56", "10.50.3.2", 56},
		{"shop.internal", "0.0.0.0/0", "10.50.1.2", 0}, // nobody in particular: as for this POP's region
		{"sa-a.backends.internal", "93.184.216.0/24", "10.50.1.1", 0},
	} {
		m, _ := respondTo(t, s, query(c.name, dns.TypeA, edns(1232, subnet(c.subnet))), outside, true)
		if len(m.Answer) == 0 || m.Answer[0].(*dns.A).A.String() != c.want {
			t.Errorf("%s for %s: %v, want %s first", c.name, c.subnet, m.Answer, c.want)
		}
		want := subnet(c.subnet)
		want.SourceScope = c.scope
		if opt := m.IsEdns0(); len(opt.Option) != 1 || opt.Option[0].String() != want.String() {
			t.Errorf("%s for %s: option %v, want %s", c.name, c.subnet, opt.Option, want)
		}
	}
	bad := subnet("200.160.2.0/24")
	bad.SourceScope = 24
	if m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, edns(1232, bad)), outside, true); m.Rcode != dns.RcodeFormatError {
		t.Errorf("a scope in a query: %v", m)
	}
	if m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, edns(1232, subnet("200.160.2.0/24"), subnet("200.160.2.0/24"))), outside, true); m.Rcode != dns.RcodeFormatError {
		t.Errorf("two networks: %v", m)
	}
	packet, _ := query("shop.internal", dns.TypeA, edns(1232, subnet("200.160.2.0/24"))).Pack()
	packet[len(packet)-1] = 7 // one octet of the three, and then a bit beyond a shorter prefix
	packet[len(packet)-5] = 17
	if m, _ := parse(t, s.respond(packet, outside, true, noon).packet); m.Rcode != dns.RcodeFormatError {
		t.Errorf("bits beyond the prefix: %v", m)
	}
}

// TestBoundClient: who has a backend already finds it first; a network never
// does, for others are in it.
func TestBoundClient(t *testing.T) {
	p := example()
	s := newServer(t, p)
	b, _ := p.router.Snapshot().Backend("us-a")
	p.router.Bind(route.Query{App: "shop", Client: brazil}, route.Choice{Backend: b}, noon)
	first := func(from netip.Addr, change ...func(*dns.Msg)) string {
		m, _ := respondTo(t, s, query("shop.internal", dns.TypeA, change...), from, true)
		return m.Answer[0].(*dns.A).A.String()
	}
	ours := netip.MustParseAddr("10.50.1.9")
	if got := first(brazil); got != "10.50.2.1" {
		t.Errorf("the client itself: %s", got)
	}
	if got := first(ours, edns(1232, subnet("200.160.2.3/32"))); got != "10.50.2.1" {
		t.Errorf("named by its resolver: %s", got)
	}
	if got := first(outside, edns(1232, subnet("200.160.2.3/32"))); got != "10.50.1.2" {
		t.Errorf("named by a stranger: %s", got)
	}
	if got := first(ours, edns(1232, subnet("200.160.2.0/24"))); got != "10.50.1.2" {
		t.Errorf("its network: %s", got)
	}
	if n := p.router.Bindings(); n != 1 {
		t.Errorf("%d bindings after queries, want the one from before", n)
	}
}

// many are n backends of an app.
func many(n int) (all []mesh.Backend) {
	for i := range n {
		all = append(all, backend(fmt.Sprintf("a-backend-with-a-long-name-%03d", i), "shop", "sa", fmt.Sprintf("10.50.1.%d:80", i+1)))
	}
	return all
}

// TestSizes: an answer never is longer than the client can take, and says so
// where something is missing; by TCP all of it comes.
func TestSizes(t *testing.T) {
	s := newServer(t, newPicture(Roster{}, many(60)...))
	for _, c := range []struct {
		name      string
		size      uint16 // 0: no EDNS
		udp       bool
		most      int
		truncated bool
	}{
		{"UDP without EDNS", 0, true, 512, true},
		{"UDP that says less than the least", 100, true, 512, true},
		{"UDP", 1232, true, 1232, true},
		{"UDP that says more than goes unfragmented", 65535, true, 1232, true},
		{"TCP", 0, false, 65535, false},
	} {
		q := query("_shop._tcp.internal", dns.TypeSRV)
		if c.size > 0 {
			edns(c.size)(q)
		}
		m, n := respondTo(t, s, q, outside, c.udp)
		if n > c.most || m.Truncated != c.truncated || (len(m.Answer) == 60) == c.truncated {
			t.Errorf("%s: %d bytes, truncated %v, %d records", c.name, n, m.Truncated, len(m.Answer))
		}
	}
	// What is only there to save a question does not make an answer incomplete.
	s = newServer(t, newPicture(Roster{}, many(15)...))
	m, n := respondTo(t, s, query("_shop._tcp.internal", dns.TypeSRV, edns(1232)), outside, true)
	if m.Truncated || len(m.Answer) != 15 || len(m.Extra) != 1 || n > 1232 {
		t.Errorf("15 services: %d bytes, truncated %v, %d records, %d more", n, m.Truncated, len(m.Answer), len(m.Extra))
	}
}

// TestRefusals are what this server does not do, and says so.
func TestRefusals(t *testing.T) {
	s := newServer(t, example())
	for _, c := range []struct {
		name  string
		m     *dns.Msg
		rcode int
	}{
		{"another name", query("example.com", dns.TypeA), dns.RcodeRefused},
		{"the root", query(".", dns.TypeNS), dns.RcodeRefused},
		{"a name that ends like ours", query("notinternal", dns.TypeA), dns.RcodeRefused},
		{"a label that ends like ours", query(`x\.internal`, dns.TypeA), dns.RcodeRefused},
		{"transfer", query("internal", dns.TypeAXFR), dns.RcodeRefused},
		{"part of one", query("internal", dns.TypeIXFR), dns.RcodeRefused},
		{"chaos", query("version.bind", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		{"any class", query("shop.internal", dns.TypeA, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused},
		{"no question", &dns.Msg{}, dns.RcodeFormatError},
		{"two questions", query("shop.internal", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"update", query("internal", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"notify", query("internal", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"status", query("internal", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), dns.RcodeNotImplemented},
	} {
		c.m.Id = 0xbeef
		m, _ := respondTo(t, s, c.m, outside, true)
		if m.Id != 0xbeef || m.Rcode != c.rcode || len(m.Answer) != 0 || m.Opcode != c.m.Opcode || m.Authoritative {
			t.Errorf("%s: %v, want %s", c.name, m, dns.RcodeToString[c.rcode])
		}
		edns(4096, subnet("200.160.2.0/24"))(c.m)
		m, _ = respondTo(t, s, c.m, outside, true)
		if opt := m.IsEdns0(); m.Rcode != c.rcode || opt == nil || opt.UDPSize() != mostUDP || opt.Version() != 0 {
			t.Errorf("%s with EDNS: %v, want %s and an OPT record", c.name, m, dns.RcodeToString[c.rcode])
		}
	}
	answer := query("shop.internal", dns.TypeA, func(m *dns.Msg) { m.Response = true })
	if m, _ := respondTo(t, s, answer, outside, true); m != nil {
		t.Errorf("an answer was answered: %v", m)
	}
	for _, junk := range []string{"", "x", "eleven byte", "\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", "\xbe\xef\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"} {
		r := s.respond([]byte(junk), outside, true, noon)
		if len(junk) < headerLen {
			if r.packet != nil || r.forward != nil {
				t.Errorf("%q was answered", junk)
			}
			continue
		}
		if m, _ := parse(t, r.packet); m.Id != 0xbeef || m.Rcode != dns.RcodeFormatError {
			t.Errorf("%q: %v", junk, m)
		}
	}
}

// TestCaseIsEchoed, which resolvers use to tell answers from guesses.
func TestCaseIsEchoed(t *testing.T) {
	s := newServer(t, example())
	for _, name := range []string{"ShOp.iNtErNaL.", "nObOdY.InTeRnAl."} {
		m, _ := respondTo(t, s, query(name, dns.TypeA), outside, true)
		if m.Question[0].Name != name || len(m.Answer) > 0 && m.Answer[0].Header().Name != name {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// TestNew: what an operator may set as domain.
func TestNew(t *testing.T) {
	for domain, ok := range map[string]bool{
		"": true, "internal": true, "Mesh.Example.net.": true, strings.Repeat("x", 64): false, strings.Repeat("a.", 51): false,
		"..": false, ".": false, "50.10.in-addr.arpa": false, "arpa": false,
	} {
		_, err := New(Config{Domain: domain, Overlay: overlayNetworks}, example(), newServer(t, example()).log)
		if (err == nil) != ok {
			t.Errorf("%q: %v", domain, err)
		}
	}
	s, err := New(Config{Domain: "Mesh.Example.net"}, example(), newServer(t, example()).log)
	if err != nil {
		t.Fatal(err)
	}
	if m, _ := respondTo(t, s, query("shop.mesh.example.NET", dns.TypeA), brazil, true); len(m.Answer) != 4 {
		t.Errorf("got %v", m)
	}
	if m, _ := respondTo(t, s, query("shop.internal", dns.TypeA), brazil, true); m.Rcode != dns.RcodeRefused {
		t.Errorf("got %v", m)
	}
}
