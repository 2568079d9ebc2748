package route

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Target is a backend that may be picked, with what the pick reads laid out
// beside each other.
type Target struct {
	Backend  *mesh.Backend
	Slot     *Slot
	demand   *demand
	capacity float64 // soft_limit·weight
	hard     int64   // hard_limit, 0 none
	bound    int64   // the same less the margin, for the sum over all POPs
	strict   bool    // a connection needs a right
}

const unlimited = math.MaxInt64

// Reserve takes one connection's place on the backend and says whether there
// was one. The place is given back with Slot.Release, exactly once. Of the
// connections that the others reported, e are taken to be there still.
func (t *Target) Reserve(e float64) bool {
	if t.Slot.strict {
		return t.Slot.reserveRight(t.hard > 0)
	}
	return t.Slot.reserve(t.limit(e))
}

// limit is how many connections this POP may have, beside those that the
// others are taken to have now.
func (t *Target) limit(e float64) int64 {
	if t.hard == 0 {
		return unlimited
	}
	others := t.Slot.others.Load()
	if others == 0 {
		return t.hard
	}
	return int64(math.Ceil(float64(t.bound) - e*float64(others)))
}

// capacityAt is less than the capacity for a while after a backend came back:
// a cache or a pool of threads has to warm up.
func (t *Target) capacityAt(now time.Time) float64 {
	since := t.Slot.since.Load()
	if since == 0 {
		return t.capacity
	}
	up := now.UnixNano() - since
	if up >= int64(slowStart) {
		return t.capacity
	}
	return t.capacity * max(0.1, float64(up)/float64(slowStart))
}

// group is the routable backends of one region.
type group struct {
	region  geo.Region
	at      geo.Vector // zero: unknown
	targets []Target
	demand  *demand
	plan    *plan
}

// pool is the routable backends of one app, by region.
type pool struct {
	byRegion map[geo.Region]*group
	groups   []*group     // by region code
	tryFrom  atomic.Int64 // unix ns; backends that are down since then or later are tried all the same

	adding sync.Mutex
	sets   atomic.Pointer[map[setKey]*plan]
}

// setKey names the plan over all other regions than two, of the same distance
// as far as is known.
type setKey struct {
	own, clients geo.Region
	score        float64
}

// Table is a snapshot laid out for picking. It never changes; the counts
// behind the Slots do.
type Table struct {
	Snapshot *mesh.Snapshot
	every    *pool // for a service that names no app
	apps     map[string]*pool
	byID     map[string]*Target
	ends     *Table // the same without backends that are POPs, for clients that are; nil: none is
}

// newTable lays out a snapshot. The counts of a backend live in slots under
// its id and are carried from table to table.
func newTable(snap *mesh.Snapshot, load *balance, margin float64) *Table {
	t := layTable(snap, load, margin, func(*mesh.Backend) bool { return true })
	if snap.POPs != nil {
		t.ends = layTable(snap, load, margin, func(b *mesh.Backend) bool { return b.POP == "" })
	}
	return t
}

func layTable(snap *mesh.Snapshot, load *balance, margin float64, takes func(*mesh.Backend) bool) *Table {
	t := &Table{
		Snapshot: snap,
		every:    newPool(),
		apps:     map[string]*pool{},
		byID:     make(map[string]*Target, len(snap.Backends)),
	}
	for i := range snap.Backends {
		b := &snap.Backends[i]
		slot := load.slot(b.ID)
		if !b.Routable() || !takes(b) {
			continue
		}
		target := Target{Backend: b, Slot: slot, capacity: b.Capacity(), hard: b.HardLimit, bound: b.HardLimit - int64(margin*float64(b.HardLimit)), strict: load.slots.strict && b.HardLimit > 0}
		t.byID[b.ID] = &target
		t.every.add(target, "", snap, load)
		if b.App != "" && t.apps[b.App] == nil {
			t.apps[b.App] = newPool()
		}
		if b.App != "" {
			t.apps[b.App].add(target, b.App, snap, load)
		}
	}
	t.every.sort()
	for _, p := range t.apps {
		p.sort()
	}
	return t
}

func newPool() *pool {
	p := &pool{byRegion: map[geo.Region]*group{}}
	p.tryFrom.Store(noPanic)
	p.sets.Store(&map[setKey]*plan{})
	return p
}

func (p *pool) add(t Target, app string, snap *mesh.Snapshot, load *balance) {
	r := t.Backend.Region
	g := p.byRegion[r]
	if g == nil {
		g = &group{region: r, at: snap.Positions[r], demand: load.demand(AppRegion{app, r})}
		p.byRegion[r] = g
	}
	t.demand = g.demand
	g.targets = append(g.targets, t)
}

func (p *pool) sort() {
	for _, r := range slices.Sorted(maps.Keys(p.byRegion)) {
		g := p.byRegion[r]
		g.plan = newPlan(g)
		p.groups = append(p.groups, g)
	}
}

// set is the plan over the groups, which are the same for the same key.
func (p *pool) set(key setKey, groups func() []*group) *plan {
	if s := (*p.sets.Load())[key]; s != nil {
		return s
	}
	p.adding.Lock()
	defer p.adding.Unlock()
	sets := maps.Clone(*p.sets.Load())
	if sets[key] == nil {
		sets[key] = newPlan(groups()...)
		p.sets.Store(&sets)
	}
	return sets[key]
}

// pool is the backends that serve the app; an empty app is served by all.
func (t *Table) pool(app string) *pool {
	if app == "" {
		return t.every
	}
	return t.apps[app]
}

// pools are all of them.
func (t *Table) pools() []*pool {
	return append(slices.Collect(maps.Values(t.apps)), t.every)
}

// serves says whether the backend may be used for the app.
func serves(b *mesh.Backend, app string) bool { return app == "" || b.App == app }
