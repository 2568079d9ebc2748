package route

import (
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
