package route

import (
	"maps"
	"time"
)

// peer is what another POP last said.
type peer struct {
	incarnation uint64
	seq         uint64
	at          time.Time
	counts      map[string]int64
	rates       map[AppRegion]float64
	silent      bool // its lease has ended: nothing of it counts until it is heard of again
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
