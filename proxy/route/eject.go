package route

import "time"

// Passive ejection: what failed connects say of a backend, to this POP alone.
const (
	ejectAfter = 3                // failed connects in a row
	ejectFirst = 10 * time.Second // doubling with every further ejection
	ejectMost  = 5 * time.Minute  // longest; and after so long in peace the next one is a first one
)

// out says whether the backend is ejected now. When the time has passed it
// comes back with a slow start, and one more failure ejects it again.
func (s *Slot) out(now time.Time) bool {
	until := s.ejected.Load()
	if until == 0 {
		return false
	}
	if now.UnixNano() < until {
		return true
	}
	if s.ejected.CompareAndSwap(until, 0) {
		s.since.Store(until)
	}
	return false
}

// EjectedUntil is when the backend is tried again; zero where it is not ejected.
func (r *Router) EjectedUntil(id string) time.Time {
	s := r.Slots.find(id)
	if s == nil || s.ejected.Load() == 0 {
		return time.Time{}
	}
	return time.Unix(0, s.ejected.Load())
}

// Failed records a connect to the choice that did not succeed. After three in
// a row the backend is ejected from this POP's choice for a while, longer each
// time, unless half of the region's backends for the app already are: where so
// much fails, it may not be the backends. It says for how long; 0: it is not.
func (r *Router) Failed(c Choice, now time.Time) time.Duration {
	s := c.Slot
	s.failures.Add(1)
	s.suspect.Store(true)
	if s.streak.Add(1) < ejectAfter {
		return 0
	}
	r.ejecting.Lock()
	defer r.ejecting.Unlock()
	if s.out(now) || !r.mayEject(c, now) {
		return 0
	}
	if now.Sub(s.last) > ejectMost {
		s.times = 0
	}
	last := min(ejectMost, ejectFirst<<min(s.times, 10))
	s.times++
	s.last = now.Add(last)
	s.ejections.Add(1)
	s.ejected.Store(s.last.UnixNano())
	return last
}

// mayEject: of a region's backends for the app at most half are ejected.
func (r *Router) mayEject(c Choice, now time.Time) bool {
	t := r.table.Load()
	p := t.pool(c.Backend.App)
	if p == nil || p.byRegion[c.Backend.Region] == nil {
		return false // it is not routed to any more
	}
	targets := p.byRegion[c.Backend.Region].targets
	out := 1
	for i := range targets {
		if targets[i].Slot.out(now) {
			out++
		}
	}
	return 2*out <= len(targets)
}

// Readmit ends a backend's ejection, and says whether there was one.
func (r *Router) Readmit(id string) bool {
	r.ejecting.Lock()
	defer r.ejecting.Unlock()
	s := r.Slots.Get(id)
	s.streak.Store(0)
	s.times = 0
	return s.ejected.Swap(0) != 0
}

// Suspects are the backends to which a connect failed since it was last asked:
// whoever checks them should look at once.
func (r *Router) Suspects() []string {
	var ids []string
	for _, s := range r.Slots.list() {
		if s.suspect.Load() && s.suspect.Swap(false) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}
