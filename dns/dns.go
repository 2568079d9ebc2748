// Package dns is the authoritative DNS server of the mesh: names of apps,
// backends and POPs, answered from what this POP knows at the moment, in the
// order in which its proxy would pick for whoever asks.
//
//	srv, err := dns.New(dns.Config{Domain: "internal"}, mesh, log)
//	err = srv.Serve(ctx, []net.PacketConn{udp}, tcp) // until ctx ends
//
//	$ dig shop.internal                   # backends of the app shop, best first
//	$ dig eu.shop.internal nearest.shop.internal
//	$ dig us-node-1.backends.internal eu.backends.internal
//	$ dig sa-1.pops.internal sa.pops.internal
//	$ dig SRV _shop._tcp.internal
//	$ dig TXT regions.internal
//	$ dig -x 10.50.2.7
//
// What is answered is computed by functions of a question, an index and a
// ranking (answer.go, index.go), which know no socket; around them are EDNS and
// sizes (respond.go), sockets (udp.go, tcp.go) and the forwarding of other
// names (forward.go). The index is made anew when the picture of the mesh
// changes and somebody asks; queries share it without a lock. Asking changes
// nothing: no binding, no place on a backend. No packet, whatever it holds,
// ends the server, and what clients can have it keep is bounded.
//
// It signs nothing (DNSSEC), transfers no zone, caches nothing of what it
// forwards, and opens no socket that it is not given, but to forward.
package dns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/miekg/dns"
	"github.com/rs/zerolog"
)

// Mesh is what the server asks of the POP, for every query. Implementations
// are safe for concurrent use and do not block.
type Mesh interface {
	// Picture is what there is now. Both are immutable: other pointers, other content.
	Picture() (*mesh.Snapshot, *Roster)
	// Rank lists up to so many backends in the order in which the proxy would
	// pick them; only: those of one region. It has no side effects.
	Rank(q route.Query, only geo.Region, most int) []route.Ranked
	// Standing is the same number as long as the same backends take connections.
	Standing(app string, only geo.Region) uint64
	// Place is where an address is; zero where unknown.
	Place(netip.Addr) geo.Place
}

// Roster is who has names beside the backends.
type Roster struct {
	POPs    []POP
	Devices []Device // in the overlay, without edgeproxy
}

// POP is one POP as others find it.
type POP struct {
	Node    string
	Region  geo.Region
	Alive   bool         // as far as is known
	Addrs   []netip.Addr // to answer with
	Overlay []netip.Addr // that have its name
}

// Device is one plain device of the overlay.
type Device struct {
	Name  string
	Addrs []netip.Addr
}

// Config is what an operator sets.
type Config struct {
	Domain  string           // of the zone; empty: internal
	Overlay []netip.Prefix   // networks whose addresses have names, and whose clients may have other names forwarded
	Forward []netip.AddrPort // servers asked for names that are not ours; none: these are refused
}

// Server answers queries.
type Server struct {
	mesh     Mesh
	log      zerolog.Logger
	forward  *forwarder // nil: nothing is forwarded
	overlay  []netip.Prefix
	zones    []*zone // the first is the domain's, the others are for addresses
	metrics  metrics
	rate     rate
	fellAt   atomic.Int64 // unix ns, when a panic was logged
	index    atomic.Pointer[index]
	indexing sync.Mutex // one is made at a time
	rested   time.Time  // when the next may be made; guarded by indexing
}

// New makes a server that does nothing until Serve.
func New(cfg Config, m Mesh, log zerolog.Logger) (*Server, error) {
	domain := cfg.Domain
	if domain == "" {
		domain = "internal"
	}
	domain = dns.CanonicalName(domain)
	if labels, ok := dns.IsDomainName(domain); !ok || labels == 0 || domain == "." || len(domain) > mostDomain {
		return nil, fmt.Errorf("domain %q: want a name of at most %d characters, such as internal or mesh.example.net", cfg.Domain, mostDomain)
	}
	s := &Server{mesh: m, log: log, overlay: cfg.Overlay, zones: []*zone{{name: domain}}, rate: rate{multiplier: rand.Uint64() | 1}}
	for _, p := range cfg.Overlay {
		z := &zone{name: reverseZone(p)}
		if p.Bits()%8 != 0 || z.within(domain) || s.zones[0].within(z.name) {
			return nil, fmt.Errorf("network %s has no zone of its own for its addresses beside %s", p, domain)
		}
		s.zones = append(s.zones, z)
	}
	if len(cfg.Forward) > 0 {
		s.forward = newForwarder(cfg.Forward)
	}
	return s, nil
}

// mostDomain leaves room for the labels of an app, a backend and a region.
const mostDomain = 100

// zone is a part of the name space that this server knows all of.
type zone struct{ name string } // lower case, with the last dot

// within says whether a name, in lower case, is in the zone.
func (z *zone) within(name string) bool {
	rest, ok := strings.CutSuffix(name, z.name)
	// A dot that is escaped is part of a label: an even number of backslashes before it.
	if !ok || rest == "" {
		return ok
	}
	rest, dotted := strings.CutSuffix(rest, ".")
	return dotted && (len(rest)-len(strings.TrimRight(rest, `\`)))%2 == 0
}

// zoneOf is the zone of a name; nil: it is not ours.
func (s *Server) zoneOf(name string) *zone {
	for _, z := range s.zones {
		if z.within(name) {
			return z
		}
	}
	return nil
}

// indexShare is how many times as long as it takes to make an index passes at
// least until the next one is made, and mostRest how long at most.
const (
	indexShare = 4
	mostRest   = 150 * time.Millisecond
)

// current is the index of what there is now. Where the picture has changed
// whoever comes first makes it anew, and others answer from the last one meanwhile.
func (s *Server) current(now time.Time) *index {
	snap, roster := s.mesh.Picture()
	x := s.index.Load()
	if x != nil && x.snap == snap && x.roster == roster {
		return x
	}
	if x != nil && !s.indexing.TryLock() {
		return x
	}
	if x == nil {
		s.indexing.Lock()
	}
	defer s.indexing.Unlock()
	x = s.index.Load()
	if x != nil && (now.Before(s.rested) || x.snap == snap && x.roster == roster) {
		return x
	}
	began := time.Now()
	x = newIndex(s.zones, snap, roster, x, now)
	s.index.Store(x)
	s.rested = now.Add(min((1+indexShare)*time.Since(began), mostRest))
	return x
}
