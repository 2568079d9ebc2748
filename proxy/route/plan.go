package route

import (
	"math"
	"sync/atomic"
	"time"
)

// sample is how many candidates a pick looks at: all where there are no more.
const sample = 64

// nearFull is the share of the hard limits from which on a region that is going
// to fill, or a backend, sends clients on before it is full. The arrivals are extrapolated,
// from a few picks where a POP has a few: below that, no client is sent to a
// farther region by an estimate alone.
const nearFull = 0.5

// slowStart is how long a backend that came back gets less than its share.
const slowStart = 10 * time.Second

// plan is where this POP's next connections go among some backends: all that
// it may choose from at one step. Quota water-filling: it works out where the
// whole mesh should put what arrives during the age of the reports, and takes
// its own share of that.
type plan struct {
	targets []Target
	seats   []seat // of the same index
	demands []*demand
	usable  []int  // indices of targets; guarded by balance.mu
	bowls   []bowl // of the usable ones; likewise

	gen      atomic.Int64 // balance.gen for which it holds
	arrivals number       // N: of the whole mesh, during the window
	admit    number       // a: the share of the arrivals for which there is room
	known    number       // connections as a share of the hard limits
	unheard  number       // of the mesh's recent connections, those of other POPs for one of this POP's
}

// seat is what a plan says of one target. Many read while one prepares: a mix
// of two plans that follow each other is as good as either.
type seat struct {
	quota  number // connections opened during the window that it may have
	room   number // connections of this POP that it may have, by its limit or the level
	recent number // opened during the window, when it was prepared
	jitter number
	opens  atomic.Int64 // of the slot, when it was prepared

	redraw time.Time // of jitter; guarded by balance.mu
}

func newPlan(groups ...*group) *plan {
	p := &plan{}
	for _, g := range groups {
		p.targets = append(p.targets, g.targets...)
		p.demands = append(p.demands, g.demand)
	}
	p.seats = make([]seat, len(p.targets))
	p.gen.Store(-1)
	return p
}

// step is one choice: what the caller gave, and what it has led to.
type step struct {
	*balance
	tried   []*Slot
	now     time.Time
	random  uint64
	alone   bool
	dry     bool // only to explain
	ranking bool // likewise, for Rank

	greedy    bool    // take what may be beyond this POP's share of a hard limit
	desperate bool    // take ejected ones too
	tryFrom   int64   // of the pool
	e         float64 // balance.stay

	waits           bool    // Query.Waits
	offered, lacked lacking // with strict limits: what would be taken with a right
}

// uniform is the next random number in [0, 1).
func (s *step) uniform() float64 {
	s.random = mix(s.random)
	return float64(s.random>>11) / (1 << 53)
}

// choose finds the target that the plan says is next; nil where all are full,
// or where others should have what is left: only if nothing else is left to
// this client, last, and limits are not near, does it take its chance.
func (p *plan) choose(s *step, last bool) *Target {
	if s.alone {
		return p.least(s)
	}
	if gen := s.gen.Load(); p.gen.Load() != gen && s.mu.TryLock() {
		p.prepareLocked(s)
		s.mu.Unlock()
	}
	// With strict limits nobody need be held back by an estimate in the end.
	if a, known := p.admit.Load(), p.known.Load(); a < 1 && known >= nearFull && !(s.greedy && s.slots.strict) &&
		!(last && known < 0.9) && (s.greedy && !s.desperate || s.uniform() > a) {
		return nil
	}
	if p.arrivals.Load() < 1 {
		return p.least(s)
	}
	i, over := p.due(s)
	if i < 0 && !s.ranking && s.mu.TryLock() { // all used up, before its time
		s.foldLocked(s.now)
		p.prepareLocked(s)
		s.mu.Unlock()
		i, over = p.due(s)
	}
	if i < 0 && s.waits && s.offered.within {
		return nil // a right to one that has some left is worth the wait
	}
	if i < 0 {
		i = over
	}
	if i < 0 {
		return nil
	}
	if !s.dry {
		p.seats[i].jitter.Store(s.uniform())
	}
	return &p.targets[i]
}

