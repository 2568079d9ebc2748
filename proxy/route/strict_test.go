package route

import (
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func strictRouter(hard int64, ids ...string) *Router {
	r := NewRouter(NewAffinity(0, 0))
	r.Strict()
	snap := snapshot("sa")
	for _, id := range ids {
		b := backend(id, "sa")
		b.HardLimit = hard
		snap.Backends = append(snap.Backends, b)
	}
	r.Update(snap, noon)
	return r
}

// TestRights: a pick takes one, says what it lacks where there is none, and
// asks with urgency where the home offers none.
func TestRights(t *testing.T) {
	r := strictRouter(10, "a")
	rights := r.Slots.Get("a").Rights()
	q := from("BR")
	if c := r.Pick(q, nil, noon, 1); c.Backend != nil || c.Lacks != "" {
		t.Errorf("who does not wait got %+v, want nothing", c)
	}
	q.Waits = true
	if c := r.Pick(q, nil, noon, 1); c.Lacks != "a" || !c.Urgent {
		t.Errorf("got %+v, want to wait with urgency", c)
	}
	rights.Offer(true)
	if c := r.Pick(q, nil, noon, 1); c.Lacks != "a" || c.Urgent {
		t.Errorf("got %+v, want to wait", c)
	}
	if e := r.Explain(q, noon, 1); e.Chosen != "a" {
		t.Errorf("explained as %q, want what a client gets after its wait", e.Chosen)
	}
	rights.AddRights(1)
	c := r.Pick(q, nil, noon, 1)
	if c.Backend == nil || rights.Spare() != 0 {
		t.Fatalf("got %+v with a right, %d left", c, rights.Spare())
	}
	if c := r.Pick(q, nil, noon, 1); c.Backend != nil {
		t.Error("one right served two")
	}
	rights.Hold(true)
	c.Slot.Release(time.Second)
	if rights.Spare() != 0 || rights.Ended() != 1 {
		t.Error("a right that was held back is in use again")
	}
}

// TestNearRightBeforeFarRight: who can have a right to a near backend soon does
// not go far away; who cannot does.
func TestNearRightBeforeFarRight(t *testing.T) {
	r := NewRouter(NewAffinity(0, 0))
	r.Strict()
	near, far := backend("near", "sa"), backend("far", "eu")
	near.HardLimit, far.HardLimit = 10, 10
	r.Update(snapshot("sa", near, far), noon)
	r.Slots.Get("far").Rights().AddRights(5)
	q := from("BR")
	q.Waits = true
	r.Slots.Get("near").Rights().Offer(true)
	if c := r.Pick(q, nil, noon, 1); c.Lacks != "near" {
		t.Errorf("got %+v, want to wait for the near one", c)
	}
	r.Slots.Get("near").Rights().Offer(false)
	if c := r.Pick(q, nil, noon, 1); c.Backend == nil || c.Backend.ID != "far" {
		t.Errorf("got %+v, want the far one", c)
	}
}

// TestRightsAreUsedOnce, by any number of picks at once, while others are
// given back and connections end.
func TestRightsAreUsedOnce(t *testing.T) {
	r := strictRouter(1000, "a")
	slot := r.Slots.Get("a")
	slot.Rights().AddRights(100)
	given := int64(0)
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 2000 {
				if c := r.Pick(from("BR"), nil, noon, uint64(n*7+i)); c.Backend != nil {
					if own := slot.Connections(); own > 100 {
						t.Errorf("%d connections with 100 rights", own)
					}
					c.Slot.Release(0)
				}
			}
		})
	}
	all.Go(func() {
		for range 200 {
			given += slot.Rights().GiveBack(1)
		}
	})
	all.Wait()
	if left := slot.Rights().Spare(); left+given != 100 || slot.Connections() != 0 {
		t.Errorf("%d left and %d given back of 100, %d connections", left, given, slot.Connections())
	}
}

// TestNeeds: as many rights as the picks of half a second and one more, where
// they will go, and none beyond a limit.
func TestNeeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := strictRouter(rapid.Int64Range(1, 50).Draw(t, "limit"), "a", "b", "c")
		for _, id := range []string{"a", "b", "c"} {
			r.load(id, rapid.Int64Range(0, 60).Draw(t, id))
		}
		sum, room := int64(0), int64(0)
		for _, n := range r.Needs(noon) {
			left := max(0, n.Limit-n.Slot.Connections())
			if n.Spare > left {
				t.Fatalf("%s needs %d with room for %d", n.Backend, n.Spare, left)
			}
			sum, room = sum+n.Spare, room+left
		}
		if want := min(room, 1); sum != want {
			t.Fatalf("%d rights at hand with nobody coming, want %d", sum, want)
		}
	})
}
