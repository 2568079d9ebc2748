package route

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Query is who asks for what.
type Query struct {
	App    string     // empty: any backend serves
	Client netip.Addr // for affinity
	Place  geo.Place  // of the client; zero where unknown
	Waits  bool       // with strict limits: for a right, rather than go farther away
}

// Choice is a backend on which a place was taken. Backend is nil when there
// was none; Slot.Release gives the place back.
type Choice struct {
	Backend *mesh.Backend
	Slot    *Slot
	Tier    int
	Reason  Reason
	Lacks   string // with strict limits: what would be chosen, had this POP a right to it
	Urgent  bool   // and there is nothing else to choose
}

// Router picks backends from the newest snapshot. Safe for concurrent use;
// Update may run beside any number of picks.
type Router struct {
	Slots    Slots
	balance  balance
	bindings Bindings
	table    atomic.Pointer[Table]
	ejecting sync.Mutex // one ejection at a time, so that they are counted
	updating sync.Mutex // one Update at a time: a table's slots must not be pruned by another
	tuning   Tuning     // guarded by updating
}

// Tuning is what an operator sets for the whole POP.
type Tuning struct {
	// Panic is how many percent of an app's backends must be up, or checks are
	// not believed, where its service says nothing. 0: when none is.
	Panic int64
	// HardMargin lowers every hard limit by this share, 0 to 0.5, where other
	// POPs have connections too: whose counts are an estimate.
	HardMargin float64
}

// Tune changes the tuning.
func (r *Router) Tune(t Tuning) {
	r.updating.Lock()
	defer r.updating.Unlock()
	r.tuning = t
	r.table.Store(r.layOut(r.table.Load().Snapshot))
}

// NewRouter routes nothing until the first Update.
func NewRouter(bindings Bindings) *Router {
	r := &Router{bindings: bindings}
	r.balance.init(&r.Slots)
	r.table.Store(newTable(&mesh.Snapshot{}, &r.balance, 0))
	return r
}

// Update makes the snapshot the one that picks are made from.
func (r *Router) Update(snap *mesh.Snapshot, now time.Time) {
	r.updating.Lock()
	defer r.updating.Unlock()
	old, t := r.table.Load(), r.layOut(snap)
	for id, target := range t.byID {
		if len(old.byID) > 0 && old.byID[id] == nil {
			target.Slot.since.Store(now.UnixNano()) // slow start
		}
	}
	r.table.Store(t)
	r.balance.prune(t)
}

func (r *Router) layOut(snap *mesh.Snapshot) *Table {
	t := newTable(snap, &r.balance, r.tuning.HardMargin)
	t.panic(r.tuning.Panic)
	return t
}

// Snapshot is the one that picks are made from now.
func (r *Router) Snapshot() *mesh.Snapshot { return r.table.Load().Snapshot }

// tableFor is what the client is served by. One that is a POP itself is not sent
// on to another: so a loop of POPs that relay to each other ends where it began.
func (r *Router) tableFor(q Query) *Table {
	t := r.table.Load()
	if t.ends != nil && t.Snapshot.POPs[q.Client] {
		return t.ends
	}
	return t
}

// Bindings is the number of clients bound to a backend.
func (r *Router) Bindings() int { return r.bindings.Len() }

// Pick chooses a backend for the query and takes a place on it. The slots in
// tried are left out: backends to which this client's connect just failed. It
// allocates nothing and takes no lock but that of the bindings.
func (r *Router) Pick(q Query, tried []*Slot, now time.Time, random uint64) Choice {
	t := r.tableFor(q)
	s := r.step(tried, now, random)
	s.waits = q.Waits
	if len(tried) == 0 {
		if target := t.bound(r.bindings, q, &s); target != nil && target.Reserve(s.e) {
			tier, _ := t.regionScore(q.Place, target.Backend.Region, t.Snapshot.Positions[target.Backend.Region])
			return t.taken(target, tier, ReasonAffinity)
		}
	}
	// A place can be gone between looking and taking, when many pick at once.
	// Each round that loses it has seen another connection or an Update win, so this ends.
	for {
		target, tier := t.pick(q, &s)
		if target == nil {
			if q.Waits && s.offered.target != nil {
				return s.lack(q)
			}
			if newer := r.tableFor(q); newer != t {
				t = newer // in which there may be one
				continue
			}
			if !s.greedy {
				s.greedy = true // nobody is refused while there may be room
				continue
			}
			if !s.desperate {
				s.desperate = true // better one that may have failed than none
				continue
			}
			return s.lack(q)
		}
		if target.Reserve(s.e) {
			return t.taken(target, tier, tierReasons[tier])
		}
		s.random = mix(s.random)
	}
}

func (r *Router) step(tried []*Slot, now time.Time, random uint64) step {
	b := &r.balance
	s := step{balance: b, tried: tried, now: now, random: random, alone: b.alone.Load()}
	if !s.alone {
		b.fold(now)
	}
	s.e = b.stay.Load()
	return s
}

func (t *Table) taken(target *Target, tier int, reason Reason) Choice {
	target.Slot.picks[tier].Add(1)
	return Choice{Backend: target.Backend, Slot: target.Slot, Tier: tier, Reason: reason}
}

// bound is the target that the client is bound to, if it may still be used: it
// serves the app, neither the operator nor checks say otherwise, and it is
// below its limit.
func (t *Table) bound(bindings Bindings, q Query, s *step) *Target {
	id, ok := bindings.Get(KeyOf(q.App, q.Client), s.now)
	if !ok {
		return nil
	}
	target := t.byID[id]
	if target == nil || !serves(target.Backend, q.App) {
		return nil
	}
	s.tryFrom = t.pool(q.App).tryFrom.Load()
	own := target.Slot.Connections()
	if own >= target.limit(s.e) && !target.strict || s.barred(target.Slot) || target.strict && s.lacks(target, own, true) {
		return nil
	}
	return target
}

// Bind remembers that the client was served by the choice, as of now.
func (r *Router) Bind(q Query, c Choice, now time.Time) {
	r.bindings.Put(KeyOf(q.App, q.Client), c.Backend.ID, now)
}
