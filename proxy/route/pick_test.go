package route

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"pgregory.net/rapid"
)

// world is a random mesh with connections on it, and who asks.
type world struct {
	router *Router
	query  Query
	counts map[string]int64
	tried  []*Slot
	random uint64
}

func drawWorld(t *rapid.T, positions bool, mostConnections int64) *world {
	regions := []geo.Region{"sa", "us", "eu", "ap", "af", "mars"}
	region := rapid.SampledFrom(regions)
	n := rapid.IntRange(0, 12).Draw(t, "backends")
	var backends []mesh.Backend
	for i := range n {
		b := backend(fmt.Sprintf("b%02d", i), region.Draw(t, "region"))
		b.App = rapid.SampledFrom([]string{"myapp", "myapp", "other", ""}).Draw(t, "app")
		b.Weight = rapid.Int64Range(0, 4).Draw(t, "weight")
		b.SoftLimit = rapid.SampledFrom([]int64{0, 1, 2, 3, 7, 49, 50}).Draw(t, "soft")
		b.HardLimit = rapid.SampledFrom([]int64{0, 0, 1, 3, 100}).Draw(t, "hard")
		state := rapid.IntRange(0, 9).Draw(t, "state")
		b.Healthy, b.Deleted, b.Draining = state != 0, state == 1, state == 2
		backends = append(backends, b)
	}
	snap := snapshot(region.Draw(t, "self"), backends...)
	if !positions {
		snap.Positions, snap.Self.Position = nil, geo.Vector{}
	}
	w := &world{router: newRouter(snap), counts: map[string]int64{}, random: rapid.Uint64().Draw(t, "random")}
	for _, b := range backends {
		w.counts[b.ID] = rapid.Int64Range(0, mostConnections).Draw(t, "connections")
		w.router.load(b.ID, w.counts[b.ID])
		if rapid.IntRange(0, 9).Draw(t, "tried") == 0 {
			w.tried = append(w.tried, w.router.Slots.Get(b.ID))
		}
	}
	w.query = from(rapid.SampledFrom([]string{"BR", "US", "DE", "JP", "KE", "AQ", "", "ZZ"}).Draw(t, "country"))
	w.query.App = rapid.SampledFrom([]string{"myapp", "other", "", "none"}).Draw(t, "app asked for")
	return w
}

// rank is how the design orders candidates: region score first, then load as an
// exact fraction.
type rank struct {
	tier     int
	distance float64 // on top of 2, in tier 2
	n, of    int64
}

func (a rank) compare(b rank) int {
	switch {
	case a.tier != b.tier:
		return a.tier - b.tier
	case a.distance < b.distance:
		return -1
	case a.distance > b.distance:
		return 1
	}
	return int(min(1, max(-1, a.n*b.of-b.n*a.of)))
}

// best are the backends that the seed's formula allows, worked out the long way round.
func (w *world) best(tried []*Slot) (best []string, tier int) {
	snap := w.router.Snapshot()
	clients := snap.Self.Region
	if w.query.Place.Country != "" {
		clients = w.query.Place.Region
	}
	var least rank
	for _, b := range snap.Backends {
		switch {
		case w.query.App != "" && b.App != w.query.App, !b.Healthy, b.Deleted, b.Draining:
			continue
		case b.HardLimit != 0 && w.counts[b.ID] >= b.HardLimit:
			continue
		case slices.ContainsFunc(tried, func(s *Slot) bool { return s.ID == b.ID }):
			continue
		}
		r := rank{tier: 2, n: w.counts[b.ID], of: max(1, b.SoftLimit) * max(1, b.Weight)}
		if b.Region == clients {
			r.tier = 0
		} else if b.Region == snap.Self.Region {
			r.tier = 1
		} else if at := w.query.Place.At; at.Known() || snap.Self.Position.Known() {
			if !at.Known() {
				at = snap.Self.Position
			}
			r.distance = min(1, at.Distance(snap.Positions[b.Region])/20_000) // unknown: the farthest
		}
		switch c := r.compare(least); {
		case best == nil || c < 0:
			best, least = []string{b.ID}, r
		case c == 0:
			best = append(best, b.ID)
		}
	}
	return best, least.tier
}

