package clustertests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stage is where a scenario is played, step by step: the POPs by name, what
// was done to them, and who writes and connects meanwhile.
type stage struct {
	t    testing.TB
	on   substrate
	seed uint64
	rand *rand.Rand

	mesh     *mesh
	pops     map[string]*pop // by region
	down     map[string]bool // those whose process does not run, or is paused
	hurt     map[string]bool // those who may have refused clients
	backends map[string]netip.AddrPort
	rec      *recorder
	began    time.Time

	mu       sync.Mutex
	timeline []string
	refused  map[string]error // the first failure of a POP's clients
	died     time.Time        // when the last backend did, in the future while one does

	writers, clients *crowd
	verdicts         *verdicts
}

// crowd is some goroutines that do something until they are told to end.
type crowd struct {
	end context.CancelFunc
	all sync.WaitGroup
}

// stop ends them and waits for them; nil is nobody.
func (c *crowd) stop() {
	if c != nil {
		c.end()
		c.all.Wait()
	}
}

func newStage(t testing.TB, on substrate, seed uint64) *stage {
	s := &stage{
		t: t, on: on, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), pops: map[string]*pop{}, down: map[string]bool{}, hurt: map[string]bool{}, refused: map[string]error{},
		began: time.Now(), rec: &recorder{began: time.Now()},
	}
	t.Cleanup(s.stopCrowds)
	return s
}

func (s *stage) stopCrowds() {
	s.writers.stop()
	s.clients.stop()
}

// story is what a person needs to know of a failed scenario.
func (s *stage) story() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := fmt.Sprintf("seed %d; %s; timeline:\n  %s", s.seed, s.rec.counts(), strings.Join(s.timeline, "\n  "))
	if s.mesh != nil {
		all += states(s.mesh.pops...)
	}
	return all
}

// note adds a line to the timeline.
func (s *stage) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timeline = append(s.timeline, fmt.Sprintf("%8.3fs ", time.Since(s.began).Seconds())+fmt.Sprintf(format, args...))
}

// play does the steps, and ends the test with the first one that fails.
func (s *stage) play(name string, steps []step) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() { // while there is still something to be seen
			s.stopCrowds()
			s.t.Log(s.story())
		}
	}()
	for _, step := range steps {
		s.note("%s", step)
		if err := s.do(step.words); err != nil {
			s.t.Fatalf("%s:%d: %s: %v", name, step.line, step, err)
		}
	}
}

// do does one step.
func (s *stage) do(words []string) error {
	switch words[0] {
	case "within":
		if len(words) < 3 {
			return errors.New("within what time what?")
		}
		limit, err := time.ParseDuration(words[1])
		if err != nil {
			return err
		}
		began := time.Now()
		if err := waitFor(limit, func() error { return s.do(words[2:]) }); err != nil {
			return err
		}
		s.note("  after %s", time.Since(began).Round(time.Millisecond))
		return nil
	case "!":
		if len(words) < 2 {
			return errors.New("! what?")
		}
		err := s.do(words[1:])
		if err == nil {
			return errors.New("it holds")
		}
		s.note("  as expected: %.200s", err)
		return nil
	}
	w, ok := vocabulary()[words[0]]
	if !ok {
		return fmt.Errorf("unknown word; known are within, ! and %s", strings.Join(sorted(vocabulary()), ", "))
	}
	if s.mesh == nil && words[0] != "start" && words[0] != "needs" {
		return errors.New("nothing runs yet: start comes first")
	}
	args := words[1:]
	if len(args) < w.least || w.most >= 0 && len(args) > w.most {
		return fmt.Errorf("usage: %s %s", words[0], w.usage)
	}
	return w.do(s, args)
}

// pop is a POP by its name.
func (s *stage) pop(name string) (*pop, error) {
	if p := s.pops[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("no POP %q; there are %s", name, strings.Join(sorted(s.pops), ", "))
}

// each calls do for POPs by name; "all" is all of them.
func (s *stage) each(names []string, do func(name string, p *pop) error) error {
	if slices.Equal(names, []string{"all"}) {
		names = s.names()
	}
	for _, name := range names {
		p, err := s.pop(name)
		if err == nil {
			err = do(name, p)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// names are those of all POPs, in the order of their start.
func (s *stage) names() []string {
	names := make([]string, len(s.mesh.pops))
	for i, p := range s.mesh.pops {
		names[i] = p.setting("EDGEPROXY_REGION")
	}
	return names
}

// running are the POPs that could do something.
func (s *stage) running() (pops []*pop) {
	for _, name := range s.names() {
		if !s.down[name] {
			pops = append(pops, s.pops[name])
		}
	}
	return pops
}

func (s *stage) number(name string) int { return slices.Index(s.names(), name) }
