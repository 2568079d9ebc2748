package route

import (
	"math"
	"sync/atomic"
	"time"
)

// Strict has every connection with a backend that has a hard limit need a
// right, of which package rights grants no more than the limit in the whole
// mesh. To be called before anything else.
func (r *Router) Strict() { r.Slots.strict = true }

// rightsOf is what a slot's connections need rights from. Its methods are
// those of rights.Places. Spare alone decides, so that no right is used twice
// by any number of picks at once, or used and given back.
type rightsOf struct {
	spare atomic.Int64 // rights minus connections; below 0: connections from before there were rights
	ended atomic.Int64
	hold  atomic.Bool
	offer atomic.Bool
}

// Rights are the slot's, for package rights.
func (s *Slot) Rights() *rightsOf { return &s.rights }

func (r *rightsOf) Spare() int64      { return r.spare.Load() }
func (r *rightsOf) AddRights(n int64) { r.spare.Add(n) }
func (r *rightsOf) Hold(on bool)      { r.hold.Store(on) }
func (r *rightsOf) Ended() int64      { return r.ended.Swap(0) }
func (r *rightsOf) Offer(some bool)   { r.offer.Store(some) }

func (r *rightsOf) GiveBack(n int64) int64 {
	for {
		spare := r.spare.Load()
		n = min(n, spare)
		if n <= 0 {
			return 0
		}
		if r.spare.CompareAndSwap(spare, spare-n) {
			return n
		}
	}
}

