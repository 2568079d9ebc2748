package route

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

// TestHardLimitIsExact under concurrency: never one above, and as long as all
// places are held, exactly as many picks succeed as there are places.
func TestHardLimitIsExact(t *testing.T) {
	limits := map[string]int64{"a": 1, "b": 7, "c": 50, "d": 13}
	r := newRouter(snapshot("sa",
		backend("a", "sa", hard(1)), backend("b", "sa", hard(7)), backend("c", "us", hard(50)), backend("d", "ap", hard(13))))
	var taken [4]atomic.Int64
	index := map[string]int{"a": 0, "b": 1, "c": 2, "d": 3}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			random := uint64(g)
			for range 8_000 {
				random = mix(random)
				c := r.Pick(from("BR"), nil, noon, random)
				if c.Backend == nil {
					continue
				}
				n := &taken[index[c.Backend.ID]]
				if got := n.Add(1); got > limits[c.Backend.ID] {
					t.Errorf("%d connections on %s", got, c.Backend.ID)
				}
				n.Add(-1)
				c.Slot.Release(0)
			}
		})
	}
	wg.Wait()
	for id := range limits {
		if n := r.own(id); n != 0 {
			t.Errorf("%s keeps %d places", id, n)
		}
	}

	var got atomic.Int64
	for g := range 8 {
		wg.Go(func() {
			random := uint64(g) << 32
			for range 100 {
				random = mix(random)
				if r.Pick(from("BR"), nil, noon, random).Backend != nil {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 1+7+50+13 {
		t.Errorf("%d picks succeeded, want %d", got.Load(), 1+7+50+13)
	}
	for id, limit := range limits {
		if n := r.own(id); n != limit {
			t.Errorf("%s has %d connections, want %d", id, n, limit)
		}
	}
}

// TestReserve itself, where picks are too slow to meet often.
func TestReserve(t *testing.T) {
	s := NewRouter(NewAffinity(0, 0)).Slots.Get("x")
	for i := range 5 {
		if !s.reserve(5) {
			t.Fatalf("place %d of 5 cannot be taken", i+1)
		}
	}
	if s.reserve(5) || s.reserve(4) || s.reserve(1) || !s.reserve(6) || !s.reserve(unlimited) || s.Connections() != 7 {
		t.Errorf("%d places taken, want 7", s.Connections())
	}
	for range 7 {
		s.Release(0)
	}

	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 150_000 {
				if !s.reserve(2) {
					continue
				}
				if n := taken.Add(1); n > 2 {
					t.Errorf("%d places taken of 2", n)
				}
				taken.Add(-1)
				s.Release(0)
			}
		})
	}
	wg.Wait()
	if n := s.Connections(); n != 0 {
		t.Errorf("%d places are left taken", n)
	}
}

// TestHardLimitHoldsForBoundClientsToo.
func TestHardLimitHoldsForBoundClientsToo(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(5))))
	q := from("BR")
	c := r.Pick(q, nil, noon, 1)
	r.Bind(q, c, noon)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if r.Pick(q, nil, noon, 1).Backend != nil {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != 4 {
		t.Errorf("%d picks succeeded, want 4 beside the first", got.Load())
	}
}

// TestNoPlaceIsLost while backends come and go: a place that is held counts
// from the pick to the release, against the limit too, whatever Update prunes.
func TestNoPlaceIsLost(t *testing.T) {
	const limit = 3
	with := snapshot("sa", backend("comes", "sa", hard(limit)), backend("free", "sa"), backend("stays", "us"))
	without := snapshot("sa", backend("stays", "us"))
	r := newRouter(with)
	var comes, free atomic.Int64
	count := map[string]*atomic.Int64{"comes": &comes, "free": &free, "stays": new(atomic.Int64)}
	stop := make(chan struct{})
	var picking, updating sync.WaitGroup
	for g := range 4 {
		picking.Go(func() {
			random := uint64(g)
			var held []Choice
			for range 5000 {
				random = mix(random)
				if len(held) > 3 || random%3 == 0 && len(held) > 0 {
					count[held[0].Backend.ID].Add(-1)
					held[0].Slot.Release(0)
					held = held[1:]
					continue
				}
				c := r.Pick(from("BR"), nil, noon, random)
				if c.Backend == nil {
					t.Error("none, though stays has no limit")
					continue
				}
				if n := count[c.Backend.ID].Add(1); c.Backend.ID == "comes" && n > limit {
					t.Errorf("%d connections on comes", n)
				}
				held = append(held, c)
			}
			for _, c := range held {
				// Held places keep their slot in the set.
				if r.Slots.Get(c.Backend.ID) != c.Slot || c.Slot.Connections() < 1 {
					t.Errorf("a place held on %s is counted nowhere", c.Backend.ID)
				}
				count[c.Backend.ID].Add(-1)
				c.Slot.Release(0)
			}
		})
	}
	for _, snap := range []*mesh.Snapshot{with, without} { // two at once, as nobody should
		updating.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.Update(snap, noon)
				}
			}
		})
	}
	picking.Wait()
	close(stop)
	updating.Wait()
	r.Update(with, noon)
	for id := range count {
		if n := r.own(id); n != 0 {
			t.Errorf("%s keeps %d places", id, n)
		}
		if c := r.Pick(from("BR"), []*Slot{}, noon, 1); c.Backend == nil {
			t.Error("nothing can be picked any more")
		} else {
			c.Slot.Release(0)
		}
	}
	for i := range limit {
		if !r.table.Load().byID["comes"].Reserve(1) {
			t.Errorf("place %d of %d cannot be taken", i+1, limit)
		}
	}
}