// least is the seed's formula: the target of the least connections for its
// capacity that is below its hard limit.
func (p *plan) least(s *step) *Target {
	n := len(p.targets)
	at, ties := 0, uint64(0)
	if n > sample {
		at = int(s.random % uint64(n))
	}
	var best *Target
	var bestLoad float64
	for i := range n {
		if i >= sample && best != nil {
			break
		}
		t := &p.targets[at]
		if at++; at == n {
			at = 0
		}
		own := t.Slot.own.Load()
		if isGone(own) || own >= t.limit(s.e) && !t.strict || s.barred(t.Slot) || t.strict && s.lacks(t, own, true) {
			continue
		}
		// Divided, not multiplied by an inverse: so equal shares of different
		// capacities are equal, and chance decides.
		load := (float64(own) + s.e*float64(t.Slot.others.Load())) / t.capacityAt(s.now)
		if best != nil && load > bestLoad || wasTried(t.Slot, s.tried) {
			continue
		}
		if best == nil || load < bestLoad {
			best, bestLoad, ties = t, load, 1
			continue
		}
		// An equal: take it with probability 1/ties, which leaves each of
		// the equals with the same chance (reservoir sampling).
		ties++
		s.random = mix(s.random)
		if s.random%ties == 0 {
			best = t
		}
	}
	return best
}

// due is the index of the target that has used the least of its quota; -1
// where none has any left.
func (p *plan) due(s *step) (int, int) {
	n := len(p.targets)
	at := 0
	if n > sample {
		at = int(s.random % uint64(n))
	}
	best, bestKey := -1, math.Inf(1)
	over, overKey := -1, math.Inf(1)
	for i := range n {
		if i >= sample && best >= 0 {
			break
		}
		j := at
		if at++; at == n {
			at = 0
		}
		t, seat := &p.targets[j], &p.seats[j]
		own := t.Slot.own.Load()
		if isGone(own) || own >= t.limit(s.e) && !t.strict || s.barred(t.Slot) || wasTried(t.Slot, s.tried) {
			continue
		}
		m := min(seat.quota.Load(), seat.room.Load()-float64(own))
		if t.strict && s.lacks(t, own, m > 0) {
			continue
		}
		s.random = mix(s.random)
		used := seat.recent.Load() + float64(t.Slot.opens.Load()-seat.opens.Load())
		if m <= 0 {
			// The others, whose reports are older than these, have gone on too.
			if t.hard > 0 && !t.strict && !s.greedy {
				known := float64(own) + s.e*float64(t.Slot.others.Load())
				if known >= nearFull*float64(t.bound) && known+used*p.unheard.Load() >= float64(t.bound) {
					continue
				}
			}
			if key := (used - m) / t.capacity; key < overKey {
				over, overKey = j, key
			}
			continue
		}
		key := (used + 0.2*seat.jitter.Load() + 0.05*exponential[s.random>>56]) / m
		if key < bestKey {
			best, bestKey = j, key
		}
	}
	return best, over
}

// exponential are 256 numbers of the exponential distribution of mean 1.
var exponential = func() (e [256]float64) {
	for i := range e {
		e[i] = -math.Log((float64(i) + 0.5) / 256)
	}
	return e
}()

