package route

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"
)

// Budget of reports, whatever the load: so few entries of each regular one, so
// few in any second.
const (
	ReportEvery   = 250 * time.Millisecond
	reportEntries = 8
	reportBudget  = 32              // entries in any second
	reportAnyway  = 5 * time.Second // a change however small is told after so long
	// UrgentEvery is how often a POP looks whether something cannot wait: the
	// connections that all POPs have opened meanwhile, if they did as this one,
	// are more than reportUrgent of the room that a backend has left.
	UrgentEvery  = 25 * time.Millisecond
	reportUrgent = 0.4
)

// Reporter remembers what this POP has told the others. The zero value has told
// nothing.
type Reporter struct {
	mu      sync.Mutex
	sent    map[string]told
	regular time.Time   // of the last regular report
	entries []time.Time // when each of the last second was told
}

type told struct {
	n  int64
	at time.Time
}

// change is a backend of which the others do not know how many connections
// this POP has.
type change struct {
	id     string
	n      int64
	share  float64 // of the soft limit, by which it changed
	small  bool
	urgent bool
}

// Report is what to tell the others now; false: nothing yet. Each ReportEvery it
// is due: at most eight counts, those whose change is the largest share of their
// backend's soft limit. Small changes wait, the longer the more POPs there are,
// whose errors even out. In between only what is urgent is told.
func (r *Router) Report(rep *Reporter, now time.Time) (Report, bool) {
	rep.mu.Lock()
	defer rep.mu.Unlock()
	if rep.sent == nil {
		rep.sent = map[string]told{}
	}
	due := now.Sub(rep.regular) > ReportEvery-UrgentEvery/2 // tickers are not exact
	changes := r.changesLocked(rep, now)
	if due {
		changes = append(changes, r.goneLocked(rep)...)
	}
	changes = slices.DeleteFunc(changes, func(c change) bool { return c.small || !due && !c.urgent })
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(cmp.Compare(b.share, a.share), cmp.Compare(a.id, b.id))
	})
	rep.entries = slices.DeleteFunc(rep.entries, func(at time.Time) bool { return now.Sub(at) >= time.Second })
	changes = changes[:min(len(changes), reportEntries, reportBudget-len(rep.entries))]
	if !due && len(changes) == 0 {
		return Report{}, false
	}
	if due {
		rep.regular = now
	}
	out := Report{At: now, Counts: map[string]int64{}, Rates: r.Rates(now)}
	for _, c := range changes {
		out.Counts[c.id] = c.n
		rep.sent[c.id] = told{c.n, now}
		rep.entries = append(rep.entries, now)
	}
	return out, true
}

// changesLocked are the backends whose count differs from what was told last.
func (r *Router) changesLocked(rep *Reporter, now time.Time) (changes []change) {
	snap, pops := r.Snapshot(), float64(r.pops())
	quiet := 0.02 / math.Sqrt(pops) / max(0.25, r.balance.stay.Load())
	for _, s := range r.Slots.list() {
		n, last := s.Connections(), rep.sent[s.ID]
		if n == last.n {
			continue
		}
		soft, room := 1.0, math.Inf(1)
		if b, ok := snap.Backend(s.ID); ok {
			soft = float64(max(1, b.SoftLimit))
			if b.HardLimit > 0 {
				room = float64(b.HardLimit - n - s.others.Load())
			}
		}
		delta := math.Abs(float64(n - last.n))
		changes = append(changes, change{
			id: s.ID, n: n, share: delta / soft,
			small:  delta < max(1, quiet*soft) && now.Sub(last.at) < reportAnyway,
			urgent: delta*pops > reportUrgent*max(1, room+delta),
		})
	}
	return changes
}

// goneLocked are those of which the others know connections, and which are not
// counted any more: they have none.
func (r *Router) goneLocked(rep *Reporter) (changes []change) {
	for id, last := range rep.sent {
		switch {
		case r.Slots.find(id) != nil:
		case last.n != 0:
			changes = append(changes, change{id: id, share: math.Inf(1)})
		default:
			delete(rep.sent, id)
		}
	}
	return changes
}

// pops is how many POPs count, this one too.
func (r *Router) pops() int {
	r.balance.mu.Lock()
	defer r.balance.mu.Unlock()
	n := 1
	for _, p := range r.balance.peers {
		if !p.silent {
			n++
		}
	}
	return n
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
	for _, s := range r.Slots.list() {
		n := s.Connections()
		if n > 0 {
			out.Counts[s.ID] = n
		}
		if n != rep.sent[s.ID].n {
			rep.sent[s.ID] = told{n: unsaid}
		}
	}
	return out
}
