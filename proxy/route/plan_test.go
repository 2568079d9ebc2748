package route

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"pgregory.net/rapid"
)

// TestLevelHoldsTheArrivals: filled up to the level, the targets take what
// arrives, as far as it is theirs to take.
func TestLevelHoldsTheArrivals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &plan{}
		room := 0.0
		for i := range rapid.IntRange(1, 30).Draw(t, "targets") {
			b := backend(fmt.Sprint("b", i), "sa", soft(rapid.Int64Range(1, 500).Draw(t, "soft")), hard(rapid.Int64Range(1, 1000).Draw(t, "hard")))
			slot := &Slot{ID: b.ID}
			slot.own.Store(rapid.Int64Range(0, b.HardLimit).Draw(t, "own"))
			p.targets = append(p.targets, Target{Backend: &b, Slot: slot, capacity: b.Capacity(), hard: b.HardLimit, bound: b.HardLimit})
			p.usable = append(p.usable, i)
			room += float64(b.HardLimit - slot.own.Load())
		}
		arrivals := rapid.Float64Range(0, 1).Draw(t, "share") * room
		level, taken := p.level(arrivals, 1, noon), 0.0
		for i := range p.bowls {
			taken += p.bowls[i].takes(level)
		}
		if taken < arrivals-1e-6 || taken > arrivals+0.02+arrivals/5000 {
			t.Fatalf("up to %g they take %g of %g", level, taken, arrivals)
		}
	})
}

// TestUnheardConnections: where quotas are used up, the connections that other
// POPs are taken to have opened meanwhile keep a backend that is half full from
// being overfilled, and fill up none that is nearly empty: one pick of a POP
// that makes a hundredth of them is no sign of a hundred.
func TestUnheardConnections(t *testing.T) {
	for _, c := range []struct {
		others  int64
		unheard float64 // for one of this POP's
		want    bool
	}{
		{0, 0, true}, {5, 99, true}, {49, 99, true}, {60, 99, false}, {60, 9, true}, {94, 4, false}, {99, 0, true}, {100, 0, false},
	} {
		r := newRouter(snapshot("sa", backend("a", "sa", hard(100))))
		p := r.table.Load().every.groups[0].plan
		slot := p.targets[0].Slot
		slot.others.Store(c.others)
		slot.opens.Store(2) // since the plan was made
		p.unheard.Store(c.unheard)
		s := r.step(nil, noon, 1)
		s.e, s.tryFrom = 1, noPanic
		if _, over := p.due(&s); (over == 0) != c.want {
			t.Errorf("%d known, %g unheard for one: over %d, want it taken %v", c.others, c.unheard, over, c.want)
		}
		s.greedy = true
		if _, over := p.due(&s); (over == 0) != (c.others < 100) {
			t.Errorf("%d known: over %d where there is nothing else", c.others, over)
		}
	}
}

// BenchmarkPrepare: what a pick pays at most each 5 ms, for the others.
func BenchmarkPrepare(b *testing.B) {
	for _, n := range []int{50, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var bs []mesh.Backend
			for i := range n {
				bs = append(bs, backend(fmt.Sprintf("b%04d", i), "sa", soft(100), hard(125)))
			}
			r := newRouter(snapshot("sa", bs...))
			rep := said(1, noon, "b0001", 5)
			rep.Rates = map[AppRegion]float64{{"", "sa"}: 2000}
			r.Learn(rep, noon)
			now := noon
			for i := range uint64(5000) {
				now = now.Add(500 * time.Microsecond)
				r.Pick(from("BR"), nil, now, mix(i)).Slot.Release(0)
			}
			p := r.table.Load().every.groups[0].plan
			s := r.step(nil, now, 1)
			b.ReportAllocs()
			for b.Loop() {
				p.prepareLocked(&s)
			}
		})
	}
}
