package route

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Times of the estimate.
const (
	foldEvery   = 5 * time.Millisecond  // how old a quota may be
	leastWindow = 20 * time.Millisecond // of the decays, however fresh the reports are
	// Lease is how long a silent POP's connections are counted.
	Lease = 10 * time.Second
	// remembered is how long they are kept for when it goes on: the stream over
	// which it would tell only what changed has ended long before.
	remembered = time.Minute
	shareTau   = 2.0  // seconds, averages of the shares
	rateTau    = 2.0  // seconds, rate of picks
	slowTau    = 10.0 // seconds, the rate that a surge is told by
	mostSurge  = 10.0
)

// number is a float64 that many goroutines read and one writes.
type number struct{ bits atomic.Uint64 }

func (n *number) Load() float64   { return math.Float64frombits(n.bits.Load()) }
func (n *number) Store(x float64) { n.bits.Store(math.Float64bits(x)) }

// mean is an exponentially weighted moving average over irregular steps.
type mean float64

func (m *mean) add(x, dt, tau float64) { *m += mean((x - float64(*m)) * -math.Expm1(-dt/tau)) }

// fixed is the unit of the counters that Slots keep fractions in: atomic adds
// of integers lose nothing, in any order.
const fixed = 1 << 20

// past is what a Slot did during the last moments, about as long ago as the
// reports of other POPs are old. Guarded by balance.mu.
type past struct {
	rec, dep               float64 // opens that are still open; closes of what was open before
	opens, faded, departed int64   // as last seen
	rate                   mean    // places taken per second
	rated                  int64   // opens, as last seen by rate
}

// demand is how many picks ask for a region's backends.
type demand struct {
	tried atomic.Int64 // picks

	seen       int64 // guarded by balance.mu, as what follows
	fast, slow mean  // per second
	peers      float64
}

// AppRegion is the backends of one app in one region.
type AppRegion struct {
	App    string
	Region geo.Region
}

// peer is what another POP last said.
type peer struct {
	incarnation uint64
	seq         uint64
	at          time.Time
	counts      map[string]int64
	rates       map[AppRegion]float64
	silent      bool // its lease has ended: nothing of it counts until it is heard of again
}

// balance is a POP's estimate of what the mesh does with the backends, from
// exact counts of its own and reports of others that are a little old.
type balance struct {
	window number       // A, in seconds: how long ago a connection counts as recent
	stay   number       // e: the share of the connections open A ago that still are
	gen    atomic.Int64 // of the last fold, its time in ns; plans older than that are old
	alone  atomic.Bool  // no other POP: what is known is exact

	mu       sync.Mutex // all below, the pasts of the slots, and the preparation of plans
	slots    *Slots
	at       time.Time
	peers    map[string]*peer
	demands  map[AppRegion]*demand
	opened   float64 // decaying
	closed   float64 // decaying, of old connections
	leaving  mean
	total    mean // own connections
	recent   mean
	opening  mean
	survival float64 // phi: the share of the window's opens that is still open
}

func (b *balance) init(slots *Slots) {
	b.slots, b.peers, b.demands = slots, map[string]*peer{}, map[AppRegion]*demand{}
	b.survival = 1
	b.window.Store(leastWindow.Seconds())
	b.stay.Store(1)
	b.alone.Store(true)
	slots.window = &b.window
}

// demand finds or makes the count of a place.
func (b *balance) demand(p AppRegion) *demand {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.demands[p]
	if d == nil {
		d = &demand{}
		for _, peer := range b.peers {
			if !peer.silent {
				d.peers += peer.rates[p]
			}
		}
		b.demands[p] = d
	}
	return d
}

// fold brings the estimate up to now, if it is older than foldEvery and
// nobody else is at it.
func (b *balance) fold(now time.Time) {
	if now.UnixNano()-b.gen.Load() < int64(foldEvery) || !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	b.foldLocked(now)
}

