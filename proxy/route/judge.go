package route

import (
	"math"
	"time"
)

// Judgement is what the checks of the whole mesh say of one backend.
type Judgement struct {
	Backend string
	Down    bool
}

// lastGood: in a panic those backends are tried that went down within this time
// of the last one. One that has been down for days is no better for it.
const lastGood = time.Minute

// noPanic is pool.tryFrom where checks are believed.
const noPanic = math.MaxInt64

// Judge takes over what the checks say. A backend that is down gets no new
// connections, unless so many of its app are that the checks are not believed
// (see mesh.Service.Panic); one that comes back is not ejected any more, and
// gets its share slowly.
func (r *Router) Judge(list []Judgement, now time.Time) {
	r.updating.Lock()
	defer r.updating.Unlock()
	for _, j := range list {
		s := r.Slots.find(j.Backend)
		if s == nil {
			continue
		}
		switch was := s.down.Load(); {
		case j.Down && was == 0:
			s.down.Store(now.UnixNano())
		case !j.Down && was != 0:
			s.since.Store(now.UnixNano()) // before it is in use again
			s.down.Store(0)
			r.Readmit(j.Backend) // failed connects said no more than that it was down
		}
	}
	if len(list) > 0 {
		r.table.Load().panic(r.tuning.Panic)
	}
}

// Down are the backends that get nothing because of what checks say.
func (r *Router) Down() []string {
	var ids []string
	for _, s := range r.Slots.list() {
		if s.down.Load() != 0 {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// panic finds out for every app whether so many of its backends look dead that
// it may not be the backends.
func (t *Table) panic(byDefault int64) {
	t.every.panic(byDefault)
	for app, p := range t.apps {
		percent := byDefault
		if at := t.Snapshot.Service(app).Panic; at != nil {
			percent = *at
		}
		p.panic(percent)
	}
	if t.ends != nil {
		t.ends.panic(byDefault)
	}
}

func (p *pool) panic(percent int64) {
	up, all, last := int64(0), int64(0), int64(0)
	for _, g := range p.groups {
		for i := range g.targets {
			down := g.targets[i].Slot.down.Load()
			all++
			if down == 0 {
				up++
			}
			last = max(last, down)
		}
	}
	from := int64(noPanic)
	if up < all && (up == 0 || 100*up < percent*all) {
		from = last - int64(lastGood)
	}
	p.tryFrom.Store(from)
}

// barred says whether the backend gets no new connections at this step because
// of what checks or failed connects say.
func (s *step) barred(t *Slot) bool {
	if down := t.down.Load(); down != 0 && down < s.tryFrom {
		return true
	}
	return !s.desperate && t.out(s.now)
}
