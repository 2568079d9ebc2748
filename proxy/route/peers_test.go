package route

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// said is a report of us, which has so many connections with a backend.
func said(seq uint64, at time.Time, id string, n int64) Report {
	return Report{POP: "us", Incarnation: 1, Seq: seq, At: at, Counts: map[string]int64{id: n}}
}

func (r *Router) all(id string) int64 {
	_, n, _ := r.Load(&mesh.Backend{ID: id}, noon)
	return n
}

// TestReportsCount: the score and the hard limit are the mesh's.
func TestReportsCount(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(10)), backend("b", "sa", hard(10))))
	r.Learn(said(1, noon, "a", 9), noon)
	r.load("b", 5)
	if got := r.Explain(from("BR"), noon, 1); got.Chosen != "b" {
		t.Errorf("chose %s, with 9 connections of 10", got.Chosen)
	}
	r.load("b", 10)
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend == nil || c.Backend.ID != "a" {
		t.Errorf("picked %+v for the last place", c)
	}
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil {
		t.Errorf("picked %s, which the mesh has filled", c.Backend.ID)
	}
	for _, c := range r.Explain(from("BR"), noon, 1).Candidates {
		if c.Excluded != Full || c.Connections != 10 {
			t.Errorf("%+v, want full with 10", c)
		}
	}
}

// TestBoundClientRespectsTheMesh's limit.
func TestBoundClientRespectsTheMesh(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(10))))
	r.Bind(from("BR"), Choice{Backend: &r.Snapshot().Backends[0]}, noon)
	r.Learn(said(1, noon, "a", 10), noon)
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil {
		t.Errorf("picked %s for %s", c.Backend.ID, c.Reason)
	}
}

// TestLearn: what is late, of an earlier life or absurd does no harm.
func TestLearn(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	want := func(what string, a, b int64) {
		t.Helper()
		if r.all("a") != a || r.all("b") != b {
			t.Errorf("%s: a %d, b %d; want %d, %d", what, r.all("a"), r.all("b"), a, b)
		}
	}
	r.Learn(said(5, noon, "a", 7), noon)
	r.Learn(said(6, noon, "b", 3), noon)
	want("both told", 7, 3)
	r.Learn(said(4, noon, "a", 100), noon)
	r.Learn(said(6, noon, "a", 100), noon)
	want("late ones", 7, 3)
	whole := said(7, noon, "b", 4)
	whole.Whole = true
	r.Learn(whole, noon)
	want("whole", 0, 4)
	r.Learn(Report{POP: "eu", Incarnation: 1, Seq: 1, At: noon, Counts: map[string]int64{"a": math.MaxInt64, "b": -5}}, noon)
	want("absurd", MostConnections, 4)
	r.Forget("eu", noon)
	want("forgotten", 0, 4)
	reborn := said(1, noon, "a", 2)
	reborn.Incarnation = 2
	r.Learn(reborn, noon)
	want("reborn", 2, 0)
	r.Learn(said(99, noon, "a", 50), noon)
	want("its earlier life", 2, 0)
	r.Learn(Report{POP: "ap", At: noon.Add(time.Hour), Counts: map[string]int64{"a": 1}, Rates: map[AppRegion]float64{{"", "sa"}: math.NaN()}}, noon)
	want("of the future", 3, 0)
	r.Pick(from("BR"), nil, noon.Add(Lease+time.Second), 1)
	if n := r.all("a") + r.all("b"); n != 1 {
		t.Errorf("silent for longer than the lease: %d connections, want the own one", n)
	}
}

// TestLiesAreBounded: a POP that claims connections with ever new backends
// costs no more memory than a large mesh does.
func TestLiesAreBounded(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa")))
	for seq := range uint64(30) {
		rep := Report{POP: "liar", Seq: seq + 1, At: noon, Counts: map[string]int64{}}
		for i := range 1000 {
			rep.Counts[fmt.Sprint(seq, ".", i)] = 1
		}
		r.Learn(rep, noon)
	}
	if n := len(r.Slots.Stats()); n > mostCounts+1 {
		t.Errorf("%d slots", n)
	}
	r.Forget("liar", noon)
	r.Update(r.Snapshot(), noon)
	if n := len(r.Slots.Stats()); n != 1 {
		t.Errorf("%d slots after it left", n)
	}
}

