package dns

import (
	"net/netip"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/miekg/dns"
)

// question is what is asked, and by whom.
type question struct {
	name   string // as it was written
	qtype  uint16
	client client
	limit  int // bytes of the answer; what cannot fit need not be found
}

// client is for whom an answer is: the address that asks, or the network that
// it asks for (RFC 7871).
type client struct {
	addr  netip.Addr // invalid: nobody in particular
	exact bool       // it is one client, which may be bound to a backend
}

// ranking is what an answer takes from the router.
type ranking interface {
	Rank(q route.Query, only geo.Region, most int) []route.Ranked
	Standing(app string, only geo.Region) uint64
	Place(netip.Addr) geo.Place
}

// answer is what is said to a question.
type answer struct {
	rcode                       int
	records, authority, further []dns.RR
	tailored                    bool // it is for this client, and others may get another
}

// answer answers a question about a name in the zone.
func (x *index) answer(q question, z *zone, r ranking, now time.Time) answer {
	e := x.names[dns.CanonicalName(q.name)]
	if e == nil {
		return answer{rcode: dns.RcodeNameError, authority: []dns.RR{x.soa(z)}}
	}
	var a answer
	switch {
	case q.qtype == dns.TypeANY && e.kind != nothing: // RFC 8482
		a.records = []dns.RR{&dns.HINFO{Hdr: header(q.name, dns.TypeHINFO, mostTTL), Cpu: "RFC8482"}}
	case e.kind == apex:
		a.records = x.apex(q, z)
		if q.qtype == dns.TypeNS {
			a.further = x.glue(now)
		}
	case e.kind == fixed:
		a.records = e.records(q, now)
	case e.kind == set && (q.qtype == dns.TypeA && e.has&four != 0 || q.qtype == dns.TypeAAAA && e.has&six != 0):
		a.tailored = true
		a.records = e.addresses(q, r, now)
	case e.kind == service && q.qtype == dns.TypeSRV:
		a.tailored = true
		a.records, a.further = x.services(e, q, r, now)
	}
	if len(a.records) == 0 {
		a.authority = []dns.RR{x.soa(z)}
	}
	return a
}

func (x *index) apex(q question, z *zone) []dns.RR {
	switch q.qtype {
	case dns.TypeSOA:
		soa := x.soa(z)
		soa.Hdr.Name = q.name
		return []dns.RR{soa}
	case dns.TypeNS:
		return []dns.RR{&dns.NS{Hdr: header(q.name, dns.TypeNS, mostTTL), Ns: wordNS + "." + x.domain()}}
	}
	return nil
}

// glue is where the server is that an NS record names.
func (x *index) glue(now time.Time) (records []dns.RR) {
	name := wordNS + "." + x.domain()
	if e := x.names[name]; e != nil {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			records = append(records, e.records(question{name: name, qtype: qtype}, now)...)
		}
	}
	return records
}

// records are those of the entry that are asked for.
func (e *entry) records(q question, now time.Time) (records []dns.RR) {
	ttl := e.age.ttl(now, nil)
	switch q.qtype {
	case dns.TypeA, dns.TypeAAAA:
		first := int(uint64(now.UnixNano()) >> 8 % uint64(max(1, len(e.addrs)))) // each in its turn
		for i := range e.addrs {
			if len(records) == mostAddrs {
				break
			}
			a := e.addrs[(first+i)%len(e.addrs)]
			if rr := address(q.name, q.qtype, a, ttl); rr != nil {
				records = append(records, rr)
			}
		}
	case dns.TypeTXT:
		for _, text := range e.texts {
			records = append(records, &dns.TXT{Hdr: header(q.name, dns.TypeTXT, ttl), Txt: []string{text}})
		}
	case dns.TypePTR:
		for _, name := range e.names {
			records = append(records, &dns.PTR{Hdr: header(q.name, dns.TypePTR, ttl), Ptr: name})
		}
	}
	return records
}

