// Package lab shows a whole mesh at work, and what it survives, on this machine.
//
//	report, err := lab.Run(ctx, lab.Config{Duration: 20 * time.Second})
//	report.OK() // every invariant held
//
// It runs three POPs, each with its own sockets, directory and routing.db, nine
// backends, and clients whose addresses, sent by PROXY header, are public ones
// from all continents, all in this process on loopback. A story happens to
// them: a backend dies, a POP is cut off, a weight changes, a region is
// drained, a POP joins. Verdicts are about what the lab itself saw clients,
// backends and files do, never about what a POP says of itself.
//
//	world    POPs, backends, links between POPs: what there is
//	truth    what the lab did to it, and so what clients may expect
//	traffic  users; tally counts what they saw, probe measures
//	story    steps, each with its verdict
//	report   all of it, for programs and people
//
// Nothing outlives Run, in memory or on disk; what a lab that was killed left
// behind, the next one removes. It is no benchmark: clients, POPs and backends
// share the processors.
package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	"github.com/rs/zerolog"
)

// Config of a run. Zero values are the defaults.
type Config struct {
	Duration time.Duration // of the traffic, at least; 0: 20 s, or as long as Script or Keys
	POPs     int           // at the start; 0: 3
	Backends int           // at the start; 0: 9
	Users    int           // connections at a time; 0: 40
	Seed     uint64        // of what the lab chooses; 0: by chance
	Script   []Step        // nil: the parts of the default story that fit into Duration
	Keys     <-chan Step   // steps as somebody asks for them, until it is closed; instead of a script
	Log      zerolog.Logger

	Say  func(at time.Duration, line string) // what happens, as it happens; may be nil
	Show func(*Report)                       // four times a second; may be nil
}

const (
	defaultDuration = 20 * time.Second
	mostPOPs        = 8
	mostBackends    = 64
	mostUsers       = 100
	showEvery       = 250 * time.Millisecond
)

// withDefaults fills in what is zero.
func (c Config) withDefaults() Config {
	if c.Duration == 0 && c.Script == nil && c.Keys == nil {
		c.Duration = defaultDuration
	}
	c.POPs, c.Backends, c.Users = cmp.Or(c.POPs, 3), cmp.Or(c.Backends, 9), cmp.Or(c.Users, 40)
	if c.Seed == 0 {
		c.Seed = rand.Uint64()>>32 + 1
	}
	if c.Say == nil {
		c.Say = func(time.Duration, string) {}
	}
	if c.Show == nil {
		c.Show = func(*Report) {}
	}
	return c
}

// Validate names every problem.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	if c.Duration < 0 {
		errs = append(errs, fmt.Errorf("duration %s: want more than 0", c.Duration))
	}
	for _, n := range []struct {
		name    string
		n, most int
	}{{"POPs", c.POPs, mostPOPs}, {"backends", c.Backends, mostBackends}, {"users at a time", c.Users, mostUsers}} {
		if n.n < 1 || n.n > n.most {
			errs = append(errs, fmt.Errorf("%d %s: want 1 to %d", n.n, n.name, n.most))
		}
	}
	if errs != nil {
		return errors.Join(errs...)
	}
	// The lab is about who goes where, not about overload: with a backend dead,
	// a region drained and a crowd there, what is left has room for all.
	each := c.Backends / min(c.POPs, len(regions))
	if room := hardLimit / 2 * max(1, each-1); c.Users > room {
		return fmt.Errorf("%d users at a time might fill a region of %d backends with a hard limit of %d each, when one is dead: at most %d", c.Users, each, hardLimit, room)
	}
	return nil
}

// run is one lab.
type run struct {
	cfg    Config
	began  time.Time
	table  *geo.Table
	world  *world
	tally  *tally
	probe  *probe
	story  *story
	saying sync.Mutex
	steps  []Step
	left   []string // parts of the default story that did not fit
	cut    bool     // it was interrupted
}