// TestLease: the counts of a silent POP are kept for the lease, and not longer.
func TestLease(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(5))))
	r.Learn(said(1, noon, "a", 5), noon)
	for after, free := range map[time.Duration]bool{0: false, Lease - time.Millisecond: false, Lease + time.Millisecond: true} {
		r := newRouter(snapshot("sa", backend("a", "sa", hard(5))))
		r.Learn(said(1, noon, "a", 5), noon)
		if c := r.Pick(from("BR"), nil, noon.Add(after), 1); (c.Backend != nil) != free {
			t.Errorf("after %v: %+v; free should be %v", after, c, free)
		}
	}
}

// TestStoppedPOPGoesOn: of one that was silent for longer than its lease, what
// it said before counts again with its next word, which tells only a change.
func TestStoppedPOPGoesOn(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	first := said(1, noon, "a", 5)
	first.Counts["b"] = 7
	first.Rates = map[AppRegion]float64{{"", "sa"}: 3}
	r.Learn(first, noon)
	late := noon.Add(Lease + time.Second)
	if got := r.Reported(late); len(got) != 0 || r.all("a") != 0 || r.all("b") != 0 {
		t.Errorf("%+v count after the lease: %d, %d", got, r.all("a"), r.all("b"))
	}
	if peers := r.every().demand.peers; peers != 0 {
		t.Errorf("its rate counts after the lease: %g", peers)
	}
	r.Learn(said(2, late, "a", 4), late)
	if got := r.Reported(late); len(got) != 1 || r.all("a") != 4 || r.all("b") != 7 {
		t.Errorf("%+v: %d and %d after it went on, want 4 and 7", got, r.all("a"), r.all("b"))
	}
	gone := late.Add(remembered + time.Second)
	r.Reported(gone)
	r.Learn(said(3, gone, "a", 3), gone)
	if r.all("a") != 3 || r.all("b") != 0 {
		t.Errorf("%d and %d: what it said long ago counts again", r.all("a"), r.all("b"))
	}
	r.Forget("us", gone)
	if r.all("a") != 0 {
		t.Errorf("%d after it was forgotten", r.all("a"))
	}
}

// TestLateReport: one that was under way for longer than the lease is not
// lost: its sender counts it as told.
func TestLateReport(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa")))
	r.Learn(said(1, noon, "a", 5), noon)
	late := noon.Add(Lease + time.Second)
	r.Learn(said(2, noon, "a", 50), late)
	if r.all("a") != 0 {
		t.Errorf("%d count, of a POP whose last word is old", r.all("a"))
	}
	next := said(3, late, "a", 0)
	delete(next.Counts, "a") // nothing changed since
	r.Learn(next, late)
	if r.all("a") != 50 {
		t.Errorf("%d, want the 50 that it told late", r.all("a"))
	}
}

// TestStrangeNamesCostNothing: a peer that names other backends each time, which
// are not in the table, leaves no slots; and one that comes later has its count.
func TestStrangeNamesCostNothing(t *testing.T) {
	snap := snapshot("sa", backend("a", "sa"))
	r := newRouter(snap)
	for seq := range uint64(300) {
		rep := Report{POP: "us", Incarnation: 1, Seq: seq + 1, At: noon, Whole: true, Counts: map[string]int64{"b": 7}}
		for i := range 100 {
			rep.Counts[fmt.Sprint("x", seq, "-", i)] = 1
		}
		r.Learn(rep, noon)
	}
	if n := len(r.Slots.Stats()); n != 1 {
		t.Errorf("%d slots for one backend", n)
	}
	r.Update(snapshot("sa", backend("a", "sa"), backend("b", "sa", unhealthy)), noon)
	if got := r.all("b"); got != 7 {
		t.Errorf("b has %d connections of others, want the 7 that were told before it came", got)
	}
	r.Forget("us", noon)
	r.Update(snap, noon)
	if n := len(r.Slots.Stats()); n != 1 || r.all("b") != 0 {
		t.Errorf("%d slots afterwards", n)
	}
}
