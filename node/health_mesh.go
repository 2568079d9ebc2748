package node

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// others are the members that are POPs, live and are not this one, as those who
// may be given backends to check.
func others(members []membership.Member) []mesh.POP {
	var pops []mesh.POP
	for _, m := range members {
		if m.Self || m.Status != membership.StatusAlive || m.Tags[tagRole] != roleOurs {
			continue
		}
		p := mesh.POP{Node: m.Name, Region: geo.Region(m.Tags[tagRegion])}
		if at, err := parsePosition(m.Tags[tagPosition]); err == nil {
			p.Position = at.Vector()
		} else if at, ok := geo.RegionPosition(p.Region); ok {
			p.Position = at.Vector()
		}
		pops = append(pops, p)
	}
	slices.SortFunc(pops, func(a, b mesh.POP) int { return strings.Compare(a.Node, b.Node) })
	return pops
}

// took is told what another POP says.
func (v *vigil) took(peer string, l gossip.Load, now time.Time) {
	at := now.Add(-l.Age)
	r := health.Report{
		POP: peer, Incarnation: l.Life, Seq: l.Seq, At: at, Whole: l.Whole, Gone: l.Unchecked,
		Verdicts: make(map[string]health.Verdict, len(l.Verdicts)),
	}
	for id, said := range l.Verdicts {
		r.Verdicts[id] = health.Verdict{Up: said.Up, Since: at.Add(-said.For), Why: said.Why}
	}
	v.mu.Lock()
	changed := v.board.Learn(r, now)
	v.mu.Unlock()
	v.judge(changed, now)
	v.checker.Suspect(l.Suspects)
}

// heard is when a POP last said something, by this machine's clock.
func (v *vigil) heard(pop string) (time.Time, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.board.Heard(pop)
}

// forget drops what a POP said, which has left.
func (v *vigil) forget(pop string, now time.Time) {
	v.mu.Lock()
	changed := v.board.Forget(pop)
	v.mu.Unlock()
	v.judge(changed, now)
}

// news adds to a load what the other POPs do not know yet.
func (v *vigil) news(l *gossip.Load, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.Verdicts = map[string]gossip.LoadVerdict{}
	for id, said := range v.own {
		if old, known := v.told[id]; !known || old != said {
			l.Verdicts[id], v.named[id] = loadVerdict(said, now), true
		}
	}
	for id := range v.named {
		if _, still := v.own[id]; !still {
			l.Unchecked = append(l.Unchecked, id)
			delete(v.named, id)
		}
	}
	v.told = v.own
	l.Suspects = slices.Sorted(maps.Keys(v.suspects))
	clear(v.suspects)
}

// all adds to a load all that this POP's checks say.
func (v *vigil) all(l *gossip.Load, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	l.Verdicts = make(map[string]gossip.LoadVerdict, len(v.own))
	for id, said := range v.own {
		l.Verdicts[id], v.named[id] = loadVerdict(said, now), true
	}
}

func loadVerdict(said health.Verdict, now time.Time) gossip.LoadVerdict {
	return gossip.LoadVerdict{Up: said.Up, For: min(max(0, now.Sub(said.Since)), gossip.MaxLoadFor), Why: said.Why}
}

// verdicts is what the checks say of a backend, for people.
func (v *vigil) verdicts(id string) []api.Verdict {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return verdicts(v.board.Verdicts(id))
}

func verdicts(all []health.Verdict) (list []api.Verdict) {
	for _, said := range all {
		list = append(list, api.Verdict{POP: said.POP, Up: said.Up, Since: said.Since.UTC().Truncate(time.Millisecond), Why: said.Why})
	}
	return list
}

// retell tells those who watch what the checks say of these backends now.
func (v *vigil) retell(ids []string, now time.Time) {
	if len(ids) == 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	snap := v.router.Snapshot()
	states := make([]api.HealthState, len(ids))
	for i, id := range ids {
		states[i] = api.HealthState{ID: id, Down: v.board.Down(id), Checks: verdicts(v.board.Verdicts(id))}
		if b, known := snap.Backend(id); known {
			states[i].App = b.App
		}
	}
	v.watches.health(states, now)
}

// rows are all verdicts, for the database.
func (v *vigil) rows() []sqlite.Verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	var rows []sqlite.Verdict
	for _, id := range v.board.Backends() {
		for _, said := range v.board.Verdicts(id) {
			rows = append(rows, sqlite.Verdict{POP: said.POP, Backend: id, Up: said.Up, Since: said.Since, Why: said.Why})
		}
	}
	return rows
}

// whyOut says in one line which POP keeps a backend out of routing, since when
// and why.
func whyOut(why route.Exclusion, said []api.Verdict, until, now time.Time) string {
	switch why {
	case route.Ejected:
		return fmt.Sprintf("connects of this POP failed, tried again in %s", age(until.Sub(now)))
	case route.Down:
		var parts []string
		for _, s := range said {
			parts = append(parts, fmt.Sprintf("%s for %s: %s", s.POP, age(now.Sub(s.Since)), s.Why))
		}
		return strings.Join(parts, "; ")
	}
	return ""
}

// age is a time as a person reads it: to the second, in words of Go.
func age(d time.Duration) string { return max(0, d).Round(time.Second).String() }
