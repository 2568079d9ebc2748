package clustertests

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// rowAt is a row at an address where nobody is asked to be.
func rowAt(id, app, region, addr string) row {
	r := at(id, region, netip.MustParseAddrPort(addr))
	r.app = app
	return r
}

// shopRows are an app with a backend in three regions.
func shopRows() []row {
	return []row{rowAt("sa-a", "shop", "sa", "10.50.1.1:8080"), rowAt("eu-a", "shop", "eu", "10.50.3.1:8443"), rowAt("us-six", "shop", "us", "[fd50:ed9e:0:2::1]:80")}
}

// TestDNS: every kind of name and record, as dig asks for it.
func TestDNS(t *testing.T) {
	t.Parallel()
	p := startPOP(t, shopRows(), withDNS, unchecked, "EDGEPROXY_NODE_ID=sa-pop", "EDGEPROXY_ADVERTISE_ADDR=127.0.0.1")
	for _, c := range []struct {
		lookup
		want string
	}{
		{lookup{name: "shop.internal", qtype: "A"}, "10.50.1.1\n10.50.3.1"},
		{lookup{name: "shop.internal", qtype: "AAAA"}, "fd50:ed9e:0:2::1"},
		{lookup{name: "SHOP.Internal", qtype: "A", tcp: true}, "10.50.1.1\n10.50.3.1"},
		{lookup{name: "eu.shop.internal", qtype: "A"}, "10.50.3.1"},
		{lookup{name: "nearest.shop.internal", qtype: "A"}, "10.50.1.1"},
		{lookup{name: "nearest.shop.internal", qtype: "A", subnet: "78.46.0.0/24"}, "10.50.3.1"},
		{lookup{name: "shop.internal", qtype: "A", subnet: "2003::/32"}, "10.50.3.1\n10.50.1.1"},
		{lookup{name: "shop.internal", qtype: "A", subnet: "200.160.2.0/24"}, "10.50.1.1\n10.50.3.1"},
		{lookup{name: "sa-a.backends.internal", qtype: "A"}, "10.50.1.1"},
		{lookup{name: "eu.backends.internal", qtype: "A"}, "10.50.3.1"},
		{lookup{name: "sa-pop.pops.internal", qtype: "A"}, "127.0.0.1"},
		{lookup{name: "sa.pops.internal", qtype: "A"}, "127.0.0.1"},
		{lookup{name: "_shop._tcp.internal", qtype: "SRV"}, "0 100 8080 sa-a.backends.internal.\n2 100 80 us-six.backends.internal.\n2 100 8443 eu-a.backends.internal."},
		{lookup{name: "regions.internal", qtype: "TXT"}, `"eu,sa,us"`},
		{lookup{name: "pops.internal", qtype: "TXT"}, `"node=sa-pop,region=sa,ip=127.0.0.1"`},
		{lookup{name: "1.3.50.10.in-addr.arpa", qtype: "PTR"}, "eu-a.backends.internal."},
		{lookup{name: "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.0.0.0.0.0.0.0.e.9.d.e.0.5.d.f.ip6.arpa", qtype: "PTR"}, "us-six.backends.internal."},
		{lookup{name: "internal", qtype: "NS"}, "ns.internal."},
		{lookup{name: "ns.internal", qtype: "A"}, "127.0.0.1"},
		{lookup{name: "shop.internal", qtype: "MX"}, ""},
		{lookup{name: "nobody.internal", qtype: "A"}, ""},
	} {
		if got := p.dig(t, c.lookup); got != c.want {
			t.Errorf("%+v: %q, want %q", c.lookup, got, c.want)
		}
	}
	for name, want := range map[string]int{
		"nobody.internal": dns.RcodeNameError, "pops.internal": dns.RcodeSuccess, "backends.internal": dns.RcodeSuccess,
		"ap.shop.internal": dns.RcodeNameError, "example.com": dns.RcodeRefused, "9.9.50.10.in-addr.arpa": dns.RcodeNameError,
	} {
		m := p.resolve(t, lookup{name: name, qtype: "A"})
		if m.Rcode != want || len(m.Answer) > 0 {
			t.Errorf("%s: %v, want %s without an answer", name, m, dns.RcodeToString[want])
		}
		if want == dns.RcodeRefused {
			continue
		}
		if len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA || m.Ns[0].Header().Ttl > 5 {
			t.Errorf("%s: %v, want the SOA, for 5 s", name, m.Ns)
		}
	}
	if st := p.status(t); st.DNS != p.DNS || st.DNS == "" {
		t.Errorf("status says %q, the address file %q", st.DNS, p.DNS)
	}
	if n := p.metric(t, "edgeproxy_dns_queries_total", `proto="udp"`, `rcode="NXDOMAIN"`); n < 3 {
		t.Errorf("%v answers NXDOMAIN counted, want 3 at least", n)
	}
	if n := p.metric(t, "edgeproxy_bindings"); n != 0 {
		t.Errorf("%v bindings after queries, want none", n)
	}
}

