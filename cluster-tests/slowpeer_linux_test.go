package clustertests

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// must does steps of a scenario.
func (s *stage) must(lines ...string) {
	s.t.Helper()
	steps, err := parseScript(strings.Join(lines, "\n"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.play(s.t.Name(), steps)
}

// TestBadPeer: one POP takes a kilobyte in a second, or stands still. What is
// written on the others is as soon on all of them as before, their memory does
// not grow, and their clients notice nothing; when it is well again, it has
// undone nothing of what was done meanwhile.
func TestBadPeer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		begin func(*stage) error
		end   string
	}{
		"slow": {func(s *stage) error {
			return s.links([]string{"eu", "from", "sa", "us"}, func(l *link) { l.rate = 1000 })
		}, "heal"},
		"stopped": {func(s *stage) error { return s.do([]string{"pause", "eu"}) }, "resume eu"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seed := seedOf(t)
			s := newStage(t, newLoopback(t, seed, false), seed)
			s.must("start 3", "backends", "serving", "writing", "writes 30", "write sa gone", "write us changed",
				"within 10s has all 'SELECT count(*) FROM backends WHERE id IN (''gone'', ''changed'')' 2")
			before := s.latencies(time.Second)
			memory := map[string]int{"sa": s.pops["sa"].resident(t), "us": s.pops["us"].resident(t)}
			if err := c.begin(s); err != nil {
				t.Fatal(err)
			}
			s.must("delete us gone", "write sa changed")
			lasts := time.Duration(often(3, 60)) * time.Second
			meanwhile := s.latencies(lasts)
			for name, had := range memory {
				has := s.pops[name].resident(t)
				t.Logf("%s: memory %d MB, after %s %d MB", name, had>>20, lasts, has>>20)
				if has > had+64<<20 && !raceDetector {
					t.Errorf("the memory of %s grew from %d to %d MB", name, had>>20, has>>20)
				}
			}
			t.Logf("from sa to us: before %s, beside the %s one %s", quantiles(before), name, quantiles(meanwhile))
			if most := slices.Max(meanwhile); wanted("long") && most > time.Second || most > converged {
				t.Errorf("a row took %s from sa to us", most)
			}
			s.must(c.end, "writes 20", "within 60s together", "quiet", "within 60s equal", "no-loss", "served")
			s.must("has all 'SELECT count(*) FROM backends WHERE id=''gone''' 0")
		})
	}
}

// latencies are those of rows from sa to us, as long as it lasts.
func (s *stage) latencies(lasts time.Duration) (all []time.Duration) {
	s.t.Helper()
	w := newWatcher(s.t, s.pops["us"])
	for began := time.Now(); time.Since(began) < lasts; {
		id := fmt.Sprintf("probe-%d", s.rec.next())
		s.must("write sa " + id)
		written := time.Now()
		eventually(s.t, soon, func() error {
			var n int
			return w.db.QueryRow("SELECT 1 FROM backends WHERE id=?", id).Scan(&n)
		})
		all = append(all, time.Since(written))
	}
	return all
}
