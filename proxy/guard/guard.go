// Package guard says which clients may connect: by lists of prefixes, by how
// many connections a client has open, and by how fast it opens new ones.
//
//	g := guard.New(time.Now())
//	g.Set(guard.Rules{Deny: blocked, Connections: 100, Rate: 20})
//	seat, verdict := g.Admit(addr, time.Now())
//	if verdict == guard.Admitted {
//		defer g.Leave(addr, seat)
//	}
//
// A client is a prefix: an IPv4 address and an IPv6 /64 unless the rules say
// otherwise, since whoever has one address of a /64 has them all. Rates are by
// GCRA (ITU-T I.371): a bucket of one second's connections that refills
// steadily; who is refused loses nothing by it. The memory is bounded: open
// connections are counted while they are open, and rates are kept of the
// 65,536 clients of which the bucket is emptiest, about. A Guard is safe for
// concurrent use; without rules it costs a pointer.
package guard

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Rules may be changed at any time. The zero value admits everybody.
type Rules struct {
	// The longest prefix that contains a client decides; the same in both
	// lists is denied. With an Allow list, who is in neither is denied, too.
	Allow, Deny []netip.Prefix

	Connections        int     // open at the same time for one client; 0: no bound
	Rate               float64 // new ones a second for one client, and as many at once, at least one; 0: no bound
	IPv4Bits, IPv6Bits int     // how long a client's prefix is; 0: 32 and 64
}

// Verdict is whether a client may connect, and why not.
type Verdict uint8

const (
	Admitted Verdict = iota
	Denied           // by the lists
	TooMany          // connections are open
	TooFast          // it opens new ones
)

// Seat is what Leave needs of an admission: the length of the prefix for which
// the connection counts, plus one; 0: it is not counted.
type Seat uint8

// Guard applies rules. Make one with New.
type Guard struct {
	rules  atomic.Pointer[rules] // nil: none
	start  time.Time
	seed   maphash.Seed
	shards [shards]shard
}

const (
	shards = 64
	sets   = 256 // of each shard
	ways   = 4   // of each set
)

// client is a prefix's first address, IPv4 in IPv6.
type client [16]byte

type shard struct {
	mu    sync.Mutex
	open  map[client]int32
	rates []rate   // sets × ways; nil until there is a rule
	_     [16]byte // to a cache line
}

// rate is a GCRA's state: zero is a full bucket.
type rate struct {
	client client
	due    time.Duration // since Guard.start: when the bucket is full again, the "theoretical arrival time"
}

// New makes a guard without rules. No later time may be before this one.
func New(now time.Time) *Guard {
	g := &Guard{start: now, seed: maphash.MakeSeed()}
	for i := range g.shards {
		g.shards[i].open = map[client]int32{}
	}
	return g
}

// Set changes the rules for those who come from now on. Who is there stays,
// and counts if there was a bound on connections when it came.
func (g *Guard) Set(r Rules) {
	compiled := compile(r)
	if compiled != nil && compiled.interval > 0 {
		for i := range g.shards {
			s := &g.shards[i]
			s.mu.Lock()
			if s.rates == nil {
				s.rates = make([]rate, sets*ways)
			}
			s.mu.Unlock()
		}
	}
	g.rules.Store(compiled)
}

// Admit says whether a client may connect now. Leave must be called for who
// was admitted, once, with the same address.
func (g *Guard) Admit(addr netip.Addr, now time.Time) (Seat, Verdict) {
	r := g.rules.Load()
	if r == nil {
		return 0, Admitted
	}
	addr = addr.Unmap().WithZone("")
	if r.denies(addr) {
		return 0, Denied
	}
	if r.most == 0 && r.interval == 0 {
		return 0, Admitted
	}
	bits := r.bits(addr)
	c := clientOf(addr, bits)
	hash := maphash.Bytes(g.seed, c[:])
	s := &g.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.most > 0 && s.open[c] >= r.most {
		return 0, TooMany
	}
	if r.interval > 0 && !s.take(c, hash/shards%sets, now.Sub(g.start), r) {
		return 0, TooFast
	}
	if r.most == 0 {
		return 0, Admitted
	}
	s.open[c]++
	return Seat(bits + 1), Admitted
}

// Leave ends a connection that was admitted.
func (g *Guard) Leave(addr netip.Addr, seat Seat) {
	if seat == 0 {
		return
	}
	c := clientOf(addr.Unmap().WithZone(""), int(seat)-1)
	s := &g.shards[maphash.Bytes(g.seed, c[:])%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[c]--; s.open[c] <= 0 {
		delete(s.open, c)
	}
}

// take takes one from the client's bucket, if there is one. A client that is
// not known takes the place of the one in its set that lacks least.
func (s *shard) take(c client, set uint64, now time.Duration, r *rules) bool {
	some := s.rates[set*ways:][:ways]
	at := &some[0]
	for i := range some {
		if some[i].client == c && some[i].due > 0 {
			at = &some[i]
			break
		}
		if some[i].due < at.due {
			at = &some[i]
		}
	}
	if at.client != c {
		*at = rate{client: c}
	}
	if at.due-now > r.burst {
		return false
	}
	at.due = max(at.due, now) + r.interval
	return true
}

func clientOf(addr netip.Addr, bits int) client {
	p, _ := addr.Prefix(bits) // bits fit: rules.bits saw to that
	return p.Addr().As16()
}
