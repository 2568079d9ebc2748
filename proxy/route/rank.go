package route

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Ranked is one backend of a ranking.
type Ranked struct {
	Backend *mesh.Backend
	Tier    int // 0 client's region, 1 the POP's own, 2 other
	// Headroom is how many connections it takes until it has its capacity
	// (soft_limit·weight) or its hard limit; 0 where it has that or more.
	Headroom int64
}

// Rank lists up to so many backends in the order in which repeated picks would
// take them, each time without those that are named already: for clients that
// choose by themselves, as those of DNS do. Only: those of one region; empty:
// of all. A backend that the client is bound to stands first.
//
// What the pick would not take is not listed. Where it would take none, those
// are listed that only have too much: an address that is busy is better than
// none. Where there are none of these, those that this POP ejected, and then
// those that are down, or of which nothing has been heard for too long. What the operator took out (deleted, draining, not
// healthy) is never listed.
//
// It takes no place, makes and renews no binding, and counts as no demand.
func (r *Router) Rank(q Query, only geo.Region, most int, now time.Time, random uint64) []Ranked {
	t := r.table.Load()
	s := r.step(nil, now, random)
	s.dry, s.ranking = true, true
	var ranked []Ranked
	add := func(target *Target, tier int) {
		s.tried = append(s.tried, target.Slot)
		ranked = append(ranked, rankedAt(target.Backend, tier, target.Slot.Connections()+target.Slot.others.Load()))
	}
	if target := t.boundAny(r.bindings, q, &s); target != nil && most > 0 && (only == "" || only == target.Backend.Region) {
		tier, _ := t.regionScore(q.Place, target.Backend.Region, t.Snapshot.Positions[target.Backend.Region])
		add(target, tier)
	}
	for len(ranked) < most {
		target, tier := t.next(q, only, &s)
		if target == nil && s.greedy {
			break
		}
		if target == nil {
			s.greedy = true // nobody is refused while there may be room
			continue
		}
		add(target, tier)
		s.random = mix(s.random)
	}
	if len(ranked) == 0 {
		return r.lastResort(t, q, only, most, now)
	}
	return ranked
}

// next is pick, of one region or of all.
func (t *Table) next(q Query, only geo.Region, s *step) (*Target, int) {
	if only == "" {
		return t.pick(q, s)
	}
	p := t.pool(q.App)
	if p == nil || p.byRegion[only] == nil {
		return nil, 0
	}
	g := p.byRegion[only]
	s.tryFrom = p.tryFrom.Load()
	tier, _ := t.regionScore(q.Place, only, g.at)
	return g.plan.choose(s, true), tier
}

// boundAny is bound, also for a client that a service without an app bound to a
// backend of this one.
func (t *Table) boundAny(bindings Bindings, q Query, s *step) *Target {
	if !q.Client.IsValid() || t.pool(q.App) == nil {
		return nil
	}
	if target := t.bound(bindings, q, s); target != nil || q.App == "" {
		return target
	}
	target := t.bound(bindings, Query{Client: q.Client}, s)
	if target == nil || !serves(target.Backend, q.App) {
		return nil
	}
	return target
}

// rankedAt is a backend with so many connections over the whole mesh.
func rankedAt(b *mesh.Backend, tier int, n int64) Ranked {
	room := b.Capacity()
	if b.HardLimit > 0 {
		room = min(room, float64(b.HardLimit))
	}
	return Ranked{Backend: b, Tier: tier, Headroom: int64(max(0, min(room-float64(n), math.MaxInt32)))}
}

// lastResort are backends that the operator lets take connections and that do
// not take any, of those that look best.
func (r *Router) lastResort(t *Table, q Query, only geo.Region, most int, now time.Time) []Ranked {
	type candidate struct {
		Ranked
		class         int
		region, score float64
	}
	var all []candidate
	add := func(b *mesh.Backend) {
		if b.Deleted || !b.Healthy || b.Draining || only != "" && b.Region != only || !serves(b, q.App) {
			return
		}
		_, n, why := r.Load(b, now)
		tier, region := t.regionScore(q.Place, b.Region, t.Snapshot.Positions[b.Region])
		all = append(all, candidate{rankedAt(b, tier, n), class(b, why), region, float64(n) / b.Capacity()})
	}
	if p := t.pool(q.App); p != nil {
		for _, g := range p.groups {
			for i := range g.targets {
				add(g.targets[i].Backend)
			}
		}
	}
	if len(all) == 0 { // what is not laid out is out for another reason than the operator's word
		for i := range t.Snapshot.Backends {
			add(&t.Snapshot.Backends[i])
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.region, b.region), cmp.Compare(a.score, b.score), cmp.Compare(a.Backend.ID, b.Backend.ID))
	})
	var ranked []Ranked
	for _, c := range all {
		if len(ranked) == most || c.class != all[0].class {
			break
		}
		ranked = append(ranked, c.Ranked)
	}
	return ranked
}

// class orders the reasons for which a backend takes no connections by how
// likely it is that one comes about all the same.
func class(b *mesh.Backend, why Exclusion) int {
	switch {
	case !b.Routable(): // its registration has expired, or its agent says that it fails
		return 2
	case why == Included, why == Full:
		return 0
	case why == Ejected:
		return 1
	}
	return 2
}

// Standing is a number that is the same as long as the same backends of an app,
// of one region or of all, take connections at the same addresses.
func (r *Router) Standing(app string, only geo.Region, now time.Time) (sum uint64) {
	t := r.table.Load()
	p := t.pool(app)
	if p == nil {
		return 0
	}
	e := r.balance.stay.Load()
	for _, g := range p.groups {
		if only != "" && g.region != only {
			continue
		}
		for i := range g.targets {
			target := &g.targets[i]
			s := target.Slot
			if s.down.Load() != 0 || s.out(now) || !target.strict && s.Connections() >= target.limit(e) {
				continue
			}
			sum += mix(mix(fingerprint(s.ID)) ^ fingerprint(string(target.Backend.Addr.Addr().AsSlice())) ^ uint64(target.Backend.Addr.Port()))
		}
	}
	return sum
}

// fingerprint is FNV-1a (Fowler, Noll, Vo).
func fingerprint(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
