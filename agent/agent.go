// Package agent runs beside a backend and speaks for it: it registers the
// backend with a mesh of POPs, checks it, sends heartbeats, and takes it out
// again at the end.
//
//	a, err := agent.New(agent.Config{
//		Backend: api.Registration{ID: &id, App: &app, Region: &region, Addr: &addr},
//		POPs:    []string{"10.0.0.1:8180", "10.0.0.2:8180"}, // one at a time; the next where one does not answer
//		Check:   check, // mesh.ParseCheck
//	}, log)
//	err = a.Run(ctx) // until ctx ends; then the backend is out of routing everywhere
//
// Run ends before that only where the first POP that answers refuses the
// registration for good: the backend makes no sense, an operator has one of the
// same name, or the token is wrong. All else is tried again for ever. While the
// backend's own check fails the heartbeats say so, and no POP routes to it.
// A process that is killed says nothing: the TTL does it then.
package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/health/checker"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

const (
	leastWait    = 500 * time.Millisecond // until a try that failed is repeated, doubling
	mostWait     = 15 * time.Second
	mostPatience = 5 * time.Second // with one POP that does not answer
	farewell     = 5 * time.Second // for taking the backend out at the end
	returnAfter  = time.Minute     // a POP earlier on the list that failed is tried again
)

// Config of an Agent. ID, region and address of the backend, and a POP, must be there.
type Config struct {
	Backend  api.Registration
	POPs     []string // admin APIs, host:port or URL, in the order of preference
	Token    string
	Check    mesh.Check     // of the backend, from here; the zero value: none
	CheckAt  netip.AddrPort // zero: the backend's address
	Interval time.Duration  // between heartbeats, half the TTL that the POP says at most; 0: a third of it
}

// Agent speaks for one backend.
type Agent struct {
	cfg     Config
	id      string
	log     zerolog.Logger
	checker *checker.Checker // nil: the backend is not checked
	pops    pops

	ttl        time.Duration // as a POP last said
	at         netip.AddrPort
	registered bool   // a POP took it once
	taken      bool   // the id is an operator's by now, as a POP last said
	said       string // as failing, last; of what the POPs know
	warned     bool   // that Interval is too long
}

// New makes an agent that does nothing until Run.
func New(cfg Config, log zerolog.Logger) (*Agent, error) {
	if cfg.Backend.ID == nil || cfg.Backend.Region == nil || cfg.Backend.Addr == nil {
		return nil, errors.New("the backend needs an id, a region and an address")
	}
	at, err := netip.ParseAddrPort(*cfg.Backend.Addr)
	if err != nil {
		return nil, fmt.Errorf("address of the backend: %w", err)
	}
	a := &Agent{cfg: cfg, at: at, id: *cfg.Backend.ID, log: log.With().Str("component", "agent").Str("backend", *cfg.Backend.ID).Logger(), ttl: mesh.DefaultTTL}
	if a.pops, err = dial(cfg.POPs, cfg.Token); err != nil {
		return nil, err
	}
	if cfg.Check.Kind != "" && cfg.Check.Kind != mesh.CheckOff {
		if cfg.CheckAt.IsValid() {
			at = cfg.CheckAt
		}
		a.checker = checker.New(checker.Config{}, log.With().Str("component", "agent").Logger())
		a.checker.Assign([]checker.Target{{ID: a.id, Addr: at, Check: cfg.Check}})
	}
	return a, nil
}

// Run speaks for the backend until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.pops.close()
	changed := make(<-chan struct{}) // nothing comes
	if a.checker != nil {
		checks, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = a.checker.Run(checks) // nil with its context
		}()
		defer func() { stop(); <-ended }()
		changed = a.checker.Changed()
		a.firstCheck(ctx, changed)
	}
	defer a.leave(ctx)
	return a.speak(ctx, changed)
}

// firstCheck waits for the first verdict: nobody should be sent here before.
func (a *Agent) firstCheck(ctx context.Context, changed <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Check.Timeout+2*time.Second)
	defer cancel()
	for !a.state().Known {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Agent) state() health.State { return a.checker.States()[a.id] }

// failing is why the backend takes no connections; empty: it does.
func (a *Agent) failing() string {
	if a.checker == nil {
		return ""
	}
	switch s := a.state(); {
	case !s.Known:
		return "not checked yet"
	case !s.Up:
		return "check of its agent: " + s.Why
	}
	return ""
}

