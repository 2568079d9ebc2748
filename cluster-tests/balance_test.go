package clustertests

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
)

const noAffinity = "EDGEPROXY_BINDING_TTL_SECS=0"

// hold opens n connections at the same time and keeps them until the test
// ends. Those that got no backend are counted.
func (p *pop) hold(t testing.TB, n int) (open []*visit, refused int) {
	t.Helper()
	var all sync.WaitGroup
	visits := make([]*visit, n)
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			visits[i], _ = p.call("") // no greeting: refused
		})
	}
	close(start)
	all.Wait()
	for _, v := range visits {
		if v == nil {
			refused++
			continue
		}
		open = append(open, v)
		t.Cleanup(func() { v.Close() })
	}
	return open, refused
}

func count(visits []*visit) map[string]int {
	n := map[string]int{}
	for _, v := range visits {
		n[v.backend]++
	}
	return n
}

func near(got int, want, tolerance float64) bool {
	return math.Abs(float64(got)-want) <= tolerance*want
}

// TestWeights: held connections share themselves out by weight, and by soft limit.
func TestWeights(t *testing.T) {
	t.Parallel()
	a, b, c := startBackend(t, "a", "sa"), startBackend(t, "b", "sa"), startBackend(t, "c", "sa")
	for _, tc := range []struct {
		name    string
		weights [3]int
		soft    [3]int
		want    [3]float64 // of 400
	}{
		{"weights", [3]int{2, 1, 1}, [3]int{100, 100, 100}, [3]float64{200, 100, 100}},
		{"weights, far above the soft limits", [3]int{2, 1, 1}, [3]int{5, 5, 5}, [3]float64{200, 100, 100}},
		{"soft limits", [3]int{1, 1, 1}, [3]int{20, 10, 10}, [3]float64{200, 100, 100}},
		{"both", [3]int{3, 1, 2}, [3]int{10, 20, 25}, [3]float64{120, 80, 200}},
		{"zeros count as one", [3]int{2, 0, 1}, [3]int{1, 1, 0}, [3]float64{200, 100, 100}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			rows := []row{a.row(), b.row(), c.row()}
			for i := range rows {
				rows[i].weight, rows[i].soft = tc.weights[i], tc.soft[i]
			}
			p := startPOP(t, rows, noAffinity)
			open, refused := p.hold(t, 400)
			got := count(open)
			for i, id := range []string{"a", "b", "c"} {
				if !near(got[id], tc.want[i], 0.1) {
					t.Errorf("%s got %d of %d connections, want %g (%d refused)", id, got[id], len(open), tc.want[i], refused)
				}
			}
		})
	}
}

// TestHardLimitIsExact: of a burst on two backends exactly as many get through
// as the limits allow; the next region takes the rest where there is one.
func TestHardLimitIsExact(t *testing.T) {
	t.Parallel()
	a, b, far := startBackend(t, "a", "sa"), startBackend(t, "b", "sa"), startBackend(t, "far", "eu")
	ra, rb := a.row(), b.row()
	ra.hard, rb.hard = 40, 30
	p := startPOP(t, []row{ra, rb}, noAffinity, unchecked) // a check is a connection to a backend, too

	open, refused := p.hold(t, 200)
	if got := count(open); got["a"] != 40 || got["b"] != 30 || refused != 130 {
		t.Errorf("of 200 at once %v got through and %d were refused, want 40, 30 and 130", got, refused)
	}
	if a.Accepted() != 40 || b.Accepted() != 30 {
		t.Errorf("the backends saw %d and %d connections, want 40 and 30", a.Accepted(), b.Accepted())
	}
	for id, limit := range map[string]int64{"a": 40, "b": 30} {
		if got := p.backends(t)[id]; got.Connections != limit || got.State != "full" {
			t.Errorf("%s is %+v, want full with %d", id, got, limit)
		}
	}
	if e := p.explain(t, "200.160.2.3"); e.Chosen != "" || e.Reason != "no_backend" || e.Candidates[0].Excluded != "full" {
		t.Errorf("explain says %+v, want no backend", e)
	}
	p.expectLog(t, `"level":"warn"`, "no backend")

	// One goes, one comes.
	var left *visit
	for _, v := range open {
		if v.backend == "a" {
			left = v
			break
		}
	}
	left.Close()
	eventually(t, soon, func() error { return p.has("a", 39) })
	again, refused := p.hold(t, 20)
	if got := count(again); got["a"] != 1 || len(again) != 1 || refused != 19 {
		t.Errorf("after one left %v got through and %d were refused, want a and 19", got, refused)
	}

	// Another region takes what is too much.
	p.sql(t, insert(far.row()))
	eventually(t, soon, func() error {
		if _, ok := p.backends(t)["far"]; !ok {
			return fmt.Errorf("no backend far")
		}
		return nil
	})
	more, refused := p.hold(t, 25)
	if got := count(more); got["far"] != 25 || refused != 0 {
		t.Errorf("with another region %v got through and %d were refused", got, refused)
	}
	for _, v := range append(again, more...) {
		v.alive(t)
	}
}

// has is nil where the POP has n connections to the backend.
func (p *pop) has(id string, n int64) error {
	a, err := p.request("GET", "/api/v1/backends/"+id, "")
	if err != nil {
		return err
	}
	if want := fmt.Sprintf(`"connections":%d,`, n); !strings.Contains(a.body, want) {
		return fmt.Errorf("%s, want %s", a.body, want)
	}
	return nil
}

// TestLimitRaisedAndLowered: a limit takes effect on the next connection and cuts none.
func TestLimitRaisedAndLowered(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "a", "sa").row()
	a.hard = 2
	p := startPOP(t, []row{a}, noAffinity)
	open, _ := p.hold(t, 10)
	for _, step := range []struct{ limit, more int }{{1, 0}, {5, 3}, {0, 10}} {
		p.sql(t, fmt.Sprintf("UPDATE backends SET hard_limit=%d", step.limit))
		eventually(t, soon, func() error {
			if got := p.backends(t)["a"].HardLimit; got != int64(step.limit) {
				return fmt.Errorf("hard limit %d", got)
			}
			return nil
		})
		next, _ := p.hold(t, 10)
		if len(next) != step.more {
			t.Errorf("hard limit %d with %d open: %d more got through, want %d", step.limit, len(open), len(next), step.more)
		}
		open = append(open, next...)
	}
	for _, v := range open {
		v.alive(t)
	}
}
