package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/serf/serf"
)

const (
	dialsAtOnce = 32               // addresses tried in one attempt, out of all that the seeds' names gave
	sayAgain    = time.Minute      // first interval at which the log repeats what it waits for; doubles
	sayLongest  = time.Hour        // the last
	sayOther    = 10 * time.Second // between two different reasons
	viaLasts    = time.Hour        // how long a seed that was joined under an address that no member has counts as found
	lookAround  = 15 * time.Second // between looks whether a seed is missing
)

// joiner is what one Run's search knows.
type joiner struct {
	ring     *Ring
	serf     *serf.Serf
	gate     *gate
	previous []target                     // from the snapshot
	unheard  []target                     // of them those that nobody has spoken of since the start
	last     map[string][]netip.AddrPort  // what a seed's name last meant
	via      map[netip.AddrPort]time.Time // when it last let us in
	said     waitLog
}

// join looks for the mesh until ctx ends.
//
//	alone ------ attempt, wait 0.5 s .. 30 s ------> another is alive
//	another is alive, a seed is not a member: the same, at the same pace
//	another is alive, all seeds found: look again after a change or 15 s
//	another is alive, some of the snapshot are unheard of: they are tried too
func (r *Ring) join(ctx context.Context, s *serf.Serf, g *gate) {
	j := &joiner{ring: r, serf: s, gate: g, last: make(map[string][]netip.AddrPort), via: make(map[netip.AddrPort]time.Time)}
	j.readSnapshot()
	t := r.cfg.Timing
	start := time.Now()
	began := start
	for wait := t.JoinMin; ctx.Err() == nil && !r.isLeaving(); {
		seeds, lonely := j.missing()
		if lonely || len(seeds) > 0 {
			reason := j.attempt(ctx, seeds, lonely)
			if ctx.Err() != nil {
				return
			}
			seeds, lonely = j.missing()
			if lonely || len(seeds) > 0 {
				// Also where somebody let us in: that may be one of several
				// islands, as after a cold start of everything.
				most := t.JoinMax
				if reason == nil {
					most = lookAround
				}
				j.setWaiting(lonely && reason != nil, reason)
				r.sleep(ctx, wait+rand.N(wait/2+1), lonely)
				wait = min(2*wait, most)
				continue
			}
		}
		j.setWaiting(false, nil)
		if j.said.end() {
			r.log.Info().Int("members", len(r.Members())).Dur("took", time.Since(began)).Msg("joined the mesh")
		}
		wait = t.JoinMin
		if time.Since(start) < t.Retention {
			j.seek(ctx)
		}
		r.sleep(ctx, lookAround, true)
		began = time.Now()
	}
}

// sleep waits; early asks it to end at a change of the members that leaves
// nothing as it was: another is alive, or none is any more.
func (r *Ring) sleep(ctx context.Context, d time.Duration, early bool) {
	was := alone(r.Members())
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			return
		case <-r.joinNow:
			if early && alone(r.Members()) != was {
				return
			}
		}
	}
}

// missing lists the seeds that are neither members nor this node, and says
// whether we are alone although there is somebody to look for.
func (j *joiner) missing() (seeds []seed, lonely bool) {
	members := j.ring.Members()
	known := make(map[netip.AddrPort]bool, len(members))
	for _, m := range members {
		known[m.Addr] = true
	}
	for _, s := range j.ring.seeds {
		found := func(a netip.AddrPort) bool {
			return known[a] || j.ring.isSelf(a) || time.Since(j.via[a]) < viaLasts
		}
		if !slices.ContainsFunc(j.last[s.text], found) {
			seeds = append(seeds, s)
		}
	}
	return seeds, alone(members) && (len(j.ring.seeds) > 0 || len(j.previous) > 0)
}

