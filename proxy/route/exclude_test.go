package route

import (
	"slices"
	"testing"

	"github.com/edgeproxy/edgeproxy/mesh"
)

func TestExclusions(t *testing.T) {
	for _, c := range []struct {
		change func(*mesh.Backend)
		n      int64
		want   Exclusion
	}{
		{func(*mesh.Backend) {}, 1 << 40, Included},
		{unhealthy, 0, "unhealthy"},
		{deleted, 0, "deleted"},
		{draining, 0, "draining"},
		{hard(3), 2, Included},
		{hard(3), 3, "full"},
		{hard(3), 4, "full"}, // the limit was lowered
		{func(b *mesh.Backend) { unhealthy(b); deleted(b); draining(b) }, 0, "deleted"},
		{func(b *mesh.Backend) { unhealthy(b); draining(b); hard(1)(b) }, 1, "unhealthy"},
	} {
		r := newRouter(snapshot("sa", backend("a", "sa", c.change), backend("far", "ap")))
		r.load("a", c.n)
		want := "far"
		if c.want == Included {
			want = "a"
		}
		got := r.Pick(from("BR"), nil, noon, 1)
		got.Slot.Release(0)
		if got.Backend.ID != want {
			t.Errorf("%q: picked %s, want %s", c.want, got.Backend.ID, want)
		}
		e := r.Explain(from("BR"), noon, 1)
		if len(e.Candidates) != 2 || e.Candidates[0].ID != "a" || e.Candidates[0].Excluded != c.want || e.Chosen != want {
			t.Errorf("%q: %+v", c.want, e)
		}
	}
}

func TestApps(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "ap", app("shop")), backend("b", "sa", app("mail")), backend("c", "sa", app(""))))
	for app, want := range map[string][]string{"shop": {"a"}, "mail": {"b"}, "": {"b", "c"}, "other": nil} {
		q := from("BR")
		q.App = app
		for random := range uint64(50) {
			got := r.Pick(q, nil, noon, random)
			if len(want) == 0 {
				if got.Backend != nil || got.Slot != nil || got.Reason != ReasonNone {
					t.Fatalf("app %q: %+v, want none", app, got)
				}
				continue
			}
			if !slices.Contains(want, got.Backend.ID) {
				t.Fatalf("app %q: %s, want one of %v", app, got.Backend.ID, want)
			}
			got.Slot.Release(0)
		}
	}
}

func TestTriedAreLeftOut(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa"), backend("c", "us"), backend("d", "ap")))
	q := from("BR")
	var tried []*Slot
	var ids []string
	for range 4 {
		c := r.Pick(q, tried, noon, 5)
		if c.Backend == nil {
			t.Fatalf("none after %v", ids)
		}
		ids = append(ids, c.Backend.ID)
		tried = append(tried, c.Slot)
		c.Slot.Release(0)
	}
	slices.Sort(ids[:2])
	if !slices.Equal(ids, []string{"a", "b", "c", "d"}) {
		t.Errorf("tried %v", ids)
	}
	if c := r.Pick(q, tried, noon, 5); c.Backend != nil {
		t.Errorf("%s was tried", c.Backend.ID)
	}
	for _, id := range ids {
		if n := r.own(id); n != 0 {
			t.Errorf("%s keeps %d places", id, n)
		}
	}
	// A bound client whose backend was tried goes elsewhere.
	c := r.Pick(q, nil, noon, 5)
	r.Bind(q, c, noon)
	c.Slot.Release(0)
	if again := r.Pick(q, []*Slot{c.Slot}, noon, 5); again.Backend.ID == c.Backend.ID || again.Reason == ReasonAffinity {
		t.Errorf("%s again, %s", again.Backend.ID, again.Reason)
	}
}