// Run plays a lab and returns what it saw. When ctx ends early, the report is
// about what was seen until then. An error means that the lab could not be
// played, or that something of it broke; verdicts stand in the report.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &run{cfg: cfg, began: time.Now(), tally: newTally()}
	dir, err := newTempDir()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.remove()) }()

	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer end(nil)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	broken := func(err error) { stop(&brokenError{err}) }

	r.world = newWorld(life, cfg, dir.path, &running, broken)
	defer func() { err = errors.Join(err, r.world.close()) }()
	if err := r.prepare(); err != nil {
		return nil, err
	}
	if err := r.world.build(ctx, cfg.POPs, cfg.Backends); err != nil {
		return nil, errors.Join(err, brokenBy(ctx))
	}
	err = r.play(ctx)
	return r.report(), errors.Join(err, brokenBy(ctx), r.world.links.failure())
}

// brokenError ends a lab of which a part has failed.
type brokenError struct{ error }

// brokenBy is why the lab ended, where that was not its time or its user.
func brokenBy(ctx context.Context) error {
	var b *brokenError
	if errors.As(context.Cause(ctx), &b) {
		return b.error
	}
	return nil
}

// prepare makes what plays in the world.
func (r *run) prepare() error {
	if r.steps = r.cfg.Script; r.steps == nil && r.cfg.Keys == nil {
		r.steps, r.left = plan(r.cfg.Duration, r.cfg.POPs, r.cfg.Backends)
	}
	var err error
	if r.table, err = geo.NewTable(nil); err != nil {
		return err
	}
	resolver, err := mmdb.New(mmdb.Config{}, r.table)
	if err != nil {
		return err
	}
	from, err := clients(resolver)
	if err != nil {
		return err
	}
	t := &traffic{world: r.world, from: from, resolver: resolver, tally: r.tally, seed: r.cfg.Seed}
	random := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(r.cfg.Seed, 1<<32+stream)) }
	r.probe = &probe{world: r.world, traffic: t, rand: random}
	r.story = &story{
		world: r.world, tally: r.tally, traffic: t, rand: random(0), say: r.say, began: r.began,
		ways: max(1, r.cfg.Backends/r.cfg.POPs),
		warm: map[string]time.Time{}, back: map[string]*watch{}, drained: map[geo.Region]*watch{},
	}
	return nil
}

// play runs traffic, measurements and the story, and ends them in that order's reverse.
func (r *run) play(ctx context.Context) error {
	r.say("%d POPs and %d backends are up; clients of %d countries come, seed %d",
		len(r.world.allPOPs()), len(r.world.allBackends()), len(r.probe.traffic.from), r.cfg.Seed)
	moving, still := context.WithCancel(ctx)
	var g sync.WaitGroup
	defer g.Wait()
	defer still()
	g.Go(func() { r.probe.traffic.run(moving, r.cfg.Users) })
	g.Go(func() { r.probe.addedLatency(moving) })
	g.Go(func() { r.probe.propagation(moving) })
	g.Go(func() { r.show(moving) })

	end := time.NewTimer(r.cfg.Duration)
	defer end.Stop()
	err := r.tell(ctx)
	select {
	case <-end.C:
	case <-ctx.Done():
	}
	if err == nil {
		r.story.finish(ctx)
		r.probe.finish(ctx)
	}
	still()
	g.Wait()
	r.cut = ctx.Err() != nil
	if err == nil && !r.cut {
		r.story.equal(ctx)
		r.cut = ctx.Err() != nil
	}
	return err
}

// tell plays the story to its end.
func (r *run) tell(ctx context.Context) error {
	if r.cfg.Keys != nil {
		return r.tellKeys(ctx)
	}
	for _, step := range r.steps {
		if ctx.Err() != nil {
			return nil
		}
		if err := r.story.play(ctx, step); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// tellKeys plays what somebody asks for, one after the other.
func (r *run) tellKeys(ctx context.Context) error {
	for {
		select {
		case step, ok := <-r.cfg.Keys:
			if !ok {
				return nil
			}
			if err := r.story.play(ctx, r.story.turn(step)); err != nil && ctx.Err() == nil {
				r.say("cannot %v", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// show shows what has happened so far, until ctx ends.
func (r *run) show(ctx context.Context) {
	for pause(ctx, showEvery) {
		r.story.returned(ctx)
		r.cfg.Show(r.report())
	}
}

// say passes on what happens, a line at a time.
func (r *run) say(format string, args ...any) {
	r.saying.Lock()
	defer r.saying.Unlock()
	r.cfg.Say(time.Since(r.began), fmt.Sprintf(format, args...))
}