// attempt tries once and says why it found nobody.
func (j *joiner) attempt(ctx context.Context, seeds []seed, lonely bool) error {
	if lonely {
		seeds = j.ring.seeds
	}
	targets, why := j.resolve(ctx, seeds)
	if lonely {
		targets = append(targets, j.previous...)
	}
	var self []string
	targets = slices.DeleteFunc(targets, func(t target) bool {
		if j.ring.isSelf(t.addr) {
			self = append(self, t.from)
			return true
		}
		return false
	})
	if len(targets) == 0 {
		if len(why) == 0 && len(self) > 0 {
			return nil // whoever names only itself waits for nobody
		}
		return errors.Join(why...)
	}
	rand.Shuffle(len(targets), func(a, b int) { targets[a], targets[b] = targets[b], targets[a] })
	targets = targets[:min(len(targets), dialsAtOnce)]
	open, closed := j.reach(ctx, targets)
	why = append(why, closed...)
	for _, t := range open {
		if lonely && !alone(j.ring.Members()) {
			return nil
		}
		if err := j.enter(t); err != nil {
			why = append(why, err)
		}
	}
	return errors.Join(why...)
}

// enter exchanges everything with one that answers. Old events are not
// replayed: ignoreOld.
func (j *joiner) enter(t target) error {
	if _, err := j.serf.Join([]string{t.addr.String()}, true); err != nil {
		if first := errors.Unwrap(err); first != nil {
			err = first // out of a list of one
		}
		return fmt.Errorf("%s: answers, but: %w (is its cluster key ours?)", t.from, err)
	}
	j.ring.changes.Add(1)
	if alone(j.ring.Members()) {
		// Another node would now be a member.
		return fmt.Errorf("%s: %s answers, but as this node: it is this one, or has its name", t.from, t.addr)
	}
	j.via[t.addr] = time.Now()
	return nil
}

// seek tries those in the snapshot of whom nobody has spoken since the start. A
// mesh that starts all at once may come together in parts, of which each
// remembers the other; where no seed is missing, nothing else would join them.
func (j *joiner) seek(ctx context.Context) {
	known := make(map[string]bool)
	for _, m := range j.ring.Members() {
		known[m.Name], known[m.Addr.String()] = true, true
	}
	j.unheard = slices.DeleteFunc(j.unheard, func(t target) bool {
		return known[t.from] || known[t.addr.String()] || j.ring.isSelf(t.addr)
	})
	rand.Shuffle(len(j.unheard), func(a, b int) { j.unheard[a], j.unheard[b] = j.unheard[b], j.unheard[a] })
	open, _ := j.reach(ctx, j.unheard[:min(len(j.unheard), dialsAtOnce)])
	for _, t := range open {
		if ctx.Err() == nil && !j.ring.isLeaving() {
			_ = j.enter(t) // tried again
		}
	}
}

func (j *joiner) readSnapshot() {
	r := j.ring
	known, odd, err := readSnapshot(r.cfg.Snapshot)
	if err != nil {
		r.log.Warn().Err(err).Msg("members not remembered")
	}
	if odd > 0 {
		r.log.Warn().Int("lines", odd).Str("file", r.cfg.Snapshot).Msg("snapshot damaged, rest is used")
	}
	for name, addr := range known {
		if name != r.cfg.Node {
			j.previous = append(j.previous, target{addr, name})
		}
	}
	j.unheard = slices.Clone(j.previous)
}

// setWaiting tells Waiting and the log; nil: found.
func (j *joiner) setWaiting(lonely bool, why error) {
	r := j.ring
	text := ""
	if why != nil {
		text = strings.ReplaceAll(why.Error(), "\n", "; ")
	}
	r.mu.Lock()
	r.waiting = ""
	if lonely && !r.leaving {
		r.waiting = text
	}
	r.mu.Unlock()
	if why != nil && j.said.due(text, time.Now()) {
		r.log.Warn().Strs("seeds", r.cfg.Join).Bool("alone", lonely).Str("err", text).Msg("waiting to join")
	}
}

// waitLog decides when the log says again what we wait for: at once, when the
// reason changes, and at growing intervals.
type waitLog struct {
	text  string
	at    time.Time
	every time.Duration
}

func (w *waitLog) due(text string, now time.Time) bool {
	switch {
	case w.every == 0:
		w.every = sayAgain
	case text != w.text && now.Sub(w.at) >= sayOther:
		w.every = sayAgain
	case now.Sub(w.at) >= w.every:
		w.every = min(2*w.every, sayLongest)
	default:
		return false
	}
	w.text, w.at = text, now
	return true
}

// end forgets, and says whether anything had been said.
func (w *waitLog) end() bool {
	said := w.every != 0
	*w = waitLog{}
	return said
}
