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

// Lease is how long a silent POP's verdicts count. They are remembered for
// longer: one that was stopped and goes on tells only what changed since.
const (
	Lease      = 10 * time.Second
	remembered = time.Minute
)

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
	backends         map[string]Verdict
	silent           bool // its lease has ended: nothing of it counts until it is heard of again
}

// NewBoard knows nothing.
func NewBoard() *Board {
	return &Board{pops: map[string]*voice{}, of: map[string]map[string]Verdict{}}
}

// Heard is when a POP's last report was taken; false where none is remembered.
func (b *Board) Heard(pop string) (time.Time, bool) {
	v := b.pops[pop]
	if v == nil {
		return time.Time{}, false
	}
	return v.at, true
}

// Learn takes a report and says of which backends something changed. What is
// older than what is known is left out.
func (b *Board) Learn(r Report, now time.Time) (changed []string) {
	if r.At.After(now) {
		r.At = now
	}
	v := b.pops[r.POP]
	switch {
	case v != nil && (r.Incarnation < v.incarnation || r.Incarnation == v.incarnation && r.Seq <= v.seq):
		return nil
	case v != nil && r.Incarnation > v.incarnation:
		changed, v = b.Forget(r.POP), nil
	}
	if v == nil {
		v = &voice{incarnation: r.Incarnation, backends: map[string]Verdict{}}
		b.pops[r.POP] = v
	}
	v.seq, v.at = r.Seq, r.At
	late := now.Sub(r.At) > Lease // what it says is kept for when its next word comes
	if late {
		changed = append(changed, b.silence(r.POP, v)...)
	}
	if v.silent && !late {
		v.silent = false
		for id, verdict := range v.backends {
			b.show(id, verdict)
			changed = append(changed, id)
		}
	}
	gone := r.Gone
	if r.Whole {
		for id := range v.backends {
			if _, still := r.Verdicts[id]; !still {
				gone = append(gone, id)
			}
		}
	}
	for _, id := range gone {
		_, again := r.Verdicts[id]
		if _, had := v.backends[id]; had && !again {
			delete(v.backends, id)
			if !v.silent {
				b.hide(id, r.POP)
				changed = append(changed, id)
			}
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
	old, known := v.backends[id]
	if !known && len(v.backends) >= maxVerdicts {
		return false
	}
	verdict.POP = pop
	if verdict.Since.After(now) {
		verdict.Since = now
	}
	if verdict.Up {
		verdict.Why = ""
	}
	if known && old.Up == verdict.Up && old.Why == verdict.Why {
		return false // its age, counted twice, differs a little
	}
	if known && old.Up == verdict.Up {
		verdict.Since = old.Since
	}
	v.backends[id] = verdict
	if !v.silent {
		b.show(id, verdict)
	}
	return !v.silent
}

func (b *Board) show(id string, verdict Verdict) {
	if b.of[id] == nil {
		b.of[id] = map[string]Verdict{}
	}
	b.of[id][verdict.POP] = verdict
}

func (b *Board) hide(id, pop string) {
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
	delete(b.pops, pop)
	return b.silence(pop, v)
}

// Expire lets the verdicts of POPs whose lease has ended count no more.
func (b *Board) Expire(now time.Time) (changed []string) {
	for pop, v := range b.pops {
		switch silent := now.Sub(v.at); {
		case silent > remembered:
			changed = append(changed, b.Forget(pop)...)
		case silent > Lease:
			changed = append(changed, b.silence(pop, v)...)
		}
	}
	return changed
}

func (b *Board) silence(pop string, v *voice) (changed []string) {
	if v.silent {
		return nil
	}
	v.silent = true
	for id := range v.backends {
		changed = append(changed, id)
		b.hide(id, pop)
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
