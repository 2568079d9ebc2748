package route

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
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

// TestDemandsDoNotGrow: of apps that come and go nothing is left.
func TestDemandsDoNotGrow(t *testing.T) {
	r := newRouter(snapshot("sa"))
	for i := range 50 {
		r.Update(snapshot("sa", backend("a", "sa", app(fmt.Sprint("app", i)))), noon)
	}
	if n := len(r.balance.demands); n != 2 { // of the app, and of those who name none
		t.Errorf("%d demands", n)
	}
}

// TestOlderTimeIsNoPast: who brings a time from before the last fold does not age the estimate.
func TestOlderTimeIsNoPast(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa")))
	r.Learn(said(1, noon, "a", 5), noon)
	for range 100 {
		r.Pick(from("BR"), nil, noon, 1)
	}
	b := &r.balance
	b.mu.Lock()
	defer b.mu.Unlock()
	b.foldLocked(noon.Add(time.Millisecond))
	before := r.Slots.Get("a").past.rec
	for range 50 {
		b.foldLocked(noon)
	}
	if after := r.Slots.Get("a").past.rec; before < 90 || after != before {
		t.Errorf("%g recent connections, then %g", before, after)
	}
}

// every is the only group of the router's backends.
func (r *Router) every() *group { return r.table.Load().every.groups[0] }

// TestUrgent: what fills a backend up is told before the next regular report,
// within the budget; what does not, is not.
func TestUrgent(t *testing.T) {
	var bs []mesh.Backend
	for i := range 20 {
		bs = append(bs, backend(fmt.Sprintf("b%02d", i), "sa", soft(100), hard(100)))
	}
	r := newRouter(snapshot("sa", bs...))
	for i := range 4 {
		r.Learn(Report{POP: fmt.Sprint("p", i), Incarnation: 1, Seq: 1, At: noon, Counts: map[string]int64{"b00": 10}}, noon)
	}
	var rep Reporter
	if _, due := r.Report(&rep, noon); !due {
		t.Fatal("the first report is not due")
	}
	now := noon.Add(UrgentEvery)
	r.load("b00", 3) // of five POPs 15, with room for 60
	r.load("b01", 9) // of five POPs 45, with room for 100
	if got, due := r.Report(&rep, now); !due || len(got.Counts) != 1 || got.Counts["b01"] != 9 {
		t.Errorf("%+v, %v; want b01 alone", got.Counts, due)
	}
	if got, due := r.Report(&rep, now); due {
		t.Errorf("%+v is told again", got.Counts)
	}
	// Everything is urgent at every tick of two seconds.
	var at []time.Time
	for i := range int(2 * time.Second / UrgentEvery) {
		now = now.Add(UrgentEvery)
		for j := range 20 {
			r.load(fmt.Sprintf("b%02d", j), int64(10*(i+1)))
		}
		got, _ := r.Report(&rep, now)
		for range got.Counts {
			at = append(at, now)
		}
	}
	for i, first := range at {
		n := 0
		for _, other := range at[i:] {
			if other.Sub(first) < time.Second {
				n++
			}
		}
		if n > reportBudget {
			t.Fatalf("%d entries in a second, %d are allowed", n, reportBudget)
		}
	}
	if len(at) < 2*reportBudget-reportEntries {
		t.Errorf("%d entries in two seconds", len(at))
	}
}

// TestWholeIsFollowedUp: what one POP was told as part of the whole, and has
// changed back before the next report to all, is not left as it was told.
func TestWholeIsFollowedUp(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", soft(1000))))
	var rep Reporter
	r.load("a", 5)
	if got := r.Whole(&rep, noon); got.Counts["a"] != 5 {
		t.Fatalf("%+v", got)
	}
	r.load("a", 0)
	if got, due := r.Report(&rep, noon); !due || len(got.Counts) != 1 || got.Counts["a"] != 0 {
		t.Errorf("%+v, want a at 0", got.Counts)
	}
	if got, _ := r.Report(&rep, noon.Add(ReportEvery)); len(got.Counts) != 0 {
		t.Errorf("%+v is told again", got.Counts)
	}
}

// TestReporter: the largest changes first, eight at a time, small ones later,
// and what is told adds up to what there is.
func TestReporter(t *testing.T) {
	var bs []mesh.Backend
	for i := range 20 {
		bs = append(bs, backend(fmt.Sprintf("b%02d", i), "sa", soft(1000)))
	}
	r := newRouter(snapshot("sa", bs...))
	var rep Reporter
	for i := range 20 {
		r.load(fmt.Sprintf("b%02d", i), int64(100+i))
	}
	r.load("b00", 5)
	told := map[string]int64{}
	now := noon
	for round := range 3 {
		got, due := r.Report(&rep, now)
		if !due {
			t.Fatal("no report is due")
		}
		if round == 0 && (len(got.Counts) != 8 || got.Counts["b19"] != 119 || got.Counts["b12"] != 112) {
			t.Errorf("first %v", got.Counts)
		}
		for id, n := range got.Counts {
			told[id] = n
		}
		now = now.Add(ReportEvery)
	}
	if len(told) != 20 {
		t.Errorf("after three rounds %d of 20: %v", len(told), told)
	}
	r.load("b01", 102) // from 101: less than 2 % of 1000
	if got, _ := r.Report(&rep, now); len(got.Counts) != 0 {
		t.Errorf("told at once: %v", got.Counts)
	}
	if got, _ := r.Report(&rep, now.Add(reportAnyway)); len(got.Counts) != 1 || got.Counts["b01"] != 102 {
		t.Errorf("told later: %v", got.Counts)
	}
	if got := r.Whole(&Reporter{}, now); !got.Whole || len(got.Counts) != 20 || got.Counts["b01"] != 102 {
		t.Errorf("whole: %v", got.Counts)
	}
}

