package node

import (
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

const (
	// outOfReach is how long nothing may be heard of a POP until it counts as out of reach.
	outOfReach = 4 * time.Second
	// heardAgain is for how long nothing is concluded of its backends once it is
	// heard again: until its records are here. It is less than outOfReach, so that a
	// POP that is heard seldom is not waited for without end.
	heardAgain = 3 * time.Second
	// stoodStill is how long this process may not have run, and clockStep how far
	// mesh time may have jumped, until all heartbeats are waited for anew.
	stoodStill = 3 * time.Second
	clockStep  = time.Second
	// longAway is the least time without a word of a POP after which all that it
	// witnesses is waited for anew. In a mesh of very many a POP is heard seldom:
	// it is more than the time between two words then.
	longAway = 2 * outOfReach

	goneAfter  = 10 // TTLs of silence, and the row is deleted by the POP that took the last heartbeat
	othersWait = 1  // TTLs more for the others, so that not all do it
)

// lapse decides which registered backends are not heard of any more. It is
// computed by each POP for itself, from the rows and from what this POP can know:
//
//   - Silence counts from the last heartbeat, and from when this POP began to
//     hear at all: a POP that starts gives every backend one TTL, however old its
//     heartbeat is; so it does when it stood still, or mesh time jumped. So it does
//     with the backends of a POP that was out of reach for long and is heard again:
//     their agents may have had nobody to speak to.
//   - It counts up to now, or to when the POP was last heard that took the last
//     heartbeat, or up to where what the others wrote is stored: what that POP's agents did since nobody here knows. So a POP that
//     dies, or is cut off, makes no backend expire for as long as it is expected
//     back (it is on the roster).
//   - Nothing is deleted where any POP that is expected is out of reach, or was a
//     moment ago: agents may have gone over to it, and a delete would win over
//     what it took meanwhile.
//   - Where mesh time is not known yet, nothing expires; nor does it where this
//     POP cannot store what the others write. Who has expired before stays out then,
//     and afterwards every backend has one TTL, as at a start.
//
// It reads no clock.
type lapse struct {
	self   string
	began  time.Time // from when on silence counts
	at     time.Time // mesh time of the last look,
	steady time.Time // and the time by which its passing is measured
	whole  time.Time // from when on every POP that is expected is reached; zero: one is not
	pops   map[string]*witness
	ahead  map[string]ahead
	out    map[string]time.Time // who has expired, with the date of the last heartbeat: they stay out until another one
}

// witness is another POP, which took heartbeats.
type witness struct {
	began time.Time     // it was heard again, after it had been out of reach
	away  time.Duration // for so long
	heard time.Time     // last; zero: not since this POP runs
	held  time.Time     // and until when silence counts
	until time.Time     // meanwhile, because it is heard again only since a moment ago
}

// ahead is a heartbeat that is dated in the future, as by a clock that was
// wrong: it is taken to be of when it was first seen.
type ahead struct{ heartbeat, seen time.Time }

// sight is what one look goes by; times are mesh times but for steady.
type sight struct {
	now      time.Time // zero: not known yet, or nothing is known yet of what the others know
	steady   time.Time
	deaf     bool                               // what the others write cannot be stored
	lag      time.Duration                      // what is stored may be so far behind what they have written
	heard    func(pop string) (time.Time, bool) // last word of another POP
	expected func(pop string) bool              // it may come back
	whole    bool                               // all that are expected are reached
	beat     func(id string) time.Time          // of this backend here, which may be in no row yet; zero: none
}

// silent is a registered backend that is to be deleted, with what it is judged by.
type silent struct {
	id        string
	pop       string
	heartbeat time.Time
}

// look says who is out of routing, and whose rows go, in the order of the snapshot.
func (l *lapse) look(s sight, snap *mesh.Snapshot) (expired map[string]bool, gone []silent) {
	if s.now.IsZero() {
		l.began = time.Time{}
		return nil, nil
	}
	l.tick(s)
	if s.deaf {
		l.began, l.pops, l.whole = s.now, nil, time.Time{}
		return l.stillOut(s, snap), nil
	}
	pops, future := map[string]*witness{}, map[string]ahead{}
	until := map[string]time.Time{} // silence counts, by POP
	var out map[string]time.Time
	known := map[string]bool{} // what its agents did up to then, by POP
	for b := range snap.All() {
		r := b.Registration
		if r == nil {
			continue
		}
		if _, done := until[r.POP]; !done {
			w := l.pops[r.POP]
			if w == nil {
				w = &witness{}
			}
			pops[r.POP] = w
			until[r.POP], known[r.POP] = l.counts(w, r.POP, s)
			if stored := s.now.Add(-s.lag); stored.Before(until[r.POP]) {
				until[r.POP] = stored
			}
		}
		dated := later(r.Heartbeat, s.beat(b.ID))
		heartbeat := l.heard(b.ID, dated, s.now, future)
		silence := until[r.POP].Sub(later(heartbeat, later(l.began, pops[r.POP].since(r.TTL))))
		if was, is := l.out[b.ID]; silence <= r.TTL && !(is && was.Equal(dated)) {
			continue
		}
		if expired == nil {
			expired, out = map[string]bool{}, map[string]time.Time{}
		}
		expired[b.ID], out[b.ID] = true, dated
		limit := goneAfter * r.TTL
		if r.POP != l.self {
			limit += othersWait * r.TTL
		}
		if known[r.POP] && silence > limit && l.complete(s.now, r.TTL) {
			gone = append(gone, silent{b.ID, r.POP, r.Heartbeat})
		}
	}
	l.pops, l.ahead, l.out = pops, future, out
	return expired, gone
}

// stillOut are those that have expired before, and of which nothing was heard since.
func (l *lapse) stillOut(s sight, snap *mesh.Snapshot) map[string]bool {
	var expired map[string]bool
	for b := range snap.All() {
		was, is := l.out[b.ID]
		if is && b.Registration != nil && was.Equal(later(b.Registration.Heartbeat, s.beat(b.ID))) {
			if expired == nil {
				expired = map[string]bool{}
			}
			expired[b.ID] = true
		}
	}
	return expired
}

// tick notes the time, and whether it passed as it should.
func (l *lapse) tick(s sight) {
	passed := s.steady.Sub(l.steady)
	if l.began.IsZero() || passed > stoodStill || (s.now.Sub(l.at)-passed).Abs() > clockStep {
		l.began, l.pops, l.ahead, l.out = s.now, nil, nil, nil
	}
	l.at, l.steady = s.now, s.steady
	switch {
	case !s.whole:
		l.whole = time.Time{}
	case l.whole.IsZero():
		l.whole = s.now
	}
}

// complete says whether all that any POP knows must be here by now.
func (l *lapse) complete(now time.Time, ttl time.Duration) bool {
	return !l.whole.IsZero() && now.Sub(l.whole) > max(ttl, heardAgain)
}

// counts is up to when silence counts that is witnessed by a POP, and whether
// all is known that it heard until then.
func (l *lapse) counts(w *witness, pop string, s sight) (until time.Time, known bool) {
	if pop == l.self {
		return s.now, true
	}
	if heard, ok := s.heard(pop); ok && heard.After(w.heard) {
		before := later(w.heard, l.began)
		if away := heard.Sub(before); away > outOfReach {
			w.held, w.until = before, s.now.Add(heardAgain)
			w.back(away, s.now)
		}
		w.heard = heard
	}
	switch reached := s.now.Sub(w.heard) <= outOfReach; {
	case s.now.Before(w.until):
		return w.held, false
	case reached:
		return w.heard, true
	case !s.expected(pop):
		return s.now, true
	case w.heard.IsZero():
		return l.began, false
	}
	return w.heard, false
}

// back notes that the POP is heard again. A short time away does not hide a
// longer one that was not long ago.
func (w *witness) back(away time.Duration, now time.Time) {
	if away > longAway && (away >= w.away || now.Sub(w.began) > w.away) {
		w.began, w.away = now, away
	}
}

// since is from when on silence counts that the POP witnesses.
func (w *witness) since(ttl time.Duration) time.Time {
	if w.away > max(ttl/2, longAway) {
		return w.began
	}
	return time.Time{}
}

// heard is when the last heartbeat of a backend was, by its date. One that was
// dated in the future stays of when it was first seen, also when its date has come.
func (l *lapse) heard(id string, dated, now time.Time, future map[string]ahead) time.Time {
	a := l.ahead[id]
	known := a.heartbeat.Equal(dated)
	if !known && dated.Sub(now) <= clockStep {
		return dated
	}
	if !known {
		a = ahead{dated, now}
	}
	future[id] = a
	return a.seen
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
