package reactor

import (
	"testing"

	"pgregory.net/rapid"
)

// TestWheel plays random timers against a map: each is due at its tick, or the
// next one where that has been seen, once, and never before Next.
func TestWheel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Wheel
		now := rapid.Uint64Range(0, 1<<40).Draw(t, "start")
		w.Start(now)
		want := map[uint32]uint64{}
		distance := rapid.OneOf(rapid.Uint64Range(0, 70), rapid.Uint64Range(0, 5000), rapid.Uint64Range(0, 2*Farthest))
		set := func(id uint32) {
			when := now + distance.Draw(t, "ahead")
			w.Set(id, when)
			want[id] = min(max(when, now+1), now+Farthest)
		}
		for range rapid.IntRange(1, 60).Draw(t, "operations") {
			id := rapid.Uint32Range(0, 20).Draw(t, "id")
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0, 1:
				set(id)
			case 2:
				w.Stop(id)
				delete(want, id)
			case 3:
				advance(t, &w, &now, now+distance.Draw(t, "on"), want, set)
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
	})
}

// advance moves on in the steps that Next names. Now and then a timer that is
// due sets another, if set is not nil.
func advance(t *rapid.T, w *Wheel, now *uint64, to uint64, want map[uint32]uint64, set func(uint32)) {
	for steps := 0; *now < to; steps++ {
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
			if set != nil && id%3 == 0 {
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