// TestSharesTheRest: two POPs that know of each other's load, and of as many
// clients, fill what is empty together and not twice.
func TestSharesTheRest(t *testing.T) {
	bs := []mesh.Backend{backend("a", "sa", soft(1000)), backend("b", "sa", soft(1000))}
	p, q := newRouter(snapshot("sa", bs...)), newRouter(snapshot("sa", bs...))
	now := noon
	rate := map[AppRegion]float64{{"myapp", "sa"}: 100}
	p.load("a", 100)
	for i := range 200 { // warm up: 100 picks a second each
		now = now.Add(10 * time.Millisecond)
		for _, r := range []*Router{p, q} {
			c := r.Pick(from("BR"), nil, now, uint64(i)*7919)
			r.Bind(Query{}, c, now)
		}
		if i%25 == 0 {
			for _, x := range [][2]*Router{{p, q}, {q, p}} {
				rep := x[0].Whole(&Reporter{}, now)
				rep.POP, rep.Incarnation, rep.Seq, rep.Rates = "other", 1, uint64(i)+1, rate
				x[1].Learn(rep, now)
			}
		}
	}
	a, b := p.own("a")+q.own("a"), p.own("b")+q.own("b")
	if a+b != 500 || a < 240 || a > 260 {
		t.Errorf("a has %d, b %d; want about 250 of 500 each", a, b)
	}
}

// TestSlowStart: a backend that comes back is not flooded.
func TestSlowStart(t *testing.T) {
	up := snapshot("sa", backend("a", "sa"), backend("b", "sa"))
	r := newRouter(up)
	r.Update(snapshot("sa", backend("a", "sa"), backend("b", "sa", unhealthy)), noon)
	r.load("a", 100)
	r.Update(snapshot("sa", backend("a", "sa"), backend("b", "sa")), noon)
	took := func(at time.Time) (n int) {
		for i := range 100 {
			c := r.Pick(from("BR"), nil, at, uint64(i))
			if c.Slot.ID == "b" {
				n++
			}
			defer c.Slot.Release(0)
		}
		return n
	}
	if n := took(noon.Add(time.Second)); n < 5 || n > 25 {
		t.Errorf("%d of 100 went to it after a second", n)
	}
	if n := took(noon.Add(slowStart)); n != 100 {
		t.Errorf("%d of 100 went to it after %v, with none of its 100", n, slowStart)
	}
}

var meshSnapshot = func(n int) *mesh.Snapshot {
	var bs []mesh.Backend
	for i := range n {
		bs = append(bs, backend(fmt.Sprintf("b%04d", i), []geo.Region{"sa", "us", "eu", "ap"}[i%4], soft(100), hard(1000)))
	}
	return snapshot("sa", bs...)
}

// BenchmarkPickMesh50 is a pick with reports of 20 POPs.
func BenchmarkPickMesh50(b *testing.B)   { benchmarkPickMesh(b, 50) }
func BenchmarkPickMesh1000(b *testing.B) { benchmarkPickMesh(b, 1000) }

func benchmarkPickMesh(b *testing.B, n int) {
	r := newRouter(meshSnapshot(n))
	for p := range 20 {
		rep := Report{POP: fmt.Sprint(p), At: time.Now(), Seq: 1, Counts: map[string]int64{}, Rates: map[AppRegion]float64{{"myapp", "sa"}: 1e5}}
		for _, be := range r.Snapshot().Backends {
			rep.Counts[be.ID] = 4
		}
		r.Learn(rep, time.Now())
	}
	q := from("BR")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		random := uint64(1)
		for pb.Next() {
			random = mix(random)
			if c := r.Pick(q, nil, time.Now(), random); c.Slot != nil {
				c.Slot.Release(time.Second)
			}
		}
	})
}

// TestFewPicksTurnNobodyAway: a POP that a region's clients rarely reach cannot
// tell their demand from two that come together, and does not send them to a
// farther region while the near one is nearly empty.
func TestFewPicksTurnNobodyAway(t *testing.T) {
	r := newRouter(snapshot("us", backend("near", "eu", hard(100)), backend("own", "us", hard(100))))
	at := noon
	for seq := range uint64(200) {
		at = at.Add(100 * time.Millisecond)
		r.Learn(Report{POP: "eu", Incarnation: 1, Seq: seq + 1, At: at.Add(-400 * time.Millisecond),
			Counts: map[string]int64{"near": 5}, Rates: map[AppRegion]float64{{"myapp", "eu"}: 200}}, at)
		if seq%20 > 1 {
			continue
		}
		c := r.Pick(from("DE"), nil, at, seq*7919)
		if c.Backend == nil || c.Backend.ID != "near" {
			t.Fatalf("pick %d went to %+v, with %d connections of 100 in its region", seq, c.Backend, r.all("near"))
		}
		c.Slot.Release(50 * time.Millisecond)
	}
}
