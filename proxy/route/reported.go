package route

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Reported is what counts of a POP at one moment.
type Reported struct {
	POP         string
	Incarnation uint64
	Seq         uint64
	At          time.Time // of its last report
	Counts      map[string]int64
	Rate        float64 // picks per second
}

// Connections are those with all backends.
func (r Reported) Connections() (n int64) {
	for _, c := range r.Counts {
		n += c
	}
	return n
}

// Reported lists the other POPs whose reports count, by name.
func (r *Router) Reported(now time.Time) []Reported {
	b := &r.balance
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expireLocked(now)
	all := make([]Reported, 0, len(b.peers))
	for _, name := range slices.Sorted(maps.Keys(b.peers)) {
		p := b.peers[name]
		if p.silent {
			continue
		}
		rep := Reported{POP: name, Incarnation: p.incarnation, Seq: p.seq, At: p.at, Counts: maps.Clone(p.counts)}
		for _, rate := range p.rates {
			rep.Rate += rate
		}
		all = append(all, rep)
	}
	return all
}

// SlotRates are how many places per second this POP takes on each backend, of
// late; backends on which it takes none are left out.
func (r *Router) SlotRates(now time.Time) map[string]float64 {
	b := &r.balance
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foldLocked(now)
	b.slots.mu.Lock()
	defer b.slots.mu.Unlock()
	rates := map[string]float64{}
	for _, s := range b.slots.all {
		if s.past.rate > 0.01 {
			rates[s.ID] = float64(s.past.rate)
		}
	}
	return rates
}

// rateLocked averages what was taken in the last dt seconds; of the first ones
// it is not known how many they are.
func (b *balance) rateLocked(dt float64, first bool) {
	part := -math.Expm1(-dt / rateTau)
	b.slots.mu.Lock()
	defer b.slots.mu.Unlock()
	for _, s := range b.slots.all {
		p := &s.past
		if !first {
			rate := float64(p.opens-p.rated) / dt
			p.rate += (mean(rate) - p.rate) * mean(part)
		}
		p.rated = p.opens
	}
}
