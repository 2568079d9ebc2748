package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/health/checker"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

const (
	// watchEvery is how often suspicions and leases are looked at.
	watchEvery = route.ReportEvery
	// onDuty is how old a POP's last word may be for it to be given backends to
	// check: its work is another's before its own interval has passed twice.
	onDuty = 5 * time.Second
)

// vigil checks the backends that are this POP's to check, and tells the router
// what all POPs' checks say.
type vigil struct {
	self    mesh.POP
	life    uint64 // of this process, later ones have greater numbers
	router  *route.Router
	checker *checker.Checker
	poked   chan struct{} // size 1: the snapshot, the members or a setting changed
	watches *watches

	mu       sync.Mutex
	fallback mesh.Check // of backends of which nobody says anything
	board    *health.Board
	seq      uint64
	members  []mesh.POP // that are alive, without this one
	own      map[string]health.Verdict
	told     map[string]health.Verdict // what the other POPs know of own, at least
	named    map[string]bool           // backends of which some POP may have a verdict of ours
	suspects map[string]bool           // of this POP's clients, for the others
	assigned []mesh.POP                // among whom the backends were shared
	of       *mesh.Snapshot            // that was shared
}

func newVigil(self mesh.POP, incarnation uint64, fallback mesh.Check, router *route.Router, overlay *overlay, log zerolog.Logger) *vigil {
	direct := &net.Dialer{KeepAlive: -1}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if at, err := netip.ParseAddrPort(addr); err == nil && overlay.Reaches(at.Addr()) {
			return overlay.DialContext(ctx, network, addr)
		}
		return direct.DialContext(ctx, network, addr)
	}
	return &vigil{
		self: self, life: incarnation, router: router, fallback: fallback,
		checker: checker.New(checker.Config{Dial: dial}, log.With().Str("component", "health").Logger()),
		poked:   make(chan struct{}, 1), board: health.NewBoard(), named: map[string]bool{}, suspects: map[string]bool{},
	}
}

// defaultCheck is the setting's check.
func defaultCheck(cfg *config.Config) (mesh.Check, error) {
	c, err := mesh.ParseCheck(cfg.HealthCheck)
	if err != nil {
		return c, fmt.Errorf("%s: %w", cfg.Origin("health_check"), err)
	}
	return c, nil
}

func tuning(cfg *config.Config) route.Tuning {
	return route.Tuning{Panic: int64(cfg.PanicThreshold), HardMargin: cfg.HardMargin}
}

// run checks until ctx ends.
func (v *vigil) run(ctx context.Context) {
	var checks sync.WaitGroup
	defer checks.Wait()
	checks.Go(func() { _ = v.checker.Run(ctx) }) // nil with ctx
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		anew, checked := false, false
		select {
		case <-ctx.Done():
			return
		case <-v.poked:
			anew = true
		case <-v.checker.Changed():
			checked = true
		case <-ticker.C:
		}
		now := time.Now()
		v.suspect(v.router.Suspects())
		v.share(now)
		v.judge(v.listen(checked, now), now)
		if anew {
			v.decide(append(v.judged(), v.router.Down()...), now) // the router may have forgotten some meanwhile
		}
	}
}

// poke has the work shared anew soon.
func (v *vigil) poke() {
	select {
	case v.poked <- struct{}{}:
	default:
	}
}

// setMembers tells who else is there.
func (v *vigil) setMembers(members []mesh.POP) {
	v.mu.Lock()
	v.members = members
	v.mu.Unlock()
	v.poke()
}

// setDefault changes the check of backends of which nobody says anything.
func (v *vigil) setDefault(c mesh.Check) {
	v.mu.Lock()
	v.fallback, v.of = c, nil
	v.mu.Unlock()
	v.poke()
}

// suspect has backends looked at to which a client's connect failed, by the
// POPs that check them.
func (v *vigil) suspect(ids []string) {
	if len(ids) == 0 {
		return
	}
	v.checker.Suspect(ids)
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		if len(v.suspects) < gossip.MaxSuspects {
			v.suspects[id] = true
		}
	}
}

// share finds out which backends are this POP's to check, where that may have
// changed.
func (v *vigil) share(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	snap := v.router.Snapshot()
	pops := []mesh.POP{v.self}
	for _, p := range v.members {
		if v.board.Fresh(p.Node, onDuty, now) {
			pops = append(pops, p)
		}
	}
	if snap == v.of && slices.Equal(pops, v.assigned) {
		return
	}
	v.of, v.assigned = snap, pops
	duty := health.NewDuty(pops)
	var targets []checker.Target
	for i := range snap.Backends {
		b := &snap.Backends[i]
		check := v.fallback
		if b.Check != nil {
			check = *b.Check
		}
		if check.Kind == mesh.CheckOff || !b.Healthy || b.Deleted {
			continue // the operator's word stands above ours
		}
		if !slices.Contains(duty.Checkers(b.ID, b.Region, snap.Positions[b.Region]), v.self.Node) {
			continue
		}
		t := checker.Target{ID: b.ID, Addr: b.Addr, Check: check, Proxy: b.ProxyOut}
		if said := v.board.Verdicts(b.ID); len(said) > 0 { // who takes over goes on from what is known
			down := v.board.Down(b.ID)
			t.Start = health.State{Known: true, Up: !down, Since: now}
			if down {
				t.Start.Since, t.Start.Why = said[0].Since, said[0].Why
			}
		}
		targets = append(targets, t)
	}
	v.checker.Assign(targets)
}

// listen takes over this POP's own verdicts, where they may have changed, ends
// the leases of others, and says of which backends something is otherwise now.
func (v *vigil) listen(checked bool, now time.Time) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seq++
	r := health.Report{POP: v.self.Node, Incarnation: v.life, Seq: v.seq, At: now}
	if checked {
		states := v.checker.States()
		v.own = make(map[string]health.Verdict, len(states))
		for id, s := range states {
			v.own[id] = health.Verdict{Up: s.Up, Since: s.Since, Why: s.Why}
		}
		r.Whole, r.Verdicts = true, v.own
	}
	return append(v.board.Learn(r, now), v.board.Expire(now)...)
}

// judged are the backends of which there is a verdict.
func (v *vigil) judged() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.board.Backends()
}

// judge tells the router, and those who watch, what the checks say now of these
// backends, of which they say something else than before.
func (v *vigil) judge(ids []string, now time.Time) {
	v.decide(ids, now)
	v.retell(ids, now)
}

// decide tells the router what the checks say of these backends now.
func (v *vigil) decide(ids []string, now time.Time) {
	if len(ids) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock() // not before the router knows it: a later verdict must not be overtaken
	list := make([]route.Judgement, len(ids))
	for i, id := range ids {
		list[i] = route.Judgement{Backend: id, Down: v.board.Down(id)}
	}
	v.router.Judge(list, now)
}