// TestDNSResolvers: what programs use finds names: getaddrinfo's order of
// questions, SRV, TXT and names of addresses.
func TestDNSResolvers(t *testing.T) {
	t.Parallel()
	p := startPOP(t, shopRows(), withDNS, unchecked)
	r := p.resolver()
	addrs, err := r.LookupHost(t.Context(), "shop.internal.")
	slices.Sort(addrs)
	if want := []string{"10.50.1.1", "10.50.3.1", "fd50:ed9e:0:2::1"}; err != nil || !slices.Equal(addrs, want) {
		t.Errorf("%v, %v, want %v", addrs, err, want)
	}
	_, srv, err := r.LookupSRV(t.Context(), "shop", "tcp", "internal.")
	if err != nil || len(srv) != 3 || srv[0].Target != "sa-a.backends.internal." || srv[0].Port != 8080 {
		t.Errorf("%v, %v", srv, err)
	}
	if text, err := r.LookupTXT(t.Context(), "regions.internal."); err != nil || !slices.Equal(text, []string{"eu,sa,us"}) {
		t.Errorf("%q, %v", text, err)
	}
	if names, err := r.LookupAddr(t.Context(), "10.50.1.1"); err != nil || !slices.Equal(names, []string{"sa-a.backends.internal."}) {
		t.Errorf("%q, %v", names, err)
	}
	if _, err := r.LookupHost(t.Context(), "nobody.internal."); !notFound(err) {
		t.Errorf("a name that is not there: %v", err)
	}
}

// TestDNSLikeSystemdResolved: A and AAAA at once from one socket, each letter
// in either case, with EDNS and DO; first with what a server may not know.
func TestDNSLikeSystemdResolved(t *testing.T) {
	t.Parallel()
	p := startPOP(t, shopRows(), withDNS, unchecked)
	conn, err := net.Dial("udp", p.DNS)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(soon))
	name := strings.Map(func(c rune) rune {
		if rand.N(2) == 0 {
			return []rune(strings.ToUpper(string(c)))[0]
		}
		return c
	}, "nearest.shop.internal.")
	asked := map[uint16]dns.Question{}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSOA, dns.TypeDS} {
		m := new(dns.Msg).SetQuestion(name, qtype)
		m.AuthenticatedData = true
		m.SetEdns0(65494, true)
		asked[m.Id] = m.Question[0]
		if err := (&dns.Conn{Conn: conn}).WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	for range len(asked) {
		m, err := (&dns.Conn{Conn: conn, UDPSize: 65494}).ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		q := m.Question[0]
		if q != asked[m.Id] || m.Rcode != dns.RcodeSuccess || m.IsEdns0() == nil || !m.IsEdns0().Do() || m.AuthenticatedData {
			t.Errorf("answer to %v: %v", asked[m.Id], m)
		}
		if want := q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA; (len(m.Answer) == 1) != want {
			t.Errorf("%s: %v", dns.TypeToString[q.Qtype], m.Answer)
		}
		delete(asked, m.Id)
	}
}

