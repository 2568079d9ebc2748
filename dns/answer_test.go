package dns

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/miekg/dns"
)

// ask answers without sockets: a name and a type, by a client or for a network.
func ask(s *Server, now time.Time, name, qtype, who string) answer {
	q := question{name: dns.Fqdn(name), qtype: dns.StringToType[qtype], limit: mostTCP}
	if who != "" {
		q.client = client{addr: netip.MustParseAddr(who), exact: true}
	}
	z := s.zoneOf(dns.CanonicalName(q.name))
	return s.current(now).answer(q, z, s.mesh, now)
}

// shown is an answer as text, a record a line.
func shown(a answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", dns.RcodeToString[a.rcode])
	for _, part := range []struct {
		mark    string
		records []dns.RR
	}{{"", a.records}, {"authority ", a.authority}, {"additional ", a.further}} {
		for _, rr := range part.records {
			fmt.Fprintf(&b, "  %s%s\n", part.mark, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return b.String()
}

// questions are what the golden file answers, of clients in Brazil unless they
// say otherwise.
const questions = `
shop.internal A
shop.internal A 93.184.216.34
shop.internal AAAA
SHOP.InterNAL A
eu.shop.internal A
eu.shop.internal AAAA
us.shop.internal AAAA
ap.shop.internal A
xx.shop.internal A
nearest.shop.internal A
nearest.shop.internal A 2a00::1
nearest.shop.internal AAAA
idle.internal A
old.internal A
nobody.internal A
spare.internal A
nearest.spare.internal AAAA
eu.spare.internal A
_spare._tcp.internal SRV
my\.app.internal A
my.app.internal A
sa.my.app.internal A
app.internal A
gr\195\182\195\159e.internal A
sa-a.backends.internal A
sa-a.backends.internal AAAA
ap-a.backends.internal A
ap-b.backends.internal A
my\ db.backends.internal A
sa.backends.internal A
us.backends.internal A
eu.backends.internal A
backends.internal A
sa-1.pops.internal A
sa-1.pops.internal AAAA
sa-2.pops.internal A
us-1.example.pops.internal A
us-1\.example.pops.internal A
example.pops.internal A
sa.pops.internal A
eu.pops.internal A
xx.pops.internal A
pops.internal A
pops.internal TXT
regions.internal TXT
laptop.peers.internal AAAA
peers.internal A
_shop._tcp.internal SRV
_shop._tcp.internal SRV 93.184.216.34
_shop._tcp.internal A
_my.app._tcp.internal SRV
_odd._tcp.internal SRV
_tcp.internal SRV
_nobody._tcp.internal SRV
internal SOA
internal NS
internal A
ns.internal A
shop.internal ANY
shop.internal MX
shop.internal CNAME
7.0.50.10.in-addr.arpa PTR
1.1.50.10.in-addr.arpa PTR
9.1.50.10.in-addr.arpa PTR
3.1.50.10.in-addr.arpa PTR
1.50.10.in-addr.arpa PTR
9.50.10.in-addr.arpa PTR
50.10.in-addr.arpa SOA
7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.9.d.e.0.5.d.f.ip6.arpa PTR
e.9.d.e.0.5.d.f.ip6.arpa PTR
0.0.0.0.e.9.d.e.0.5.d.f.ip6.arpa NS
`

// TestAnswers compares with testdata/answers.txt, written with -update.
func TestAnswers(t *testing.T) {
	s := newServer(t, example())
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(questions)) {
		fields := strings.Fields(strings.ReplaceAll(line, `\ `, `\032`))
		who := "200.160.2.3"
		if len(fields) == 3 {
			who = fields[2]
		}
		q := strings.Join(fields, " ")
		if s.zoneOf(dns.CanonicalName(dns.Fqdn(fields[0]))) == nil {
			fmt.Fprintf(&b, "%s: not ours\n", q)
			continue
		}
		name := strings.ReplaceAll(fields[0], `\032`, `\ `) // as package miekg/dns reads it from a packet
		fmt.Fprintf(&b, "%s: %s", q, shown(ask(s, noon, name, fields[1], who)))
	}
	const golden = "testdata/answers.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("answers differ from %s; got\n%s", golden, b.String())
	}
}

// ips are the addresses of an answer, in their order.
func ips(a answer) string {
	var list []string
	for _, rr := range a.records {
		switch rr := rr.(type) {
		case *dns.A:
			list = append(list, rr.A.String())
		case *dns.AAAA:
			list = append(list, rr.AAAA.String())
		}
	}
	return strings.Join(list, " ")
}

// TestAnswersFollowThePicture: what is down, full or drained is not answered
// any more, unless all is; and the next answer knows of a row that changed.
func TestAnswersFollowThePicture(t *testing.T) {
	p := newPicture(Roster{}, backend("a", "shop", "sa", "10.50.1.1:80", full), backend("b", "shop", "sa", "10.50.1.2:80"))
	s := newServer(t, p)
	now := noon
	is := func(what, want string) {
		t.Helper()
		now = now.Add(time.Second)
		if got := ips(ask(s, now, "shop.internal", "A", "200.160.2.3")); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	p.connect("a", 1)
	is("one is full", "10.50.1.2")
	p.down("b")
	is("the other one is down: better a full one", "10.50.1.1")
	p.connect("a", -1)
	is("it has room again", "10.50.1.1")
	p.down("a")
	is("both are down", "10.50.1.1 10.50.1.2")
	p.set(backend("a", "shop", "sa", "10.50.1.1:80", draining), backend("c", "shop", "sa", "10.50.1.3:80"))
	is("another is there", "10.50.1.3")
	p.set()
	if a := ask(s, now.Add(time.Second), "shop.internal", "A", ""); a.rcode != dns.RcodeNameError {
		t.Errorf("without backends: %s", shown(a))
	}
}

// TestMixedFamilies: who asks for one kind of address gets it, however many
// nearer backends have the other kind; and no address twice.
func TestMixedFamilies(t *testing.T) {
	var all []mesh.Backend
	for i := range 20 {
		all = append(all, backend(fmt.Sprintf("six-%02d", i), "shop", "sa", fmt.Sprintf("[fd50:ed9e::%d]:80", i+1)))
	}
	all = append(all, backend("four", "shop", "ap", "10.50.1.1:80"), backend("twin", "shop", "ap", "10.50.1.1:81"))
	s := newServer(t, newPicture(Roster{}, all...))
	if got := ips(ask(s, noon, "shop.internal", "A", "200.160.2.3")); got != "10.50.1.1" {
		t.Errorf("A: %q", got)
	}
	if got := ips(ask(s, noon, "nearest.shop.internal", "A", "200.160.2.3")); got != "10.50.1.1" {
		t.Errorf("nearest A: %q", got)
	}
	if got := strings.Fields(ips(ask(s, noon, "shop.internal", "AAAA", "200.160.2.3"))); len(got) != mostAddrs {
		t.Errorf("AAAA: %d addresses, want %d", len(got), mostAddrs)
	}
}

// TestTTL: it grows while the same backends take connections, and is short
// again when one of them does not, or another does.
func TestTTL(t *testing.T) {
	p := newPicture(Roster{POPs: []POP{{Node: "sa-1", Region: "sa", Alive: true, Addrs: addrsOf("10.50.0.7")}}},
		backend("a", "shop", "sa", "10.50.1.1:80"), backend("b", "shop", "sa", "10.50.1.2:80"))
	s := newServer(t, p)
	now := noon
	is := func(what, name, qtype string, want uint32) {
		t.Helper()
		if got := ask(s, now, name, qtype, "200.160.2.3").records[0].Header().Ttl; got != want {
			t.Errorf("%s: %s %s has TTL %d, want %d", what, name, qtype, got, want)
		}
	}
	is("at first", "shop.internal", "A", 5)
	is("at first", "sa-1.pops.internal", "A", 5)
	is("at first", "_shop._tcp.internal", "SRV", 5)
	now = now.Add(40 * time.Second)
	is("after 40 s", "shop.internal", "A", 10)
	is("after 40 s", "_shop._tcp.internal", "SRV", 10)
	now = now.Add(time.Hour)
	is("after an hour", "shop.internal", "A", 30)
	is("after an hour", "sa-1.pops.internal", "A", 30)
	p.down("b")
	now = now.Add(time.Second)
	is("one went down", "shop.internal", "A", 5)
	is("one went down", "sa-1.pops.internal", "A", 30)
	now = now.Add(time.Hour)
	p.set(backend("a", "shop", "sa", "10.50.1.1:80"), backend("b", "shop", "sa", "10.50.1.2:80"), backend("x", "other", "sa", "10.50.1.3:80"))
	is("another app came", "shop.internal", "A", 30)
	now = now.Add(time.Second)
	p.set(backend("a", "shop", "sa", "10.50.1.9:80"), backend("b", "shop", "sa", "10.50.1.2:80"))
	is("one has moved", "shop.internal", "A", 5)
	is("one has moved", "b.backends.internal", "A", 30)
	is("one has moved", "a.backends.internal", "A", 5)
}

// TestWeights are RFC 2782's: in proportion to the headroom, 1 to 65535.
func TestWeights(t *testing.T) {
	for _, c := range []struct {
		headroom []int64
		want     []uint16
	}{
		{[]int64{10, 30, 0}, []uint16{10, 30, 1}},
		{[]int64{1 << 30, 1 << 29, 1}, []uint16{65535, 32767, 1}},
		{[]int64{0, 0}, []uint16{1, 1}},
		{nil, []uint16{}},
	} {
		var ranked []route.Ranked
		for _, n := range c.headroom {
			ranked = append(ranked, route.Ranked{Headroom: n})
		}
		if got := weights(ranked); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%v: %v, want %v", c.headroom, got, c.want)
		}
	}
}

// TestEveryServiceIsFound: what SRV names has the address that it had, for
// whatever ids there are.
func TestEveryServiceIsFound(t *testing.T) {
	long := strings.Repeat("x", 64)
	s := newServer(t, newPicture(Roster{},
		backend("plain", "shop", "sa", "10.50.1.1:80"), backend("with.dots", "shop", "sa", "10.50.1.2:80"), backend("Upper_Case", "shop", "sa", "10.50.1.3:80"),
		backend("10.50.1.4:80", "shop", "sa", "10.50.1.4:80"), backend("a b\\c\"d(e)", "shop", "sa", "10.50.1.5:80"), backend("ünï", "shop", "sa", "10.50.1.6:80"),
		backend("sa", "shop", "sa", "10.50.1.7:80"), backend(long, "shop", "sa", "10.50.1.8:80"), backend("upper_case", "shop", "sa", "10.50.1.9:80"),
		backend("dot.", "shop", "sa", "10.50.1.10:80"), backend("..", "shop", "sa", "10.50.1.11:80"), backend(`back\`, "shop", "sa", "10.50.1.12:80"),
	))
	found := map[string]bool{}
	for _, rr := range ask(s, noon, "_shop._tcp.internal", "SRV", "").records {
		target := rr.(*dns.SRV).Target
		packet := make([]byte, 300)
		n, err := dns.PackDomainName(target, packet, 0, nil, false)
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		asked, _, err := dns.UnpackDomainName(packet[:n], 0) // as it comes back in a query
		if err != nil {
			t.Errorf("%s: %v", target, err)
		}
		got := ips(ask(s, noon, asked, "A", ""))
		if got == "" || strings.Contains(got, " ") || found[got] {
			t.Errorf("%s has %q", asked, got)
		}
		found[got] = true
	}
	// Not the one called like a region, not the one that is too long, not the second of two.
	if len(found) != 9 {
		t.Errorf("%d of 9 found: %v", len(found), found)
	}
}

// TestIndexIsMadeWhenThePictureChanges, and not for each query.
func TestIndexIsMadeWhenThePictureChanges(t *testing.T) {
	p := example()
	s := newServer(t, p)
	first := s.current(noon)
	if s.current(noon.Add(time.Hour)) != first {
		t.Error("made anew without a change")
	}
	p.roster.Store(&Roster{})
	if s.current(time.Now().Add(time.Hour)) == first {
		t.Error("not made anew with another roster")
	}
}