// speak registers and sends heartbeats.
//
//	unknown --register: 201--> known --heartbeat: 200--> known
//	   ^  \__no answer: later__/  \____heartbeat: 404____> unknown
func (a *Agent) speak(ctx context.Context, changed <-chan struct{}) error {
	known, failed := false, 0
	for ctx.Err() == nil {
		err := a.say(ctx, &known)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !a.registered && final(err) {
			return fmt.Errorf("%s is refused: %v", a.id, err) // not wrapped: it is no mistake on a command line
		}
		wait := a.interval()
		if err != nil {
			wait = a.pause(failed)
			failed++
			a.log.Warn().Err(err).Dur("again_ms", wait).Msg("no POP takes it")
		} else {
			failed = 0
		}
		a.wait(ctx, wait, changed, err == nil)
	}
	return nil
}

// wait lets time pass, up to when the backend's health is other than what the
// POPs know.
func (a *Agent) wait(ctx context.Context, d time.Duration, changed <-chan struct{}, heard bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-changed:
			if heard && (a.failing() == "") != (a.said == "") {
				return
			}
		}
	}
}

// say registers the backend, or sends a heartbeat. known says whether the POPs know it.
func (a *Agent) say(ctx context.Context, known *bool) error {
	failing := a.failing()
	if *known {
		err := a.pops.ask(ctx, a.patience(), func(ctx context.Context, pop *api.Client) error {
			beat, err := pop.Heartbeat(ctx, a.id, api.Heartbeat{Failing: failing})
			if err == nil && beat.TTL > 0 {
				a.ttl = time.Duration(beat.TTL) * time.Second
			}
			return err
		})
		if !errors.Is(err, api.ErrNotFound) {
			a.heard(err, failing)
			return err
		}
		*known = false
		a.log.Info().Msg("not known any more: registering anew")
	}
	set := a.cfg.Backend
	set.Failing = failing
	at := ""
	err := a.pops.ask(ctx, a.patience(), func(ctx context.Context, pop *api.Client) error {
		b, err := pop.Register(ctx, set)
		if err == nil {
			at, a.registered, *known = pop.Addr(), true, true // also where ctx ends in this moment
			if b.TTL > 0 {
				a.ttl = time.Duration(b.TTL) * time.Second
			}
		}
		return err
	})
	if err == nil || final(err) {
		a.taken = errors.Is(err, api.ErrExists)
	}
	a.heard(err, failing)
	if err == nil {
		a.log.Info().Str("pop", at).Dur("ttl_ms", a.ttl).Dur("interval_ms", a.interval()).Str("failing", failing).Msg("registered")
	}
	return err
}

// heard notes what the POPs know now.
func (a *Agent) heard(err error, failing string) {
	if err != nil {
		return
	}
	if failing != a.said {
		a.log.Info().Str("failing", failing).Msg("told that the backend's health changed")
	}
	a.said = failing
	if a.cfg.Interval > a.ttl/2 && !a.warned {
		a.warned = true
		a.log.Warn().Dur("interval_ms", a.cfg.Interval).Dur("ttl_ms", a.ttl).Msg("the interval is more than half the POP's TTL: heartbeats go more often, or the backend would expire between them")
	}
}

// interval is the time between heartbeats, a little different each time, so
// that many agents that began together do not stay together.
func (a *Agent) interval() time.Duration {
	d := min(a.cfg.Interval, a.ttl/2) // one may be late, or lost
	if d <= 0 {
		d = a.ttl / 3
	}
	return d - time.Duration(rand.Int64N(int64(d)/10+1))
}

// patience is how long one POP may take to answer.
func (a *Agent) patience() time.Duration { return min(max(a.ttl/6, time.Second), mostPatience) }

// pause is how long to wait after so many failures.
func (a *Agent) pause(failed int) time.Duration {
	d := min(leastWait<<min(failed, 10), mostWait, max(a.ttl/3, leastWait))
	return d/2 + rand.N(d/2+1)
}

// leave takes the backend out at the end, where it ever got in: not what an
// operator or a successor elsewhere has under its id by now.
func (a *Agent) leave(ctx context.Context) {
	if !a.registered || a.taken {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	err := a.pops.ask(ctx, farewell/2, func(ctx context.Context, pop *api.Client) error { return pop.Unregister(ctx, a.id, a.at) })
	if errors.Is(err, api.ErrExists) {
		a.log.Info().Err(err).Msg("not unregistered: it is another's by now")
		return
	}
	if err != nil && !errors.Is(err, api.ErrNotFound) {
		a.log.Warn().Err(err).Dur("ttl_ms", a.ttl).Msg("not unregistered: it expires")
		return
	}
	a.log.Info().Msg("unregistered")
}

// final says that trying again would not help.
func final(err error) bool {
	return errors.Is(err, api.ErrExists) || errors.Is(err, api.ErrToken) || errors.As(err, new(*mesh.FieldError))
}
