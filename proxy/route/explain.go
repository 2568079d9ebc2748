package route

import (
	"cmp"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Explanation is a decision with everything that went into it.
type Explanation struct {
	Client     string      `json:"client"`
	Country    string      `json:"country"` // ISO 3166-1 alpha-2, empty where unknown
	Region     string      `json:"region"`  // where the client counts as being
	App        string      `json:"app"`
	Chosen     string      `json:"chosen"` // backend id, empty where there is none
	Reason     Reason      `json:"reason"`
	Panic      bool        `json:"panic,omitempty"` // so many of the app are down that checks are not believed
	Candidates []Candidate `json:"candidates"`      // in the order in which they would be taken
}

// Candidate is one backend of the app as the decision saw it.
type Candidate struct {
	ID          string    `json:"id"`
	Region      string    `json:"region"`
	Tier        int       `json:"tier"`        // 0 client's region, 1 the POP's own, 2 other
	Connections int64     `json:"connections"` // of all POPs
	Own         int64     `json:"own"`         // of this POP
	LoadFactor  float64   `json:"load_factor"` // connections / soft_limit
	Weight      int64     `json:"weight"`
	Score       float64   `json:"score"`
	Excluded    Exclusion `json:"excluded"`
	Why         string    `json:"why,omitempty"` // who says so and since when; filled in by whoever knows
}

// Exclusion says why a backend takes no new connections; empty where it does.
type Exclusion string

const (
	Included  Exclusion = ""
	Unhealthy Exclusion = "unhealthy"
	Deleted   Exclusion = "deleted"
	Draining  Exclusion = "draining"
	Full      Exclusion = "full"
	Down      Exclusion = "down"    // the checks say so
	Ejected   Exclusion = "ejected" // its last connects from this POP failed
	Expired   Exclusion = "expired" // it is registered, and nothing has been heard of it for too long
	Failing   Exclusion = "failing" // its own agent says that it is down
	Loop      Exclusion = "loop"    // it is a POP, and so is the client
)

// Load is this POP's connections with the backend, those of all POPs, and why
// it takes no new ones.
func (r *Router) Load(b *mesh.Backend, now time.Time) (own, all int64, why Exclusion) {
	s := r.Slots.find(b.ID)
	if s == nil {
		return 0, 0, Excluded(b, 0)
	}
	own = s.Connections()
	all = own + s.others.Load()
	why = Excluded(b, all)
	switch {
	case why != Included && why != Full:
	case s.down.Load() != 0:
		why = Down
	case s.out(now):
		why = Ejected
	}
	return own, all, why
}

// Excluded says why a backend with so many connections takes no new ones, by its row alone.
func Excluded(b *mesh.Backend, connections int64) Exclusion {
	switch {
	case b.Deleted:
		return Deleted
	case !b.Healthy:
		return Unhealthy
	case b.Draining:
		return Draining
	case b.Expired:
		return Expired
	case b.Failing():
		return Failing
	case b.HardLimit > 0 && connections >= b.HardLimit:
		return Full
	}
	return Included
}

// Explain says what Pick would decide now, and why; it takes no place and
// changes no binding. Where several are equal it names one of them.
func (r *Router) Explain(q Query, now time.Time, random uint64) Explanation {
	t := r.tableFor(q)
	e := Explanation{
		Client:     q.Client.String(),
		Country:    q.Place.Country,
		Region:     string(t.region(q.Place)),
		App:        q.App,
		Reason:     ReasonNone,
		Candidates: []Candidate{},
	}
	regionScores := make(map[string]float64) // by id
	for i := range t.Snapshot.Backends {
		b := &t.Snapshot.Backends[i]
		if !serves(b, q.App) {
			continue
		}
		own, n, why := r.Load(b, now)
		if why == Included && b.POP != "" && t.ends == nil {
			why = Loop
		}
		tier, score := t.regionScore(q.Place, b.Region, t.Snapshot.Positions[b.Region])
		regionScores[b.ID] = score
		e.Candidates = append(e.Candidates, Candidate{
			ID: b.ID, Region: string(b.Region), Tier: tier, Connections: n, Own: own,
			LoadFactor: float64(n) / float64(max(b.SoftLimit, 1)), Weight: b.Weight,
			Score: score*100 + float64(n)/b.Capacity(), Excluded: why,
		})
	}
	// The score itself orders the same until load/weight makes up for a region.
	slices.SortStableFunc(e.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(regionScores[a.ID], regionScores[b.ID]), cmp.Compare(a.Score, b.Score))
	})
	if p := t.pool(q.App); p != nil {
		e.Panic = p.tryFrom.Load() != noPanic
	}
	s := r.step(nil, now, random)
	s.dry = true
	if target := t.bound(r.bindings, q, &s); target != nil {
		e.Chosen, e.Reason = target.Backend.ID, ReasonAffinity
		return e
	}
	target, tier := t.pick(q, &s)
	if target == nil {
		s.greedy, s.desperate = true, true
		target, tier = t.pick(q, &s)
	}
	if target == nil { // a client would wait for a right, and get one or the next best
		target, tier = s.wanting(t, q)
	}
	if target != nil {
		e.Chosen, e.Reason = target.Backend.ID, tierReasons[tier]
	}
	return e
}