// TestDNSFollowsTheMesh: a row that somebody writes on one POP is in the
// answers of another in less than 100 ms; so are backends that go.
func TestDNSFollowsTheMesh(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2, withDNS, unchecked)
	writer := openSQL(t, m.pops[0].db)
	var took []time.Duration
	change := func(statement, name string, want ...string) {
		t.Helper()
		writer.do(t, statement)
		began := time.Now()
		if err := spin(func() error { return m.pops[1].finds(name, want...) }); err != nil {
			t.Fatal(err, states(m.pops...))
		}
		took = append(took, time.Since(began))
		<-time.After(20 * time.Millisecond)
	}
	change(insert(rowAt("a", "shop", "sa", "10.50.1.1:80")), "shop.internal", "10.50.1.1")
	for i := range often(10, 100) {
		two := fmt.Sprintf("10.50.1.%d", 2+i%200)
		change(insert(rowAt("b", "shop", "us", two+":80")), "shop.internal", "10.50.1.1", two)
		change("UPDATE backends SET wg_ip='10.50.2.1' WHERE id='b'", "b.backends.internal", "10.50.2.1")
		change("DELETE FROM backends WHERE id='b'", "shop.internal", "10.50.1.1")
	}
	t.Logf("from the commit on one POP to the answer of the other: %s", quantiles(took))
	slices.Sort(took)
	part := 4 // of the other tests at the same time the rest may be
	if wanted("long") {
		part = 2
	}
	if at := took[len(took)/part]; at > 100*time.Millisecond {
		t.Errorf("one in %d of the changes took less than %s only, want 100 ms", part, at)
	}
	if err := waitFor(soon, func() error {
		text := m.pops[0].dig(t, lookup{name: "pops.internal", qtype: "TXT"})
		if strings.Count(text, "node=") != 2 || !strings.Contains(text, "region=us") {
			return fmt.Errorf("POPs: %s", text)
		}
		return m.pops[0].finds(m.pops[1].Node+".pops.internal", strings.Split(m.pops[1].setting("EDGEPROXY_GOSSIP_ADDR"), ":")[0])
	}); err != nil {
		t.Error(err)
	}
}

// newDoorAt is newDoor at an address of its own.
func newDoorAt(t testing.TB, host string) *door {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{open: map[net.Conn]bool{}, addr: addrOf(ln)}
	d.serve(ln)
	t.Cleanup(d.shut)
	return d
}

// TestDNSLeavesOut: who is down is not answered, nor who is full, unless
// nobody else is left.
func TestDNSLeavesOut(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("needs more addresses of this machine than one")
	}
	one, two := newDoorAt(t, "127.0.0.5"), newDoorAt(t, "127.0.0.6")
	a, b := at("a", "sa", one.addr), at("b", "sa", two.addr)
	a.hard = 1
	p := startPOP(t, []row{a, b}, withDNS, noAffinity, "EDGEPROXY_HEALTH_CHECK=tcp interval=200ms timeout=1s rise=1 fall=1")
	is := func(want ...string) {
		t.Helper()
		eventually(t, soon, func() error { return p.finds("myapp.internal", want...) })
	}
	is("127.0.0.5", "127.0.0.6")
	p.sql(t, "UPDATE backends SET healthy=0 WHERE id='b'")
	is("127.0.0.5")
	v := p.visit(t, "")
	eventually(t, soon, func() error { return p.is("a", "full") })
	is("127.0.0.5") // and nobody else is there
	p.sql(t, "UPDATE backends SET healthy=1 WHERE id='b'")
	is("127.0.0.6")
	v.Close()
	is("127.0.0.5", "127.0.0.6")
	two.shut()
	is("127.0.0.5")
	one.shut()
	eventually(t, soon, func() error { return errors.Join(p.is("a", "down"), p.is("b", "down")) })
	is("127.0.0.5", "127.0.0.6") // better an address that may be down than none
}

