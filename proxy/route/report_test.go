package route

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

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
