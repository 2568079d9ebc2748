package clustertests

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// verdicts are what POPs said of each other while somebody looked.
type verdicts struct {
	end context.CancelFunc
	all sync.WaitGroup

	mu      sync.Mutex
	longest time.Duration // that one POP did not see another alive, without a break
	which   string
}

// startVerdicts looks at what each POP says of the others, all the time.
func (s *stage) startVerdicts([]string) error {
	if s.verdicts != nil {
		return errors.New("somebody is looking already")
	}
	ctx, end := context.WithCancel(context.Background())
	v := &verdicts{end: end}
	s.verdicts = v
	s.t.Cleanup(v.stop)
	for _, p := range s.mesh.pops {
		v.all.Go(func() {
			alive := map[string]time.Time{} // when each was last
			for waitUntil(ctx, time.Now().Add(250*time.Millisecond)) {
				members, err := look[[]api.Member](p, "members")
				now := time.Now()
				if err != nil {
					continue
				}
				for _, m := range members {
					if since, before := alive[m.Name]; m.Status == "alive" || !before {
						alive[m.Name] = now
					} else {
						v.saw(now.Sub(since), fmt.Sprintf("%s had %s as %s", p.Node, m.Name, m.Status))
					}
				}
			}
		})
	}
	return nil
}

func (v *verdicts) stop() {
	v.end()
	v.all.Wait()
}

func (v *verdicts) saw(lasted time.Duration, which string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if lasted > v.longest {
		v.longest, v.which = lasted, which
	}
}

// aliveWithin ends the looking. It fails where a POP had another as failed for longer.
func (s *stage) aliveWithin(args []string) error {
	limit, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	if s.verdicts == nil {
		return errors.New("nobody looked: looking comes first")
	}
	v := s.verdicts
	v.stop()
	s.verdicts = nil
	s.note("  at most %s: %s", v.longest.Round(time.Millisecond), v.which)
	s.t.Logf("at most %s: %s", v.longest.Round(time.Millisecond), v.which)
	if v.longest > limit {
		return fmt.Errorf("for %s %s, want at most %s", v.longest, v.which, limit)
	}
	return nil
}