// TestDNSLarge: what does not fit into a packet says so, and comes by TCP.
func TestDNSLarge(t *testing.T) {
	t.Parallel()
	var rows []row
	for i := range 60 {
		rows = append(rows, rowAt(fmt.Sprintf("a-backend-of-the-shop-%02d", i), "shop", "sa", fmt.Sprintf("10.50.1.%d:80", i+1)))
	}
	p := startPOP(t, rows, withDNS, unchecked)
	all := lookup{name: "_shop._tcp.internal", qtype: "SRV"}
	m := p.resolve(t, all)
	if m.Compress = true; !m.Truncated || m.Len() > 1232 {
		t.Errorf("by UDP: truncated %v, %d bytes", m.Truncated, m.Len())
	}
	if n := len(strings.Split(p.dig(t, all), "\n")); n != 60 { // dig asks again by TCP
		t.Errorf("dig has %d records, want 60", n)
	}
	all.tcp = true
	if m := p.resolve(t, all); m.Truncated || len(m.Answer) != 60 || len(m.Extra) != 61 {
		t.Errorf("by TCP: truncated %v, %d records, %d more", m.Truncated, len(m.Answer), len(m.Extra))
	}
	if m := p.resolve(t, lookup{name: "shop.internal", qtype: "A"}); len(m.Answer) != 8 || m.Truncated {
		t.Errorf("%d addresses, want the 8 best", len(m.Answer))
	}
}

// TestDNSJunk: thousands of packets that are no queries do the POP no harm.
func TestDNSJunk(t *testing.T) {
	t.Parallel()
	p := startPOP(t, shopRows(), withDNS, unchecked)
	r := pick(t)
	good, err := new(dns.Msg).SetQuestion("shop.internal.", dns.TypeA).SetEdns0(1232, true).Pack()
	if err != nil {
		t.Fatal(err)
	}
	junk := func() []byte {
		if r.IntN(2) == 0 { // of a query some bytes
			b := slices.Clone(good)
			for range 1 + r.IntN(4) {
				b[r.IntN(len(b))] = byte(r.Uint32())
			}
			return b[:r.IntN(len(b)+1)]
		}
		b := make([]byte, r.IntN(1400))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	udp, err := net.Dial("udp", p.DNS)
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for range 5000 {
		if _, err := udp.Write(junk()); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		tcp, err := net.Dial("tcp", p.DNS)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = tcp.Write(append(junk(), junk()...)) // it may be thrown out
		tcp.Close()
	}
	eventually(t, soon, func() error { return p.finds("shop.internal", "10.50.1.1", "10.50.3.1") })
	if err := p.isReady(); err != nil {
		t.Error(err)
	}
}

// TestDNSForwards: other names come from the servers that the POP is told of,
// here another POP with a domain of its own.
func TestDNSForwards(t *testing.T) {
	t.Parallel()
	other := startPOP(t, shopRows(), withDNS, unchecked, "EDGEPROXY_DNS_DOMAIN=mesh.example")
	p := startPOP(t, nil, withDNS, unchecked, "EDGEPROXY_DNS_FORWARD="+freeAddress(t)+","+other.DNS)
	m := p.resolve(t, lookup{name: "shop.mesh.example", qtype: "A"})
	if len(m.Answer) != 2 || m.Authoritative || !m.RecursionAvailable {
		t.Errorf("forwarded: %v", m)
	}
	if m := p.resolve(t, lookup{name: "nobody.mesh.example", qtype: "A", tcp: true}); m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
		t.Errorf("forwarded: %v", m)
	}
	if m := other.resolve(t, lookup{name: "shop.internal", qtype: "A"}); m.Rcode != dns.RcodeRefused {
		t.Errorf("not forwarded: %v", m)
	}
}

// TestDNSAddressTaken: it says which setting asks for the address, and what to do.
func TestDNSAddressTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	newPOP(t, "EDGEPROXY_DNS_ADDR="+taken.LocalAddr().String()).refuses(t, 1, "EDGEPROXY_DNS_ADDR", "in use", "choose another port")
}
