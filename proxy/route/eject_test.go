package route

import (
	"testing"
	"time"
)

// fails has so many connects to the backend not succeed, and returns for how
// long the last of them ejected it.
func (r *Router) fails(id string, n int, now time.Time) (out time.Duration) {
	s := r.Snapshot()
	for range n {
		for i := range s.Backends {
			if b := &s.Backends[i]; b.ID == id {
				out = r.Failed(Choice{Backend: b, Slot: r.Slots.Get(id)}, now)
			}
		}
	}
	return out
}

// TestEjection: three failures in a row, for a time that doubles, and no
// longer than five minutes.
func TestEjection(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	if out := r.fails("a", 2, noon); out != 0 {
		t.Fatalf("out for %v after two failures", out)
	}
	r.Slots.Get("a").Connected(time.Millisecond)
	if out := r.fails("a", 2, noon); out != 0 {
		t.Fatalf("out for %v: a success came between", out)
	}
	now := noon
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		want *= time.Second
		if out := r.fails("a", 1, now); out != want {
			t.Fatalf("ejection %d is for %v, want %v", i, out, want)
		}
		if out := r.fails("a", 3, now); out != 0 {
			t.Fatalf("ejected again, for %v, while it is", out)
		}
		if seen := spread(r, from("BR"), 50); seen["a"] != 0 && now.Equal(noon) {
			t.Fatalf("%v: an ejected backend was chosen", seen)
		}
		if _, _, why := r.Load(&r.Snapshot().Backends[0], now.Add(want-1)); why != Ejected {
			t.Fatalf("%q just before the end", why)
		}
		now = now.Add(want)
		if _, _, why := r.Load(&r.Snapshot().Backends[0], now); why != Included {
			t.Fatalf("%q at the end", why)
		}
	}
	// In peace for long: the next one is a first one.
	r.Slots.Get("a").Connected(time.Millisecond)
	now = now.Add(ejectMost + time.Second)
	if out := r.fails("a", 3, now); out != ejectFirst {
		t.Errorf("out for %v after a long peace", out)
	}
}

// TestEjectsAtMostHalf of a region's backends of the app; others do not count.
func TestEjectsAtMostHalf(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa"), backend("c", "sa"), backend("d", "sa"), backend("e", "sa"),
		backend("alone", "us"), backend("other", "sa", app("other")), backend("other2", "sa", app("other"))))
	for id, want := range map[string]time.Duration{"a": ejectFirst, "alone": 0, "other": ejectFirst} {
		if out := r.fails(id, 3, noon); out != want {
			t.Errorf("%s is out for %v, want %v", id, out, want)
		}
	}
	if out := r.fails("b", 3, noon); out != ejectFirst {
		t.Errorf("b is out for %v, the second of five", out)
	}
	if out := r.fails("c", 3, noon); out != 0 {
		t.Errorf("c is out for %v, the third of five", out)
	}
	if out := r.fails("c", 1, noon.Add(ejectFirst)); out != ejectFirst {
		t.Errorf("c is out for %v, when a and b are back", out)
	}
}

// TestEjectedIsTriedLast: it is better than none, and than no region farther
// away either; and the operator can lift it.
func TestEjectedIsTriedLast(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa"), backend("us", "us")))
	r.fails("a", 3, noon)
	b := r.Slots.Get("b")
	if c := r.Pick(from("BR"), []*Slot{b}, noon, 1); c.Backend == nil || c.Backend.ID != "us" {
		t.Errorf("picked %+v, want the one that works", c)
	}
	c := r.Pick(from("BR"), []*Slot{b, r.Slots.Get("us")}, noon, 1)
	if c.Backend == nil || c.Backend.ID != "a" {
		t.Errorf("picked %+v, want the ejected one: all others were tried", c)
	}
	if !r.Readmit("a") {
		t.Error("was not ejected")
	}
	if r.Readmit("a") {
		t.Error("ejected still")
	}
	if c := r.Pick(from("BR"), []*Slot{b}, noon, 1); c.Backend == nil || c.Backend.ID != "a" {
		t.Errorf("picked %+v after it was let in again", c)
	}
	if out := r.fails("a", 2, noon); out != 0 {
		t.Errorf("out for %v: its failures were forgiven", out)
	}
}

// TestBoundClientLeavesTheEjected and is bound to another.
func TestBoundClientLeavesTheEjected(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	r.Bind(from("BR"), Choice{Backend: &r.Snapshot().Backends[0]}, noon)
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend.ID != "a" {
		t.Fatalf("picked %s, bound to a", c.Backend.ID)
	}
	r.fails("a", 3, noon)
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend == nil || c.Backend.ID != "b" {
		t.Errorf("picked %+v", c)
	}
}

// TestSlowStartAfterEjection: what comes back gets a share that grows.
func TestSlowStartAfterEjection(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	r.load("a", 40)
	r.load("b", 50)
	r.fails("a", 3, noon)
	r.load("b", 44)
	back := noon.Add(ejectFirst)
	if _, _, why := r.Load(&r.Snapshot().Backends[0], back); why != Included {
		t.Fatal(why)
	}
	if got := r.Explain(from("BR"), back.Add(time.Millisecond), 1); got.Chosen != "b" {
		t.Errorf("chose %s a millisecond after it came back", got.Chosen)
	}
	if got := r.Explain(from("BR"), back.Add(10*time.Minute), 1); got.Chosen != "a" {
		t.Errorf("chose %s, with fewer connections for minutes", got.Chosen)
	}
}