// TestPrunedSlotTakesNoPlace through a table that still has it, and ends no
// pick in a loop.
func TestPrunedSlotTakesNoPlace(t *testing.T) {
	for _, limit := range []int64{0, 5} {
		r := newRouter(snapshot("sa", backend("gone", "sa", hard(limit)), backend("held", "us", hard(limit))))
		held := r.table.Load().byID["held"]
		if !held.Reserve(1) {
			t.Fatal("no place")
		}
		old, slot := r.table.Load(), r.Slots.Get("gone")
		r.Update(snapshot("sa"), noon)
		if old.byID["gone"].Reserve(1) || slot.Connections() != 0 {
			t.Errorf("a place was taken on a slot that is gone: %d", slot.Connections())
		}
		if target, tier := old.pick(from("BR"), &step{balance: &r.balance, alone: true, e: 1, random: 1}); target == nil || target.Backend.ID != "held" || tier != 2 && tier != 1 {
			t.Errorf("picked %+v, want the one that is still counted", target)
		}
		if r.Slots.Get("held") != held.Slot || held.Slot.Connections() != 1 {
			t.Error("a held place was pruned")
		}
		// What comes back begins anew, and at once.
		r.Update(snapshot("sa", backend("gone", "sa", hard(limit))), noon)
		if c := r.Pick(from("BR"), nil, noon, 1); c.Backend == nil || c.Slot == slot || c.Slot.Connections() != 1 {
			t.Errorf("%+v", c)
		}
		held.Slot.Release(0)
		r.Update(snapshot("sa"), noon)
		if stats := r.Slots.Stats(); len(stats) != 1 || stats[0].ID != "gone" {
			t.Errorf("slots %+v, want only the one with a connection", stats)
		}
	}
}

// TestUpdatesAtOnce leave a table whose slots are those of the set: otherwise
// one Update has pruned what the other routes over.
func TestUpdatesAtOnce(t *testing.T) {
	with, without := snapshot("sa", backend("a", "sa")), snapshot("sa", backend("b", "sa"))
	r := newRouter(without)
	for range 1500 {
		var wg sync.WaitGroup
		wg.Go(func() { r.Update(with, noon) })
		wg.Go(func() { r.Update(without, noon) })
		wg.Wait()
		for id, target := range r.table.Load().byID {
			if r.Slots.Get(id) != target.Slot {
				t.Fatalf("%s is routed to, and its slot is pruned", id)
			}
		}
	}
}

// meanwhile lets something happen between Pick's look at the table and its choice.
type meanwhile struct{ happens func() }

func (m *meanwhile) Get(Key, time.Time) (string, bool) {
	if m.happens != nil {
		m.happens()
	}
	return "", false
}
func (*meanwhile) Put(Key, string, time.Time) {}
func (*meanwhile) Len() int                   { return 0 }

// TestUpdateDuringAPick: the client is not refused because the table that its
// pick began with has nothing left.
func TestUpdateDuringAPick(t *testing.T) {
	m := new(meanwhile)
	r := NewRouter(m)
	r.Update(snapshot("sa", backend("old", "sa")), noon)
	m.happens = func() { r.Update(snapshot("sa", backend("new", "sa")), noon) }
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend == nil || c.Backend.ID != "new" {
		t.Errorf("%+v, want new", c)
	}
	// A backend on which a connection is open may still be picked from the table
	// that the pick began with; the place counts all the same.
	m.happens = func() { r.Update(snapshot("sa"), noon) }
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend == nil || r.own("new") != 2 {
		t.Errorf("%+v, with %d connections counted, want 2", c, r.own("new"))
	}
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil {
		t.Errorf("%+v, want none", c)
	}
}

func TestSlotsDoNotGrow(t *testing.T) {
	r := newRouter(snapshot("sa"))
	for i := range 500 {
		r.Update(snapshot("sa", backend(fmt.Sprint("b", i), "sa"), backend("stays", "sa")), noon)
	}
	if got := len(r.Slots.Stats()); got != 2 {
		t.Errorf("%d slots, want 2", got)
	}
}

