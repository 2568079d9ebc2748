package route

import (
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

func (r *Router) judge(now time.Time, down bool, ids ...string) {
	var list []Judgement
	for _, id := range ids {
		list = append(list, Judgement{id, down})
	}
	r.Judge(list, now)
}

func (r *Router) why(id string, now time.Time) Exclusion {
	b, _ := r.Snapshot().Backend(id)
	_, _, why := r.Load(b, now)
	return why
}

// TestDownByChecks: it gets nothing, not from bound clients either, and gets
// its share slowly when it is back.
func TestDownByChecks(t *testing.T) {
	r := NewRouter(NewAffinity(time.Minute, 0))
	r.Update(snapshot("sa", backend("a", "sa", soft(100)), backend("b", "sa", soft(100)), backend("c", "eu")), noon)
	q := from("BR")
	b, _ := r.Snapshot().Backend("a")
	r.Bind(q, Choice{Backend: b}, noon)
	r.judge(noon, true, "a")
	if c := r.Pick(q, nil, noon, 1); c.Backend.ID != "b" || c.Reason != ReasonClientRegion {
		t.Fatalf("a bound client got %s for %s", c.Backend.ID, c.Reason)
	}
	if why := r.why("a", noon); why != Down {
		t.Errorf("a is %q", why)
	}
	if e := r.Explain(q, noon, 1); e.Chosen != "b" || e.Panic || e.Candidates[0].ID != "a" || e.Candidates[0].Excluded != Down {
		t.Errorf("%+v", e)
	}
	r.judge(noon, true, "b")
	if c := r.Pick(q, nil, noon, 1); c.Backend.ID != "c" {
		t.Errorf("with the region down, %s", c.Backend.ID)
	}
	later := noon.Add(time.Hour)
	r.judge(later, false, "a")
	if why := r.why("a", later); why != Included {
		t.Errorf("a is %q once it is back", why)
	}
	slot := r.table.Load().byID["a"]
	if early, late := slot.capacityAt(later), slot.capacityAt(later.Add(slowStart)); early != 10 || late != 100 {
		t.Errorf("capacity %g at once, %g after the slow start", early, late)
	}
	// What failed connects said is over, too.
	r.fails("b", ejectAfter, later)
	r.judge(later, false, "b")
	if why := r.why("b", later); why != Included {
		t.Errorf("b is %q once it is back", why)
	}
	// Said twice, or of who is not known: nothing happens.
	r.judge(later.Add(time.Hour), false, "a", "nobody")
	if got := slot.capacityAt(later.Add(time.Hour)); got != 100 {
		t.Errorf("capacity %g: it had been up", got)
	}
}

// TestPanic: where all look dead, those that went down last are tried, and
// with a threshold before all do.
func TestPanic(t *testing.T) {
	threshold := int64(50)
	snap := snapshot("sa", backend("old", "sa", app("web")), backend("x", "sa", app("web")), backend("y", "eu", app("web")), backend("z", "eu", app("db")))
	r := newRouter(snap)
	r.judge(noon, true, "old")
	now := noon.Add(time.Hour)
	r.judge(now, true, "x")
	r.judge(now.Add(30*time.Second), true, "y")
	q := from("BR")
	q.App = "web"
	if c := r.Pick(q, nil, now, 1); c.Backend == nil || c.Backend.ID != "x" {
		t.Fatalf("%+v, want x, the nearest of those that went down last", c.Backend)
	}
	if c := r.Pick(q, []*Slot{r.Slots.Get("x")}, now, 1); c.Backend == nil || c.Backend.ID != "y" {
		t.Fatalf("%+v after x failed, want y", c.Backend)
	}
	if c := r.Pick(q, []*Slot{r.Slots.Get("x"), r.Slots.Get("y")}, now, 1); c.Backend != nil {
		t.Errorf("%s, which has been down for an hour", c.Backend.ID)
	}
	if e := r.Explain(q, now, 1); !e.Panic || e.Chosen != "x" {
		t.Errorf("%+v", e)
	}
	if e := r.Explain(Query{Client: q.Client, Place: q.Place, App: "db"}, now, 1); e.Panic {
		t.Error("another app is in a panic")
	}
	// One is back: checks are believed again.
	r.judge(now, false, "y")
	for random := range uint64(20) {
		c := r.Pick(q, nil, now, random)
		if c.Backend == nil || c.Backend.ID != "y" {
			t.Fatalf("%+v, want y, which is up", c.Backend)
		}
		c.Slot.Release(0)
	}
	// One of three is less than half.
	r.Tune(Tuning{Panic: threshold})
	if c := r.Pick(q, nil, now, 1); c.Backend.ID != "x" {
		t.Errorf("%s, want x of the client's region in spite of the checks", c.Backend.ID)
	}
	// The service's word counts before the POP's.
	calm := *snap
	calm.Services = []mesh.Service{{App: "web", Panic: new(int64)}}
	r.Update(&calm, now)
	if c := r.Pick(q, nil, now, 1); c.Backend.ID != "y" {
		t.Errorf("%s, want y: the service has a threshold of 0", c.Backend.ID)
	}
}

// TestFullIsNoPanic: what is down is not tried because the rest is full.
func TestFullIsNoPanic(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(1)), backend("b", "sa")))
	r.judge(noon, true, "b")
	r.load("a", 1)
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil {
		t.Errorf("%s, which is down", c.Backend.ID)
	}
}

// TestQuotasLeaveOutWhatIsDown: with reports of others, the plan fills what is up.
func TestQuotasLeaveOutWhatIsDown(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", soft(10), hard(10)), backend("b", "sa", soft(10), hard(10))))
	r.Learn(said(1, noon, "a", 1), noon)
	r.judge(noon, true, "b")
	taken := 0
	for i := range 30 {
		now := noon.Add(time.Duration(i) * time.Millisecond)
		c := r.Pick(from("BR"), nil, now, uint64(i))
		if c.Backend != nil && c.Backend.ID != "a" {
			t.Fatalf("%s, which is down", c.Backend.ID)
		}
		if c.Backend != nil {
			taken++
		}
	}
	if taken != 9 {
		t.Errorf("%d places taken of 9 that are left", taken)
	}
}

// TestHardMargin: a POP alone knows exactly; with others it keeps a distance.
func TestHardMargin(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(100))))
	r.Tune(Tuning{HardMargin: 0.1})
	a := r.table.Load().byID["a"]
	if got := a.limit(1); got != 100 {
		t.Errorf("limit %d alone", got)
	}
	r.Learn(said(1, noon, "a", 30), noon)
	if got := a.limit(1); got != 60 {
		t.Errorf("limit %d beside 30 of others, want 100 less 10 less 30", got)
	}
}

func TestSuspects(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	r.fails("b", 2, noon)
	if got := r.Suspects(); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%q", got)
	}
	if got := r.Suspects(); got != nil {
		t.Errorf("%q are told twice", got)
	}
}
