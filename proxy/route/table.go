package route

import (
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Target is a backend that may be picked, with what the pick reads laid out
// beside each other.
type Target struct {
	Backend  *mesh.Backend
	Slot     *Slot
	capacity float64 // soft_limit·weight
	hard     int64   // hard_limit, 0 none
}

// Reserve takes one connection's place on the backend and says whether there
// was one. The place is given back with Slot.Release, exactly once.
func (t *Target) Reserve() bool { return t.Slot.reserve(t.hard) }

// group is the routable backends of one region.
type group struct {
	region  geo.Region
	at      geo.Vector // zero: unknown
	targets []Target
}

// pool is the routable backends of one app, by region.
type pool struct {
	byRegion map[geo.Region]*group
	groups   []*group // by region code
}

// Table is a snapshot laid out for picking. It never changes; the counts
// behind the Slots do.
type Table struct {
	Snapshot *mesh.Snapshot
	every    *pool // for a service that names no app
	apps     map[string]*pool
	byID     map[string]*Target
}

// NewTable lays out a snapshot. The counts of a backend live in slots under
// its id and are carried from table to table.
func NewTable(snap *mesh.Snapshot, slots *Slots) *Table {
	t := &Table{
		Snapshot: snap,
		every:    &pool{byRegion: map[geo.Region]*group{}},
		apps:     map[string]*pool{},
		byID:     make(map[string]*Target, len(snap.Backends)),
	}
	for i := range snap.Backends {
		b := &snap.Backends[i]
		if !b.Routable() {
			continue
		}
		target := Target{Backend: b, Slot: slots.Get(b.ID), capacity: b.Capacity(), hard: b.HardLimit}
		t.byID[b.ID] = &target
		t.every.add(target, snap)
		if t.apps[b.App] == nil {
			t.apps[b.App] = &pool{byRegion: map[geo.Region]*group{}}
		}
		t.apps[b.App].add(target, snap)
	}
	t.every.sort()
	for _, p := range t.apps {
		p.sort()
	}
	return t
}

func (p *pool) add(t Target, snap *mesh.Snapshot) {
	g := p.byRegion[t.Backend.Region]
	if g == nil {
		g = &group{region: t.Backend.Region, at: snap.Positions[t.Backend.Region]}
		p.byRegion[g.region] = g
	}
	g.targets = append(g.targets, t)
}

func (p *pool) sort() {
	for _, r := range slices.Sorted(maps.Keys(p.byRegion)) {
		p.groups = append(p.groups, p.byRegion[r])
	}
}

// pool is the backends that serve the app; an empty app is served by all.
func (t *Table) pool(app string) *pool {
	if app == "" {
		return t.every
	}
	return t.apps[app]
}

// serves says whether the backend may be used for the app.
func serves(b *mesh.Backend, app string) bool { return app == "" || b.App == app }