// escapeText is text as package miekg/dns reads it into a string of a record.
func escapeText(text string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
}

// address is an A or AAAA record; nil where the address is of the other kind,
// or one that only means something on one machine.
func address(name string, qtype uint16, a netip.Addr, ttl uint32) dns.RR {
	switch {
	case a.Is4() && qtype == dns.TypeA:
		return &dns.A{Hdr: header(name, qtype, ttl), A: a.AsSlice()}
	case a.Is6() && a.Zone() == "" && qtype == dns.TypeAAAA:
		return &dns.AAAA{Hdr: header(name, qtype, ttl), AAAA: a.AsSlice()}
	}
	return nil
}

// mostServices is how many SRV records are answered, and how far a ranking
// goes that looks for addresses of one kind.
const mostServices = 64

func (e *entry) query(q question, r ranking) route.Query {
	query := route.Query{App: e.app}
	if q.client.addr.IsValid() {
		query.Place = r.Place(q.client.addr)
	}
	if q.client.exact {
		query.Client = q.client.addr
	}
	return query
}

// addresses are those of the backends that the asking client should try, in
// this order.
func (e *entry) addresses(q question, r ranking, now time.Time) (records []dns.RR) {
	query := e.query(q, r)
	ttl := e.age.ttl(now, func() uint64 { return r.Standing(e.app, e.region) })
	for most := e.most; ; most = mostServices {
		ranked := r.Rank(query, e.region, most)
		records = records[:0]
		seen := make(map[netip.Addr]bool, len(ranked))
		for _, b := range ranked {
			a := b.Backend.Addr.Addr()
			if rr := address(q.name, q.qtype, a, ttl); rr != nil && !seen[a] && len(records) < e.most {
				seen[a] = true
				records = append(records, rr)
			}
		}
		// Some had the address of another, or one of the other kind.
		if len(records) == e.most || len(ranked) < most || most == mostServices {
			return records
		}
	}
}

// Sizes of records in a packet, of which only the owner's name is short for
// another one.
const (
	serviceSize = 12 + 6  // and the target's name
	addressSize = 12 + 16 // at most
)

// services are the backends of an app with their ports, and their addresses
// where there is room for all: one more than fit, so that it shows.
func (x *index) services(e *entry, q question, r ranking, now time.Time) (records, further []dns.RR) {
	ttl := e.age.ttl(now, func() uint64 { return r.Standing(e.app, "") })
	least := serviceSize + wireLen("x."+wordBackends+"."+x.domain())
	ranked := r.Rank(e.query(q, r), "", min(mostServices, q.limit/least+1))
	weights, size := weights(ranked), 0
	for i, b := range ranked {
		target := x.owner[b.Backend.ID]
		if target == "" {
			continue // its name is that of a region, or none, and nobody would find it
		}
		records = append(records, &dns.SRV{
			Hdr: header(q.name, dns.TypeSRV, ttl), Target: target,
			Priority: uint16(b.Tier), Weight: weights[i], Port: b.Backend.Addr.Port(),
		})
		if size += serviceSize + wireLen(target); size > q.limit {
			return records, nil
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if rr := address(target, qtype, b.Backend.Addr.Addr(), ttl); rr != nil {
				further = append(further, rr)
			}
		}
	}
	if size+len(further)*addressSize > q.limit {
		further = nil
	}
	return records, further
}

// weights are the shares of the backends, of those of one priority, by how much
// each can take still; at least 1, for 0 means almost never (RFC 2782).
func weights(ranked []route.Ranked) []uint16 {
	most := int64(0)
	for _, b := range ranked {
		most = max(most, b.Headroom)
	}
	list := make([]uint16, len(ranked))
	for i, b := range ranked {
		w := b.Headroom
		if most > 0xffff {
			w = w * 0xffff / most
		}
		list[i] = uint16(max(w, 1))
	}
	return list
}
