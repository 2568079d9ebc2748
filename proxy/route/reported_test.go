package route

import (
	"math"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// TestReported: what counts of the other POPs, and of nobody whose lease has ended.
func TestReported(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa")))
	if got := r.Reported(noon); len(got) != 0 {
		t.Errorf("alone: %+v", got)
	}
	rep := said(3, noon, "a", 7)
	rep.Rates = map[AppRegion]float64{{Region: geo.Region("sa")}: 2, {Region: geo.Region("us")}: 3}
	r.Learn(rep, noon)
	r.Learn(Report{POP: "eu", Incarnation: 5, Seq: 1, At: noon.Add(time.Second), Counts: map[string]int64{"a": 1, "b": 2}}, noon.Add(time.Second))
	got := r.Reported(noon.Add(Lease))
	if len(got) != 2 || got[0].POP != "eu" || got[1].POP != "us" {
		t.Fatalf("%+v, want eu and us", got)
	}
	if us := got[1]; us.Incarnation != 1 || us.Seq != 3 || !us.At.Equal(noon) || us.Counts["a"] != 7 || us.Rate != 5 {
		t.Errorf("us: %+v", us)
	}
	if n := got[0].Connections(); n != 3 {
		t.Errorf("eu has %d connections, want 3", n)
	}
	got[0].Counts["a"] = 1000 // the caller's own
	if r.all("a") != 8 {
		t.Errorf("%d connections, want 8", r.all("a"))
	}
	if got := r.Reported(noon.Add(Lease + time.Millisecond)); len(got) != 1 || got[0].POP != "eu" {
		t.Errorf("after the lease of us: %+v", got)
	}
	if r.all("a") != 1 {
		t.Errorf("%d connections after that, want 1", r.all("a"))
	}
}

// TestSlotRates: about so many places per second as are taken, whenever it is asked.
func TestSlotRates(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "us")))
	now := noon
	for i := range 1000 { // 100/s, for 10 s
		if c := r.Pick(from("BR"), nil, now, uint64(i)); c.Backend == nil || c.Backend.ID != "a" {
			t.Fatalf("picked %+v", c)
		}
		now = now.Add(10 * time.Millisecond)
		if i%37 == 5 {
			r.SlotRates(now)
		}
	}
	if got := r.SlotRates(now); len(got) != 1 || math.Abs(got["a"]-100) > 2 {
		t.Errorf("%v, want 100/s on a", got)
	}
	if got := r.SlotRates(now.Add(time.Minute)); len(got) != 0 {
		t.Errorf("%v a minute later", got)
	}
	// Who asks for the first time does not know since when the picks were made.
	fresh := newRouter(snapshot("sa", backend("a", "sa")))
	for i := range 1000 {
		fresh.Pick(from("BR"), nil, noon, uint64(i))
	}
	if got := fresh.SlotRates(noon); len(got) != 0 {
		t.Errorf("at first %v", got)
	}
}
