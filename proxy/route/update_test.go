package route

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

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

func TestBeforeTheFirstUpdate(t *testing.T) {
	r := NewRouter(NewAffinity(time.Minute, 0))
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil || c.Reason != ReasonNone {
		t.Errorf("%+v", c)
	}
	if e := r.Explain(from("BR"), noon, 1); e.Reason != ReasonNone {
		t.Errorf("%+v", e)
	}
	if r.Snapshot() == nil || r.Bindings() != 0 {
		t.Error("no empty snapshot")
	}
}
