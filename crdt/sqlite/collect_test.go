package sqlite

import (
	"fmt"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// TestForgottenStaysForgotten: a row's earlier state may be on its way for
// longer than its delete takes to be seen by everybody and forgotten. It must
// not bring the row back; only a later write does.
func TestForgottenStaysForgotten(t *testing.T) {
	a, b, c := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	put(t, a.Store, "x")
	a.fold()
	late, _, err := a.Since(t.Context(), crdt.Heads{}, 1000) // as a slow stream holds it
	if err != nil || len(late.Records) != 1 {
		t.Fatal(late, err)
	}
	b.pull(a, 1000)
	c.pull(a, 1000)
	raw(t, b.path, "DELETE FROM backends")
	b.fold()
	for _, p := range []*pop{a, c} {
		p.pull(b, 1000)
	}
	dead := b.record("x")
	heads := must(b.Heads(t.Context()))
	for _, p := range []*pop{a, b, c} {
		if n := must(p.Collect(t.Context(), heads)); n != 1 {
			t.Fatalf("%s: collected %d", p.life.Node, n)
		}
	}
	for what, d := range map[string]crdt.Delta{
		"written":       late,
		"deleted":       {Records: []crdt.Record{dead}},
		"other ranges":  {Records: late.Records, Ranges: []crdt.Range{{Origin: crdt.Origin{Node: "af", Epoch: 1}, To: 3}}},
		"of a snapshot": {Records: late.Records},
	} {
		if got, err := c.Apply(t.Context(), "sa", d); err != nil || len(got.Changed) != 0 || len(got.Refused) != 0 {
			t.Errorf("%s: %+v %v", what, got, err)
		}
		if got := c.all(); len(got) != 0 {
			t.Errorf("%s: %v is back", what, got)
		}
	}
	agree(t, a, c)

	// A write that nobody has seen yet brings the whole row, also with what is known.
	raw(t, a.path, "INSERT INTO backends VALUES ('x','app','sa','10.0.0.1',1,1,7,1,1,0)")
	a.fold()
	again := a.record("x")
	again.Cells = append([]crdt.Cell{}, again.Cells...)
	again.Cells[0].Stamp = late.Records[0].Cells[0].Stamp
	if got, err := c.Apply(t.Context(), "sa", crdt.Delta{Records: []crdt.Record{again}}); err != nil || len(got.Changed) != 1 {
		t.Errorf("a later write: %+v %v", got, err)
	}
	// And a repair brings what is known: the file may have lost it.
	c.pull(a, 1000)
	if n := must(c.Purge(t.Context(), must(a.Heads(t.Context())), func(crdt.Key) bool { return false })); n != 1 {
		t.Fatalf("purged %d", n)
	}
	if got, err := c.Apply(t.Context(), "sa", crdt.Delta{Records: []crdt.Record{a.record("x")}, Repair: true}); err != nil || fmt.Sprint(got.Changed) != fmt.Sprint([]crdt.Record{a.record("x")}) {
		t.Errorf("a repair: %+v %v", got, err)
	}
	agree(t, a, c)
}

// TestForgottenNotWhileHeld: a later write in quarantine brings a deleted row
// back when its time has come, all of it, so that it is not forgotten before.
func TestForgottenNotWhileHeld(t *testing.T) {
	a, b := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	raw(t, a.path, "INSERT INTO backends VALUES ('x','app','sa','10.0.0.1',1,1,7,1,1,0)")
	a.fold()
	b.pull(a, 1000)
	ahead := wall() + 60_000
	b.now = func() int64 { return ahead }
	raw(t, b.path, "UPDATE backends SET weight = 9")
	b.fold()
	if got := a.pull(b, 1000); got.Held != 1 {
		t.Fatalf("%+v", got)
	}
	raw(t, a.path, "DELETE FROM backends")
	a.fold()
	b.pull(a, 1000)
	if n := must(a.Collect(t.Context(), must(a.Heads(t.Context())))); n != 0 {
		t.Errorf("collected %d", n)
	}
	a.now = b.now
	must(a.Release(t.Context()))
	agree(t, a, b)
	if got := cell(t, a.path, "SELECT weight || ' ' || port FROM backends"); got != "9 1" {
		t.Errorf("weight, port: %s", got)
	}
}
