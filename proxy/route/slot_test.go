package route

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

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