// prepareLocked makes the plan that holds from now on.
func (p *plan) prepareLocked(s *step) {
	b, now := s.balance, s.now
	e, window := b.stay.Load(), b.window.Load()
	p.usable = p.usable[:0]
	for i := range p.targets {
		if !s.barred(p.targets[i].Slot) {
			p.usable = append(p.usable, i)
		}
	}
	mine, peers := 0.0, 0.0
	for _, d := range p.demands {
		surge := 1.0
		if d.fast > 2*d.slow && d.slow > 0 {
			surge = min(mostSurge, float64(d.fast/d.slow))
		}
		mine += float64(d.fast)
		peers += d.peers * surge
	}
	share := 1.0
	if mine+peers > 0 {
		share = mine / (mine + peers)
	}
	room, connections, hard := 0.0, 0.0, 0.0
	for _, i := range p.usable {
		t := &p.targets[i]
		connections += float64(t.Slot.Connections() + t.Slot.others.Load())
		if t.hard == 0 {
			room, hard = math.Inf(1), math.Inf(1)
			continue
		}
		room += float64(t.bound) - t.settled(e)
		hard += float64(t.bound)
	}
	arrivals := (mine + peers) * window * b.survival
	level, admit := math.Inf(1), 1.0
	if arrivals >= room {
		admit = max(0, room) / arrivals
	} else if arrivals >= 1 {
		level = p.level(arrivals, e, now)
	}
	for _, i := range p.usable {
		p.seats[i].prepare(&p.targets[i], level, share, e, now)
		if seat := &p.seats[i]; !now.Before(seat.redraw) {
			r := mix(uint64(now.UnixNano()) ^ uint64(i)<<32)
			seat.jitter.Store(float64(r>>11) / (1 << 53))
			seat.redraw = now.Add(time.Duration(window * (0.5 + float64(mix(r)>>11)/(1<<53)) * 1e9))
		}
	}
	p.arrivals.Store(arrivals)
	p.admit.Store(admit)
	p.known.Store(connections / hard)
	p.unheard.Store((1 - share) / max(share, 0.01))
	p.gen.Store(b.gen.Load())
}

// settled is the load that every POP knows of, as much of it as is still
// there now.
func (t *Target) settled(e float64) float64 {
	past := &t.Slot.past
	return max(0, e*(float64(t.Slot.Connections())-past.rec+past.dep+float64(t.Slot.others.Load())))
}

func (seat *seat) prepare(t *Target, level, share, e float64, now time.Time) {
	top := level * t.capacityAt(now)
	if t.hard > 0 {
		top = min(top, float64(t.bound))
	}
	past := &t.Slot.past
	old := float64(t.Slot.Connections()) - past.rec + past.dep
	seat.quota.Store(share*max(0, top-t.settled(e)) + past.dep - (1-e)*old)
	seat.room.Store(top - e*float64(t.Slot.others.Load()))
	seat.recent.Store(past.rec)
	seat.opens.Store(t.Slot.opens.Load())
}

// bowl is a target as the water that fills it sees it.
type bowl struct {
	settled, capacity, bound float64 // bound: infinite where there is none
}

// takes is max(0, min(level·capacity, bound) - settled), without the care for
// NaN that costs more than all else here.
func (w *bowl) takes(level float64) float64 {
	top := level * w.capacity
	if top > w.bound {
		top = w.bound
	}
	if top > w.settled {
		return top - w.settled
	}
	return 0
}

// level is the load for its capacity up to which the arrivals fill the targets.
func (p *plan) level(arrivals, e float64, now time.Time) float64 {
	p.bowls = p.bowls[:0]
	high := 0.0
	for _, i := range p.usable {
		t := &p.targets[i]
		w := bowl{t.settled(e), t.capacityAt(now), math.Inf(1)}
		high = max(high, (w.settled+arrivals)/w.capacity)
		if t.hard > 0 {
			w.bound = float64(t.bound)
			high = max(high, w.bound/w.capacity)
		}
		p.bowls = append(p.bowls, w)
	}
	low := 0.0
	for range 40 {
		middle, sum := (low+high)/2, 0.0
		for i := range p.bowls {
			sum += p.bowls[i].takes(middle)
		}
		if sum < arrivals {
			low = middle
			continue
		}
		if high = middle; sum < arrivals+0.01+arrivals/10_000 {
			break // to a fraction of a connection
		}
	}
	return high
}