// TestPickIsTheFormula: what Pick takes and Explain names is what a naive
// implementation of the design finds, for any mesh.
func TestPickIsTheFormula(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, rapid.Bool().Draw(t, "positions"), 8)
		for _, tried := range [][]*Slot{nil, w.tried} {
			best, tier := w.best(tried)
			explained := w.router.Explain(w.query, noon, w.random)
			got := w.router.Pick(w.query, tried, noon, w.random)
			if len(best) == 0 {
				if got != (Choice{Reason: ReasonNone}) {
					t.Fatalf("picked %+v, want none", got)
				}
				if len(tried) == 0 && (explained.Chosen != "" || explained.Reason != ReasonNone) {
					t.Fatalf("explained %+v, want none", explained)
				}
				continue
			}
			if got.Backend == nil || !slices.Contains(best, got.Backend.ID) || got.Tier != tier || got.Reason != tierReasons[tier] {
				t.Fatalf("picked %+v, want one of %v of tier %d", got, best, tier)
			}
			if n := w.router.own(got.Backend.ID); n != w.counts[got.Backend.ID]+1 {
				t.Fatalf("%d connections after the pick, want %d", n, w.counts[got.Backend.ID]+1)
			}
			got.Slot.Release(0)
			if len(tried) > 0 {
				continue
			}
			if explained.Chosen != got.Backend.ID || explained.Reason != got.Reason {
				t.Fatalf("explained %s for %s, picked %s for %s", explained.Chosen, explained.Reason, got.Backend.ID, got.Reason)
			}
			i := slices.IndexFunc(explained.Candidates, func(c Candidate) bool { return c.Excluded == Included })
			if first := explained.Candidates[i]; !slices.Contains(best, first.ID) || first.Tier != tier {
				t.Fatalf("the first candidate is %+v, want one of %v", first, best)
			}
		}
		for id, n := range w.counts {
			if got := w.router.own(id); got != n {
				t.Fatalf("%s has %d connections, want %d", id, got, n)
			}
		}
	})
}

// TestPickIsTheREADME: without positions, and as long as load/weight stays
// below 100, the seed's printed sum itself is least for what is picked.
func TestPickIsTheREADME(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, false, 99)
		w.query.Place.At = geo.Vector{}
		e := w.router.Explain(w.query, noon, w.random)
		last, least := math.Inf(-1), math.Inf(1)
		for _, c := range e.Candidates {
			b, _ := w.router.Snapshot().Backend(c.ID)
			n := float64(w.counts[c.ID])
			regionScore := 2.0
			switch {
			case w.query.Place.Country == "" && b.Region == w.router.Snapshot().Self.Region, b.Region == w.query.Place.Region && w.query.Place.Country != "":
				regionScore = 0
			case b.Region == w.router.Snapshot().Self.Region:
				regionScore = 1
			}
			score := regionScore*100 + n/float64(max(1, b.SoftLimit))/float64(max(1, b.Weight))
			if math.Abs(c.Score-score) > 1e-9 || math.Abs(c.LoadFactor-n/float64(max(1, b.SoftLimit))) > 1e-9 {
				t.Fatalf("%+v, want score %v", c, score)
			}
			if c.Score < last-1e-9 {
				t.Fatalf("candidates are not in order of score: %+v", e.Candidates)
			}
			last = c.Score
			if c.Excluded == Included {
				least = min(least, score)
			}
			if c.ID == e.Chosen && (c.Excluded != Included || score > least+1e-9) {
				t.Fatalf("%s was chosen of %+v", e.Chosen, e.Candidates)
			}
		}
		if (e.Chosen == "") != math.IsInf(least, 1) {
			t.Fatalf("chosen %q of %+v", e.Chosen, e.Candidates)
		}
	})
}