func (b *balance) foldLocked(now time.Time) {
	dt, first := now.Sub(b.at).Seconds(), b.at.IsZero()
	if first {
		dt = leastWindow.Seconds()
	}
	if dt < 0 {
		return // whoever brings an older time has waited for something
	}
	b.at = now
	if dt > 0 {
		b.expireLocked(now)
	}
	window := b.window.Load()
	decay := math.Exp(-dt / window)
	var rec, dep, opens, own float64
	b.slots.mu.Lock()
	for _, s := range b.slots.all {
		o, d := s.fold(decay)
		opens, dep = opens+o, dep+d
		rec += s.past.rec
		own += float64(s.Connections())
	}
	b.slots.mu.Unlock()
	b.opened = b.opened*decay + opens
	b.closed = b.closed*decay + dep
	if dt == 0 {
		return
	}
	b.total.add(own, dt, shareTau)
	b.recent.add(rec, dt, shareTau)
	b.opening.add(b.opened, dt, shareTau)
	b.survival = min(1, (float64(b.recent)+1)/(float64(b.opening)+1))
	b.leaving.add(b.closed, dt, shareTau)
	b.rateLocked(dt, first)
	b.stay.Store(max(0, 1-float64(b.leaving)/(float64(b.total)+1)))
	for _, d := range b.demands {
		n := d.tried.Load()
		rate := float64(n-d.seen) / dt
		d.seen = n
		d.fast.add(rate, dt, rateTau)
		d.slow.add(rate, dt, slowTau)
	}
	b.gen.Store(now.UnixNano())
}

// fold adds what happened since the last fold, and says how much.
func (s *Slot) fold(decay float64) (opens, departed float64) {
	p := &s.past
	o, f, d := s.opens.Load(), s.faded.Load(), s.departed.Load()
	opens, departed = float64(o-p.opens), float64(d-p.departed)/fixed
	p.rec = max(0, p.rec*decay+opens-float64(f-p.faded)/fixed)
	p.dep = p.dep*decay + departed
	p.opens, p.faded, p.departed = o, f, d
	return opens, departed
}

// expireLocked forgets POPs whose lease has ended, and takes the age of the
// others' reports.
func (b *balance) expireLocked(now time.Time) {
	age, n := 0.0, 0
	for name, p := range b.peers {
		old := now.Sub(p.at)
		if old > remembered {
			b.dropLocked(name)
			continue
		}
		if old > Lease {
			b.silenceLocked(p)
			continue
		}
		age += max(0, old.Seconds())
		n++
	}
	if n > 0 {
		b.window.Store(max(leastWindow.Seconds(), 1.5*age/float64(n)))
	} else {
		b.window.Store(leastWindow.Seconds())
	}
	b.alone.Store(n == 0)
}

// silenceLocked takes out of the sums what a POP has said. It is remembered:
// one that was stopped and goes on tells only what changed since.
func (b *balance) silenceLocked(p *peer) {
	if p.silent {
		return
	}
	p.silent = true
	for id, n := range p.counts {
		b.addLocked(id, -n)
	}
	b.ratesLocked(p.rates, nil)
}

func (b *balance) heardLocked(p *peer) {
	if !p.silent {
		return
	}
	p.silent = false
	for id, n := range p.counts {
		b.addLocked(id, n)
	}
	b.ratesLocked(nil, p.rates)
}

// addLocked adds to the connections of others with a backend. What is said of
// one that is not in the table costs no slot: slot has it when it comes.
func (b *balance) addLocked(id string, n int64) {
	if s := b.slots.find(id); s != nil {
		s.others.Add(n)
	}
}

// slot finds or makes the slot of a backend, with what the others say of it.
func (b *balance) slot(id string) *Slot {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.slots.find(id); s != nil {
		return s
	}
	s := b.slots.Get(id)
	for _, p := range b.peers {
		if !p.silent {
			s.others.Add(p.counts[id])
		}
	}
	return s
}

