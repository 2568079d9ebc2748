package dns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/miekg/dns"
)

// FuzzQuery: whatever comes, nothing falls over, and what goes out is an answer
// to it: with its id, its question where there is one, and no longer than the
// client takes.
func FuzzQuery(f *testing.F) {
	s := newServer(f, example(), netip.MustParseAddrPort("192.0.2.53:53"))
	for _, m := range []*dns.Msg{
		query("shop.internal", dns.TypeA), query("_shop._tcp.internal", dns.TypeSRV, edns(4096, subnet("200.160.2.0/24"))),
		query("7.0.50.10.in-addr.arpa", dns.TypePTR), query("example.com", dns.TypeA, edns(1232, &dns.EDNS0_LOCAL{Code: hopsOption, Data: []byte{1}})),
		query("pops.internal", dns.TypeTXT), query("internal", dns.TypeAXFR), query("internal", dns.TypeANY, edns(0)), query(`a\.b\000.internal`, dns.TypeAAAA),
	} {
		packet, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet, true)
		f.Add(packet[:len(packet)-1], false)
	}
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		r := s.respond(packet, netip.MustParseAddr("10.1.2.3"), udp, noon)
		if r.forward != nil {
			if _, err := r.forward.onward(true).Pack(); err != nil {
				t.Fatalf("cannot be forwarded: %v", err)
			}
			r.packet = pack(r.forward.answer(dns.RcodeServerFailure, false), r.forward.limit)
		}
		if r.packet == nil {
			if len(packet) >= headerLen && packet[2]&0x80 == 0 {
				t.Fatal("a query without an answer")
			}
			return
		}
		m, n := parse(t, r.packet)
		if m.Id != binary.BigEndian.Uint16(packet) || !m.Response {
			t.Fatalf("no answer to this: %v", m)
		}
		if udp && n > mostUDP || n > mostTCP {
			t.Fatalf("%d bytes", n)
		}
		var asked dns.Msg
		if asked.Unpack(packet) == nil && m.Rcode != dns.RcodeFormatError && m.Rcode != dns.RcodeNotImplemented &&
			(len(m.Question) != 1 || len(asked.Question) != 1 || m.Question[0] != asked.Question[0]) {
			t.Fatalf("asked %v, answered %v", asked.Question, m.Question)
		}
	})
}

// FuzzNames: whatever backends are called, the index is made, its names are
// names, and what is reserved answers as ever.
func FuzzNames(f *testing.F) {
	f.Add("shop", "sa-1", "sa")
	f.Add("nearest.shop", "backends", "eu")
	f.Add("x.backends", "_tcp", "nearest")
	f.Add("a..b", strings.Repeat(".", 255), "sa")
	f.Add(strings.Repeat("a.", 127), `\`, "sa")
	f.Add("shop", strings.Repeat("a.", 39)+"\x00\x80"+strings.Repeat(".a", 80), "sa") // a byte too long
	f.Add(strings.Repeat("a", 63), "sa-2", "sa")                                      // with its _ too long for a label
	f.Fuzz(func(t *testing.T, app, id, region string) {
		r, err := geo.ParseRegion(region)
		if err != nil || len(app) > mesh.MaxName || len(id) > mesh.MaxName {
			t.Skip()
		}
		s := newServer(t, newPicture(Roster{POPs: []POP{{Node: id, Region: r, Alive: true, Addrs: addrsOf("10.50.0.1"), Overlay: addrsOf("10.50.0.1")}}, Devices: []Device{{Name: app, Addrs: addrsOf("10.50.0.2")}}},
			backend(id, app, r, "10.50.1.1:80"), backend("sa-1", "shop", "sa", "10.50.1.2:80")))
		x := s.current(noon)
		for name := range x.names {
			packet := make([]byte, 300)
			n, err := dns.PackDomainName(name, packet, 0, nil, false)
			if err != nil {
				t.Fatalf("%q: %v", name, err)
			}
			if n != wireLen(name) {
				t.Fatalf("%q has %d bytes, not %d", name, n, wireLen(name))
			}
			again, _, err := dns.UnpackDomainName(packet[:n], 0)
			if err != nil || dns.CanonicalName(again) != name {
				t.Fatalf("%q comes back as %q, %v", name, again, err)
			}
		}
		for name, kind := range map[string]kind{"backends": nothing, "_tcp": nothing, "peers": nothing, "pops": fixed, "regions": fixed, "ns": fixed} {
			if e := x.names[name+".internal."]; e == nil || e.kind != kind {
				t.Fatalf("%s is %+v", name, e)
			}
		}
	})
}

func BenchmarkRespond(b *testing.B) {
	s := newServer(b, example())
	packet, _ := query("shop.internal", dns.TypeA, edns(1232)).Pack()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second / mostPerSecond)
		s.respond(packet, brazil, true, now)
	}
}

// BenchmarkServices answers SRV where not all fits.
func BenchmarkServices(b *testing.B) {
	s := newServer(b, newPicture(Roster{}, many(90)...))
	packet, _ := query("_shop._tcp.internal", dns.TypeSRV, edns(1232)).Pack()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Second / mostPerSecond)
		s.respond(packet, brazil, true, now)
	}
}

// BenchmarkIndex makes the index of 10,000 backends of 100 apps.
func BenchmarkIndex(b *testing.B) {
	var all []mesh.Backend
	for i := range 10000 {
		all = append(all, backend(fmt.Sprintf("backend-%05d", i), fmt.Sprintf("app-%d", i%100), "sa", fmt.Sprintf("10.50.%d.%d:80", 1+i/250, 1+i%250)))
	}
	p := newPicture(Roster{}, all...)
	s := newServer(b, p)
	snap, roster := p.Picture()
	x := newIndex(s.zones, snap, roster, nil, noon)
	for b.Loop() {
		newIndex(s.zones, snap, roster, x, noon)
	}
}
