package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Invariant is something that must hold, with its verdict.
type Invariant struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// Fault is a step that was played.
type Fault struct {
	At      float64 `json:"at_s"` // since the start
	What    string  `json:"what"`
	Seconds float64 `json:"seconds"` // until what it must lead to was seen
}

// story plays steps and judges what comes of each. Every verdict waits for
// what it claims, as long as that may take on a busy machine, and is then about
// what was counted.
type story struct {
	world   *world
	tally   *tally
	traffic *traffic
	rand    *rand.Rand
	say     func(format string, args ...any)
	began   time.Time
	ways    int // backends that a POP brings along

	mu       sync.Mutex
	faults   []Fault
	verdicts []Invariant
	warm     map[string]time.Time  // when a backend that came back has its full share
	back     map[string]*watch     // backends that must get clients again
	crossing *crossing             // what was written on both sides of the cut
	drained  map[geo.Region]*watch // what goes to drained regions
}

// enough is how many clients make an observation.
const enough = 25

// play does one step. An error means that it cannot be done; what does not
// come of it is a verdict.
func (s *story) play(ctx context.Context, step Step) error {
	began := time.Now()
	what, err := s.do(ctx, step)
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	if what != "" && ctx.Err() == nil {
		s.mu.Lock()
		s.faults = append(s.faults, Fault{At: seconds(began.Sub(s.began)), What: what, Seconds: seconds(time.Since(began))})
		s.mu.Unlock()
	}
	return nil
}

func (s *story) do(ctx context.Context, step Step) (what string, err error) {
	switch step.Verb {
	case "kill":
		return s.kill(ctx, step.arg(0))
	case "revive":
		return s.revive(ctx, step.arg(0))
	case "cut":
		return s.cut(ctx, step.arg(0))
	case "heal":
		return s.heal(ctx, step.arg(0))
	case "weight":
		n, _ := strconv.ParseInt(step.arg(1), 10, 64) // checked; none: chosen
		return s.weight(ctx, step.arg(0), n)
	case "drain":
		return s.drain(ctx, step.arg(0))
	case "undrain":
		return s.undrain(ctx, step.arg(0))
	case "join":
		return s.join(ctx)
	}
	d, err := step.pause()
	pause(ctx, d)
	return "", err
}

// turn is what a key means: the counterpart of a fault that is there already.
func (s *story) turn(step Step) Step {
	switch {
	case step.Verb == "kill" && slices.ContainsFunc(s.world.allBackends(), func(b *backend) bool { return !b.alive() }):
		step.Verb = "revive"
	case step.Verb == "cut" && slices.ContainsFunc(s.world.allPOPs(), func(p *pop) bool { return s.world.links.isCut(p.name) }):
		step.Verb = "heal"
	case step.Verb == "drain" && len(s.drained) > 0:
		step.Verb = "undrain"
	}
	return step
}

// verdict notes what came of a step, and says so.
func (s *story) verdict(name string, ok bool, format string, args ...any) {
	detail := fmt.Sprintf(format, args...)
	word := "ok"
	if !ok {
		word = "FAIL"
	}
	s.say("%s: %s (%s)", word, name, detail)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts = append(s.verdicts, Invariant{name, ok, detail})
}

// seen is a copy for a report.
func (s *story) seen() ([]Fault, []Invariant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults), slices.Clone(s.verdicts)
}

// served waits until a watch has seen so many served.
func served(ctx context.Context, w *watch, n int) error {
	_, err := until(ctx, mostWait, func() bool { ok, _ := w.count(); return ok >= n })
	return err
}

// choose is one of some by the seed.
func choose[T any](s *story, all []T) (t T, ok bool) {
	if len(all) == 0 {
		return t, false
	}
	return all[s.rand.IntN(len(all))], true
}

// writer is a POP to write on: one that is not cut off, and not in the region
// where possible, for a change is to take effect elsewhere.
func (s *story) writer(region geo.Region) (*pop, error) {
	var near, far []*pop
	for _, p := range s.world.allPOPs() {
		switch {
		case s.world.links.isCut(p.name):
		case p.region == region:
			near = append(near, p)
		default:
			far = append(far, p)
		}
	}
	if p, ok := choose(s, far); ok {
		return p, nil
	}
	if p, ok := choose(s, near); ok {
		return p, nil
	}
	return nil, fmt.Errorf("every POP is cut off: heal one first")
}

func seconds(d time.Duration) float64 { return float64(d.Milliseconds()) / 1000 }