// prune forgets the slots and demands of backends that are not in the table
// any more, but for slots with connections.
func (b *balance) prune(t *Table) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots.Prune(func(id string) bool { _, ok := t.Snapshot.Backend(id); return ok })
	used := map[*demand]bool{}
	for _, p := range t.pools() {
		for _, g := range p.groups {
			used[g.demand] = true
		}
	}
	for place, d := range b.demands {
		if !used[d] {
			delete(b.demands, place)
		}
	}
}

func (b *balance) dropLocked(name string) {
	if p := b.peers[name]; p != nil {
		b.silenceLocked(p)
		delete(b.peers, name)
	}
}

func (b *balance) ratesLocked(old, now map[AppRegion]float64) {
	for place, rate := range old {
		if d := b.demands[place]; d != nil {
			d.peers = max(0, d.peers-rate)
		}
	}
	for place, rate := range now {
		if d := b.demands[place]; d != nil {
			d.peers += rate
		}
	}
}

// Report is what one POP says of its own connections at one moment.
type Report struct {
	POP         string
	Incarnation uint64    // a greater one forgets what was said before
	Seq         uint64    // rising within an incarnation
	At          time.Time // when it was taken, by the receiver's clock
	Whole       bool      // backends that it leaves out have no connections
	Counts      map[string]int64
	Rates       map[AppRegion]float64 // picks per second; all that are not 0
}

// Bounds of what another POP may claim: connections with one backend, and
// backends that it has any with.
const (
	MostConnections = 1 << 24
	mostCounts      = 1 << 14
)

// Learn takes another POP's report: counts of backends that it leaves out stay
// as they were, unless it is whole. What is older than what is known is left out, what is out of
// all bounds is brought into them.
func (r *Router) Learn(rep Report, now time.Time) {
	b := &r.balance
	b.mu.Lock()
	defer b.mu.Unlock()
	if rep.At.After(now) {
		rep.At = now
	}
	p := b.peers[rep.POP]
	switch {
	case p != nil && (rep.Incarnation < p.incarnation || rep.Incarnation == p.incarnation && rep.Seq <= p.seq):
		return
	case p != nil && rep.Incarnation > p.incarnation:
		b.dropLocked(rep.POP)
		p = nil
	}
	if p == nil {
		p = &peer{incarnation: rep.Incarnation, counts: map[string]int64{}}
		b.peers[rep.POP] = p
	}
	p.at, p.seq = rep.At, rep.Seq
	if now.Sub(rep.At) > Lease {
		b.silenceLocked(p) // and what it says is kept for when its next word comes
	} else {
		b.heardLocked(p)
		b.alone.Store(false)
	}
	add := func(id string, n int64) {
		if !p.silent {
			b.addLocked(id, n)
		}
	}
	if rep.Whole {
		for id, n := range p.counts {
			add(id, -n)
		}
		clear(p.counts)
	}
	for id, n := range rep.Counts {
		last, known := p.counts[id]
		n = min(max(n, 0), MostConnections)
		if !known && (n == 0 || len(p.counts) >= mostCounts) {
			continue
		}
		add(id, n-last)
		if p.counts[id] = n; n == 0 {
			delete(p.counts, id)
		}
	}
	rates := maps.Clone(rep.Rates)
	for place, rate := range rates {
		if !(rate >= 0) { // NaN too
			rate = 0
		}
		rates[place] = min(rate, 1e6)
	}
	if !p.silent {
		b.ratesLocked(p.rates, rates)
	}
	p.rates = rates
}

// Forget drops what a POP has said, which is gone.
func (r *Router) Forget(pop string, now time.Time) {
	r.balance.mu.Lock()
	defer r.balance.mu.Unlock()
	r.balance.dropLocked(pop)
	r.balance.expireLocked(now)
}

// Rates are the picks per second that this POP makes, by place.
func (r *Router) Rates(now time.Time) map[AppRegion]float64 {
	b := &r.balance
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foldLocked(now)
	m := make(map[AppRegion]float64, len(b.demands))
	for place, d := range b.demands {
		if d.fast > 0.01 {
			m[place] = float64(d.fast)
		}
	}
	return m
}