func TestSlotStats(t *testing.T) {
	r := newRouter(snapshot("us", backend("a", "sa", hard(2)), backend("b", "us", hard(1)), backend("c", "ap")))
	for range 4 {
		r.Pick(from("BR"), nil, noon, 1)
	}
	q := from("JP")
	c := r.Pick(q, nil, noon, 1)
	r.Bind(q, c, noon)
	r.Pick(q, nil, noon, 1) // by affinity counts in its tier too
	c.Slot.Connected(3)
	c.Slot.Connected(5)
	r.Failed(c, noon)
	c.Slot.Relayed(100, 2000)
	c.Slot.Relayed(1, 2)
	c.Slot.Release(0)
	want := []SlotStats{
		{ID: "a", Connections: 2, Picks: [tiers]uint64{2, 0, 0}},
		{ID: "b", Connections: 1, Picks: [tiers]uint64{0, 1, 0}},
		{ID: "c", Connections: 2, Picks: [tiers]uint64{2, 0, 1}, Failures: 1, Connects: 2, RTTSum: 8, RTTLast: 5, BytesIn: 101, BytesOut: 2002},
	}
	if got := r.Slots.Stats(); !slices.Equal(got, want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	if n := r.own("never seen"); n != 0 || len(r.Slots.Stats()) != 3 {
		t.Errorf("asking for one made it: %d", n)
	}
}

// crowd is n backends in five regions.
func crowd(n int) *mesh.Snapshot {
	regions := []geo.Region{"sa", "us", "eu", "ap", "af"}
	var backends []mesh.Backend
	for i := range n {
		backends = append(backends, backend(fmt.Sprintf("b%04d", i), regions[i%5], soft(int64(40+i%7)), weight(int64(1+i%3)), hard(1<<30)))
	}
	return snapshot("us", backends...)
}

func TestPickAllocatesNothing(t *testing.T) {
	snap := crowd(50)
	r := newRouter(snap)
	unbound := from("BR")
	bound := from("DE")
	bound.Client = netip.MustParseAddr("2001:db8::1")
	c := r.Pick(bound, nil, noon, 1)
	r.Bind(bound, c, noon)
	tried := []*Slot{r.Slots.Get("b0000"), r.Slots.Get("b0005")}
	nobody := unbound
	nobody.App = "none"
	random := uint64(1)
	pick := func(q Query, tried []*Slot) func() {
		return func() {
			random = mix(random)
			if c := r.Pick(q, tried, noon, random); c.Slot != nil {
				c.Slot.Release(0)
			}
		}
	}
	for name, f := range map[string]func(){
		"no binding":  pick(unbound, nil),
		"bound":       pick(bound, nil),
		"tried":       pick(unbound, tried),
		"other tier":  pick(Query{App: "myapp", Client: client, Place: geo.Place{Country: "AQ"}}, nil),
		"none":        pick(nobody, nil),
		"bind again":  func() { r.Bind(bound, c, noon) },
		"key of IPv4": func() { _ = KeyOf("myapp", client) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func benchmarkPick(b *testing.B, n int) {
	r := newRouter(crowd(n))
	q := from("BR")
	random := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		random = mix(random)
		r.Pick(q, nil, noon, random).Slot.Release(0)
	}
}

func BenchmarkPick50(b *testing.B)   { benchmarkPick(b, 50) }
func BenchmarkPick1000(b *testing.B) { benchmarkPick(b, 1000) }

// BenchmarkPick50Tier2 looks at every backend: none in the client's region or the POP's.
func BenchmarkPick50Tier2(b *testing.B) {
	snap := crowd(50)
	snap.Self.Region = "mars"
	r := newRouter(snap)
	q := from("AQ")
	random := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		random = mix(random)
		r.Pick(q, nil, noon, random).Slot.Release(0)
	}
}

// BenchmarkPick50OneRegion: all of them where the client is.
func BenchmarkPick50OneRegion(b *testing.B) {
	snap := crowd(50)
	for i := range snap.Backends {
		snap.Backends[i].Region = "sa"
	}
	r := newRouter(snap)
	q := from("BR")
	random := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		random = mix(random)
		r.Pick(q, nil, noon, random).Slot.Release(0)
	}
}

func BenchmarkPick50Bound(b *testing.B) {
	r := newRouter(crowd(50))
	q := from("BR")
	c := r.Pick(q, nil, noon, 1)
	r.Bind(q, c, noon)
	b.ReportAllocs()
	for b.Loop() {
		r.Pick(q, nil, noon, 1).Slot.Release(0)
	}
}

func BenchmarkPick50Parallel(b *testing.B) {
	r := newRouter(crowd(50))
	var seed atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		random := seed.Add(1)
		q := from("BR")
		for pb.Next() {
			random = mix(random)
			r.Pick(q, nil, noon, random).Slot.Release(0)
		}
	})
}
