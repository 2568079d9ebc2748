package reactor

import (
	"testing"

	"pgregory.net/rapid"
)

// playWheel plays random timers against a map: each is due at its tick, or the
// next one where that has been seen, once, and never before Next.
func playWheel(t rapid.TB, draw draw) {
	var w Wheel
	now := uint64(draw(0, 1<<20, "start"))<<20 + uint64(draw(0, 1<<20, "within"))
	w.Start(now)
	want := map[uint32]uint64{}
	distance := func(what string) uint64 {
		most := [...]int{70, 5000, 2 * Farthest}[draw(0, 2, "far")]
		return uint64(draw(0, most, what))
	}
	set := func(id uint32) {
		when := now + distance("ahead")
		w.Set(id, when)
		want[id] = min(max(when, now+1), now+Farthest)
	}
	for range draw(1, 60, "operations") {
		id := uint32(draw(0, 20, "id"))
		switch draw(0, 3, "what") {
		case 0, 1:
			set(id)
		case 2:
			w.Stop(id)
			delete(want, id)
		case 3:
			advance(t, &w, &now, now+distance("on"), want, set)
		}
		for id, when := range want {
			if got := w.When(id); got != when {
				t.Fatalf("timer %d is due at %d, want %d", id, got, when)
			}
		}
	}
	advance(t, &w, &now, now+Farthest+1, want, nil)
	if len(want) > 0 || w.Next() != Never {
		t.Fatalf("never due: %v; next %d", want, w.Next())
	}
}

func TestWheel(t *testing.T) { rapid.Check(t, func(t *rapid.T) { playWheel(t, byRapid(t)) }) }

func FuzzWheel(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, moves []byte) { playWheel(t, byBytes(moves)) })
}

// advance moves on in the steps that Next names. Now and then a timer that is
// due sets another, if set is not nil.
func advance(t rapid.TB, w *Wheel, now *uint64, to uint64, want map[uint32]uint64, set func(uint32)) {
	const mostSets = 500 // or one that is due again at once is so at every tick
	for steps, sets := 0, 0; *now < to; steps++ {
		if steps > 3000 {
			t.Fatalf("3000 steps of Next for %d timers", len(want))
		}
		at := min(w.Next(), to)
		for id, when := range want {
			if when < at {
				t.Fatalf("Next is %d, timer %d is due at %d", at, id, when)
			}
		}
		if at <= *now {
			t.Fatalf("Next is %d at %d", at, *now)
		}
		*now = at
		w.Advance(at, func(id uint32) {
			if when, ok := want[id]; !ok || when != at {
				t.Fatalf("timer %d due at %d, want %d (set: %v)", id, at, when, ok)
			}
			delete(want, id)
			if set != nil && id%3 == 0 && sets < mostSets {
				sets++
				set(id)
			}
		})
		for id, when := range want {
			if when <= at {
				t.Fatalf("timer %d of %d was not due at %d", id, when, at)
			}
		}
	}
}

func TestSlab(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Slab[int]
		type key struct{ id, generation uint32 }
		live, dead := map[key]int{}, map[key]bool{}
		for i := range rapid.IntRange(1, 400).Draw(t, "operations") {
			if len(live) == 0 || rapid.IntRange(0, 2).Draw(t, "what") > 0 {
				id, g, v := s.Get()
				for k := range live {
					if k.id == id {
						t.Fatalf("place %d given out twice", id)
					}
				}
				*v = i
				live[key{id, g}] = i
				continue
			}
			for k := range live {
				s.Put(k.id)
				delete(live, k)
				dead[k] = true
				break
			}
		}
		for k := range dead {
			if s.Find(k.id, k.generation) != nil {
				t.Fatalf("place %d of generation %d found after it was given back", k.id, k.generation)
			}
		}
		seen := 0
		s.Each(func(id uint32, v *int) { seen++ })
		if seen != len(live) || s.Len() != len(live) {
			t.Fatalf("%d in Each, Len %d, want %d", seen, s.Len(), len(live))
		}
		for k, i := range live {
			if v := s.Find(k.id, k.generation); v == nil || *v != i || s.At(k.id) != v {
				t.Fatalf("place %d holds %v, want %d", k.id, v, i)
			}
		}
	})
}
