package route

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

// Budget of reports: so few entries of each, whatever the load.
const (
	ReportEvery   = 250 * time.Millisecond
	reportEntries = 8
	reportAnyway  = 5 * time.Second // a change however small is told after so long
)

// Reporter remembers what this POP has told the others. The zero value has told
// nothing.
type Reporter struct {
	mu   sync.Mutex
	sent map[string]told
}

type told struct {
	n  int64
	at time.Time
}

// Report is what changed most since the last one: at most eight counts, those
// whose change is the largest share of their backend's soft limit. Small
// changes wait, the longer the more POPs there are, whose errors even out.
func (r *Router) Report(rep *Reporter, now time.Time) Report {
	out := Report{At: now, Counts: map[string]int64{}, Rates: r.Rates(now)}
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if rep.sent == nil {
		rep.sent = map[string]told{}
	}
	snap := r.Snapshot()
	r.balance.mu.Lock()
	pops := 1
	for _, p := range r.balance.peers {
		if !p.silent {
			pops++
		}
	}
	r.balance.mu.Unlock()
	quiet := 0.02 / math.Sqrt(float64(pops)) / max(0.25, r.balance.stay.Load())

	type change struct {
		id    string
		n     int64
		share float64
	}
	var changes []change
	seen := make(map[string]bool)
	for _, s := range r.Slots.Stats() {
		seen[s.ID] = true
		n, last := max(0, s.Connections), rep.sent[s.ID]
		if n == last.n {
			continue
		}
		soft := 1.0
		if b, ok := snap.Backend(s.ID); ok {
			soft = float64(max(1, b.SoftLimit))
		}
		delta := math.Abs(float64(n - last.n))
		if delta >= max(1, quiet*soft) || now.Sub(last.at) >= reportAnyway {
			changes = append(changes, change{s.ID, n, delta / soft})
		}
	}
	for id, last := range rep.sent { // its slot is gone, and so are its connections
		if !seen[id] && last.n != 0 {
			changes = append(changes, change{id, 0, math.Inf(1)})
		} else if !seen[id] {
			delete(rep.sent, id)
		}
	}
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.id, b.id))
	})
	for _, c := range changes[:min(len(changes), reportEntries)] {
		out.Counts[c.id] = c.n
		rep.sent[c.id] = told{c.n, now}
	}
	return out
}

// unsaid is what no count equals: the next report has the backend.
const unsaid = -1

// Whole is all that this POP has, for one that knows nothing of it. What it
// says and the others have not been told is in the next report too, as it is
// then: it may have changed back by that time.
func (r *Router) Whole(rep *Reporter, now time.Time) Report {
	out := Report{At: now, Whole: true, Counts: map[string]int64{}, Rates: r.Rates(now)}
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if rep.sent == nil {
		rep.sent = map[string]told{}
	}
	for _, s := range r.Slots.Stats() {
		if s.Connections > 0 {
			out.Counts[s.ID] = s.Connections
		}
		if n := max(0, s.Connections); n != rep.sent[s.ID].n {
			rep.sent[s.ID] = told{n: unsaid}
		}
	}
	return out
}
