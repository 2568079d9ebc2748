package route

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

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
