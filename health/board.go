package health

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Verdict is what one POP's checks say of one backend.
type Verdict struct {
	POP   string
	Up    bool
	Since time.Time // of Up, by the clock of whoever asks
	Why   string    // of a failure; empty where it is up
}

// Lease is how long a silent POP's verdicts count.
const Lease = 10 * time.Second

// Bounds of what another POP may say.
const (
	maxVerdicts = 1 << 16 // of one POP
	MaxWhy      = 120     // bytes
)

// Report is what a POP says of the backends that it checks.
type Report struct {
	POP         string
	Incarnation uint64    // a greater one forgets what was said before
	Seq         uint64    // rising within an incarnation
	At          time.Time // when it was taken, by the receiver's clock
	Whole       bool      // backends that it leaves out are not checked by it
	Verdicts    map[string]Verdict
	Gone        []string // no longer checked by it
}

// Board holds the verdicts of all POPs, this one's too. It is not safe for
// concurrent use.
type Board struct {
	pops map[string]*voice
	of   map[string]map[string]Verdict // by backend, by POP
}

type voice struct {
	incarnation, seq uint64
	at               time.Time
	backends         map[string]bool
}

// NewBoard knows nothing.
func NewBoard() *Board {
	return &Board{pops: map[string]*voice{}, of: map[string]map[string]Verdict{}}
}

// Learn takes a report and says of which backends something changed. What is
// older than what is known is left out.
func (b *Board) Learn(r Report, now time.Time) (changed []string) {
	if r.At.After(now) {
		r.At = now
	}
	v := b.pops[r.POP]
	switch {
	case now.Sub(r.At) > Lease:
		return nil
	case v != nil && (r.Incarnation < v.incarnation || r.Incarnation == v.incarnation && r.Seq <= v.seq):
		return nil
	case v != nil && r.Incarnation > v.incarnation:
		changed, v = b.Forget(r.POP), nil
	}
	if v == nil {
		v = &voice{incarnation: r.Incarnation, backends: map[string]bool{}}
		b.pops[r.POP] = v
	}
	v.seq, v.at = r.Seq, r.At
	gone := r.Gone
	if r.Whole {
		for id := range v.backends {
			if _, still := r.Verdicts[id]; !still {
				gone = append(gone, id)
			}
		}
	}
	for _, id := range gone {
		if _, again := r.Verdicts[id]; !again && v.backends[id] {
			b.drop(r.POP, id)
			changed = append(changed, id)
		}
	}
	for id, verdict := range r.Verdicts {
		if b.put(v, r.POP, id, verdict, now) {
			changed = append(changed, id)
		}
	}
	return changed
}

func (b *Board) put(v *voice, pop, id string, verdict Verdict, now time.Time) bool {
	if !v.backends[id] && len(v.backends) >= maxVerdicts {
		return false
	}
	verdict.POP = pop
	if verdict.Since.After(now) {
		verdict.Since = now
	}
	if verdict.Up {
		verdict.Why = ""
	}
	old, known := b.of[id][pop]
	if known && old.Up == verdict.Up && old.Why == verdict.Why {
		return false // its age, counted twice, differs a little
	}
	if known && old.Up == verdict.Up {
		verdict.Since = old.Since
	}
	if b.of[id] == nil {
		b.of[id] = map[string]Verdict{}
	}
	b.of[id][pop] = verdict
	v.backends[id] = true
	return true
}

func (b *Board) drop(pop, id string) {
	delete(b.pops[pop].backends, id)
	delete(b.of[id], pop)
	if len(b.of[id]) == 0 {
		delete(b.of, id)
	}
}

// Forget drops all that a POP has said, which is gone.
func (b *Board) Forget(pop string) (changed []string) {
	v := b.pops[pop]
	if v == nil {
		return nil
	}
	for id := range v.backends {
		changed = append(changed, id)
		b.drop(pop, id)
	}
	delete(b.pops, pop)
	return changed
}

// Expire forgets the POPs whose lease has ended.
func (b *Board) Expire(now time.Time) (changed []string) {
	for pop, v := range b.pops {
		if now.Sub(v.at) > Lease {
			changed = append(changed, b.Forget(pop)...)
		}
	}
	return changed
}

// Fresh says whether the POP was heard of within the time: who may be given
// something to check.
func (b *Board) Fresh(pop string, within time.Duration, now time.Time) bool {
	v := b.pops[pop]
	return v != nil && now.Sub(v.at) <= within
}

// Down says whether every verdict on the backend says down. Without any it is
// up: nobody has a reason not to try it.
func (b *Board) Down(id string) bool {
	if len(b.of[id]) == 0 {
		return false
	}
	for _, v := range b.of[id] {
		if v.Up {
			return false
		}
	}
	return true
}

// Backends are those of which there is a verdict, by id.
func (b *Board) Backends() []string { return slices.Sorted(maps.Keys(b.of)) }

// Verdicts are those on one backend, by POP.
func (b *Board) Verdicts(id string) []Verdict {
	return slices.SortedFunc(maps.Values(b.of[id]), func(x, y Verdict) int { return strings.Compare(x.POP, y.POP) })
}