// take uses one right, if there is an unused one.
func (r *rightsOf) take() bool {
	for {
		n := r.spare.Load()
		if n <= 0 {
			return false
		}
		if r.spare.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (r *rightsOf) release() {
	if r.hold.Load() {
		r.ended.Add(1)
		return
	}
	r.spare.Add(1)
}

// reserveRight is reserve with strict limits. Connections with a backend
// without a limit count, too: one may be set while they are open.
func (s *Slot) reserveRight(limited bool) bool {
	if !limited {
		s.rights.spare.Add(-1)
	} else if !s.rights.take() {
		return false
	}
	if isGone(s.own.Add(1)) {
		s.own.Add(-1)
		s.rights.spare.Add(1)
		return false
	}
	s.opens.Add(1)
	return true
}

// lacking is the least loaded of the targets that there is no right to, of
// those within their quota if there are any.
type lacking struct {
	target *Target
	within bool
	load   float64
}

// lacks says whether there is no unused right to the target, and notes it: one
// may be had, soon where its home offers some and reports agree, or else, for
// those who can go nowhere else, if others give back what they do not use.
// Within: the target has some of its quota left.
func (s *step) lacks(t *Target, own int64, within bool) bool {
	if t.Slot.rights.spare.Load() > 0 {
		return false
	}
	n := float64(own) + s.e*float64(t.Slot.others.Load())
	if s.ranking {
		return n >= float64(t.hard) // who comes can wait for a right
	}
	of := &s.lacked
	if n < float64(t.hard) && t.Slot.rights.offer.Load() {
		of = &s.offered
	}
	if load := n / t.capacity; of.target == nil || within && !of.within || within == of.within && load < of.load {
		*of = lacking{t, within, load}
	}
	return true
}

// lack is the choice where there is none: with strict limits perhaps only for
// want of a right.
func (s *step) lack(q Query) Choice {
	switch {
	case q.Waits && s.offered.target != nil:
		return Choice{Reason: ReasonNone, Lacks: s.offered.target.Backend.ID}
	case q.Waits && s.lacked.target != nil:
		return Choice{Reason: ReasonNone, Lacks: s.lacked.target.Backend.ID, Urgent: true}
	}
	return Choice{Reason: ReasonNone}
}

// wanting is the target, with its tier, that nothing but a right is lacking for.
func (s *step) wanting(t *Table, q Query) (*Target, int) {
	target := s.offered.target
	if target == nil {
		target = s.lacked.target
	}
	if target == nil {
		return nil, 0
	}
	tier, _ := t.regionScore(q.Place, target.Backend.Region, t.Snapshot.Positions[target.Backend.Region])
	return target, tier
}

// Need is how many unused rights this POP should have at hand for a backend.
type Need struct {
	Backend string
	Limit   int64
	Slot    *Slot
	Spare   int64
}

// handy is how long unused rights are to last, in seconds.
const handy = 0.5

// Needs are those of all backends that have a hard limit: of a region's, for
// the picks of half a second and one more, where they would go.
func (r *Router) Needs(now time.Time) []Need {
	t := r.table.Load()
	r.Rates(now) // brings the rates up to now
	spare := map[string]int64{}
	t.every.needs(r, spare, 1)
	for _, p := range t.apps {
		p.needs(r, spare, 0)
	}
	var needs []Need
	for i := range t.Snapshot.Backends {
		if b := &t.Snapshot.Backends[i]; b.HardLimit > 0 {
			needs = append(needs, Need{b.ID, b.HardLimit, r.Slots.Get(b.ID), spare[b.ID]})
		}
	}
	return needs
}

func (p *pool) needs(r *Router, spare map[string]int64, least float64) {
	for _, g := range p.groups {
		r.balance.mu.Lock()
		rate := float64(g.demand.fast)
		n := least
		if rate > 0.01 {
			n = math.Ceil(handy*rate) + 1
		}
		if n > 0 && !(r.balance.alone.Load() || g.plan.arrivals.Load() < 1) && n*float64(len(g.targets)) < mostLooks {
			g.plan.ahead(int(n), spare)
		} else if n > 0 {
			g.share(n, spare)
		}
		r.balance.mu.Unlock()
	}
}

// mostLooks is how much work it may be to find out where the next picks go.
const mostLooks = 1 << 16

// beyond is more than the key of any target that has some of its quota left.
const beyond = 1e9

// ahead adds the rights that the next n picks will want to use, by what is left
// of the quotas.
func (p *plan) ahead(n int, spare map[string]int64) {
	more := make([]float64, len(p.targets))
	for range n {
		best, bestKey := -1, math.Inf(1)
		for _, i := range p.usable {
			t, seat := &p.targets[i], &p.seats[i]
			own := float64(t.Slot.Connections()) + more[i]
			if t.hard == 0 || own+float64(t.Slot.others.Load()) >= float64(t.hard) {
				continue
			}
			used := seat.recent.Load() + float64(t.Slot.opens.Load()-seat.opens.Load()) + more[i]
			m := min(seat.quota.Load(), seat.room.Load()-own)
			key := used / m
			if m <= 0 {
				key = beyond + (used-m)/t.capacity
			}
			if key < bestKey {
				best, bestKey = i, key
			}
		}
		if best < 0 {
			return
		}
		more[best]++
		spare[p.targets[best].Backend.ID]++
	}
}

// share adds n rights to what the backends of a region should have at hand:
// as they fill up together to one level of load for their capacity.
func (g *group) share(n float64, spare map[string]int64) {
	load := func(t *Target) float64 { return float64(t.Slot.Connections() + t.Slot.others.Load()) }
	room := func(t *Target, level float64) float64 {
		return max(0, min(level*t.capacity, float64(t.hard))-load(t))
	}
	low, high := 0.0, 0.0
	for i := range g.targets {
		if t := &g.targets[i]; t.hard > 0 {
			high = max(high, (load(t)+n)/t.capacity)
		}
	}
	for range 40 {
		middle, sum := (low+high)/2, 0.0
		for i := range g.targets {
			if t := &g.targets[i]; t.hard > 0 {
				sum += room(t, middle)
			}
		}
		if sum < n {
			low = middle
		} else {
			high = middle
		}
	}
	carry := 0.5 // so that parts of a right become whole ones, and their sum stays
	for i := range g.targets {
		t := &g.targets[i]
		if t.hard == 0 {
			continue
		}
		carry += room(t, high)
		whole := math.Floor(carry)
		carry -= whole
		spare[t.Backend.ID] += int64(whole)
	}
}

// Lives are the POPs whose reports count, with the incarnation of each.
func (r *Router) Lives() map[string]uint64 {
	r.balance.mu.Lock()
	defer r.balance.mu.Unlock()
	lives := make(map[string]uint64, len(r.balance.peers))
	for name, p := range r.balance.peers {
		if !p.silent {
			lives[name] = p.incarnation
		}
	}
	return lives
}

// Spare is how many unused rights this POP has to a backend.
func (r *Router) Spare(backend string) int64 {
	s := r.Slots.find(backend)
	if s == nil {
		return 0
	}
	return s.rights.Spare()
}
