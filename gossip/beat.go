package gossip

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"
)

// Above Config.FanoutLimit a POP is heard by most others only through its
// neighbours: its load, its clock and what it has go from neighbour to
// neighbour as beats, along the trees of its records. Each says what changed
// since the one before; who lacks that one asks for the whole.

const (
	// beatShare times the number of POPs is the time between two beats, so that
	// what a POP passes on is the same in a mesh of any size: 250 beats a second.
	beatShare    = 4 * time.Millisecond
	leastBeat    = 250 * time.Millisecond
	mostBeat     = 4 * time.Second // a load counts for 10 s
	beatUrgent   = 8               // so much earlier where it is about whether a backend lives
	beatBytes    = 256 << 10       // go out at a time, about
	maxBeatParts = 64
	firstSeek    = time.Second // between two questions for a POP that is not heard, doubling
	lastSeek     = time.Minute
	mostKept     = 1 << 16 // counts, and verdicts, of one POP
)

func beatEvery(pops int) time.Duration {
	return min(max(time.Duration(pops)*beatShare, leastBeat), mostBeat)
}

// voice is what is known of a POP by its beats.
type voice struct {
	beat             // the last one, its load all that it has said; the counts are nobody else's
	at     time.Time // when it was made, by our clock
	heard  time.Time
	offset time.Duration // its clock minus ours
	timed  bool
	sought time.Time // when it was last asked for
	pause  time.Duration
}

// take adds a beat to what is known, and says whether it could: not where it
// continues one that has not come.
func (v *voice) take(b beat, now time.Time) bool {
	if !b.load.Whole && (b.load.Life != v.load.Life || b.prev > v.load.Seq) {
		return false
	}
	made := now.Add(-b.load.Age)
	counts, said := v.load.Counts, b.said || v.said && v.load.Life == b.load.Life
	var verdicts map[string]LoadVerdict
	if b.load.Whole || counts == nil {
		counts = map[string]int64{}
	}
	if !b.load.Whole {
		verdicts = v.aged(made)
	}
	for id, n := range b.load.Counts {
		if _, known := counts[id]; n == 0 {
			delete(counts, id)
		} else if known || len(counts) < mostKept {
			counts[id] = n
		}
	}
	whole := Load{Life: b.load.Life, Seq: b.load.Seq, Age: b.load.Age, Rates: b.load.Rates, Whole: true, Counts: counts}
	whole.Verdicts = (Load{Verdicts: verdicts}).then(b.load).Verdicts
	for id := range whole.Verdicts {
		if len(whole.Verdicts) <= mostKept {
			break
		}
		delete(whole.Verdicts, id)
	}
	v.beat, v.at, v.heard, v.pause = b, made, now, 0
	v.load, v.said = whole, said // suspects are of the moment
	return true
}

// aged is its verdicts, as old as they are at that time.
func (v *voice) aged(at time.Time) map[string]LoadVerdict {
	more := max(0, at.Sub(v.at))
	verdicts := make(map[string]LoadVerdict, len(v.load.Verdicts))
	for id, verdict := range v.load.Verdicts {
		verdict.For = min(verdict.For+more, MaxLoadFor)
		verdicts[id] = verdict
	}
	return verdicts
}

// whole is all it has said, for somebody who has not heard it.
func (v *voice) whole(now time.Time) beat {
	b := v.beat
	b.prev, b.load.Age = 0, now.Sub(v.at)
	b.load.Counts, b.load.Verdicts = maps.Clone(v.load.Counts), v.aged(now) // ours are written to
	return b
}

// waitingBeat is a beat that waits to be sent, since then.
type waitingBeat struct {
	beat
	at time.Time
}

// putBeat queues a beat. Where one of the same POP waits, both are one.
func (s *stream) putBeat(b beat, now time.Time) {
	s.mu.Lock()
	if s.beats == nil {
		s.beats = map[string]waitingBeat{}
	}
	old, waits := s.beats[b.origin]
	if !waits {
		s.beatOrder = append(s.beatOrder, b.origin)
	}
	if waits && !b.load.Whole && old.load.Life == b.load.Life {
		b.prev, b.load, b.said = old.prev, old.load.then(b.load), old.said || b.said
	}
	s.beats[b.origin] = waitingBeat{b, now}
	s.mu.Unlock()
	notify(s.wake)
}

// takeBeats adds some of the beats that wait, each with the age that it has now.
func (s *stream) takeBeats(b []byte, now time.Time) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, start := 0, len(b)
	for ; n < len(s.beatOrder) && len(b)-start < beatBytes; n++ {
		w := s.beats[s.beatOrder[n]]
		delete(s.beats, s.beatOrder[n])
		w.load.Age = min(max(0, w.load.Age+now.Sub(w.at)), MaxLoadAge)
		for rest := &w.load; rest != nil; {
			seq := w.load.Seq
			w.load, rest = rest.cut()
			w.load.Seq, w.more = seq, rest != nil
			b = appendFrame(b, kindBeat, w.append)
		}
	}
	if s.beatOrder = slices.Delete(s.beatOrder, 0, n); len(s.beatOrder) > 0 {
		notify(s.wake)
	}
	return b
}

// tookBeat puts the parts of a beat together.
func (s *stream) tookBeat(b beat) error {
	if p := s.parts; p != nil {
		if s.partsTaken++; p.origin != b.origin || p.load.Seq != b.load.Seq || s.partsTaken > maxBeatParts {
			return garbage(errors.New("parts of a beat that are of several"))
		}
		more := b.more
		b.load = p.load.then(b.load)
		b.prev, b.more = p.prev, more
	}
	if s.parts = nil; b.more {
		s.parts = &b
		return nil
	}
	s.partsTaken = 0
	s.m.tookBeat(s, b)
	return nil
}

// tookBeat hands a beat on: to whoever listens, and to the neighbours.
func (m *Mesh) tookBeat(s *stream, b beat) {
	m.telling.Lock() // in the order of their numbers
	defer m.telling.Unlock()
	now := time.Now()
	m.mu.Lock()
	taken := m.takeBeatLocked(s, &b, now)
	m.mu.Unlock()
	if taken && b.said && m.cfg.TookLoad != nil {
		m.cfg.TookLoad(b.origin, b.load)
	}
}

func (m *Mesh) takeBeatLocked(s *stream, b *beat, now time.Time) bool {
	p := m.peers[b.origin]
	if b.origin != m.cfg.Node && p == nil || !m.standsLocked(s) {
		return false // nobody has told us of it yet
	}
	if best, ok := s.peer.clock.best(); ok {
		b.load.Age = min(b.load.Age+best.rtt/2, MaxLoadAge)
	}
	origin := []string{b.origin}
	if b.origin == m.cfg.Node || b.load.Life < p.voice.load.Life || b.load.Life == p.voice.load.Life && b.load.Seq <= p.voice.load.Seq {
		// One that is whole may be the answer to our question, of who knows no
		// more than we do: no reason to hear nothing from it any more.
		if s.class == classTree && !b.load.Whole && m.trees.Again(b.origin, s.node) {
			s.turn(origin, turnPrune)
		}
		return false
	}
	v := &p.voice
	if !v.take(*b, now) {
		if now.Sub(v.sought) >= firstSeek {
			v.sought = now
			m.trees.Seek(s.node, origin)
			s.turn(origin, turnTell)
		}
		return false
	}
	if b.load.Age < MaxLoadAge {
		ours := m.clockLocked()
		v.offset, v.timed = time.Duration(b.clock-ours)*time.Microsecond+b.load.Age, true
	}
	if s.class == classTree && m.trees.First(b.origin, s.node) {
		s.turn(origin, turnGraft)
	}
	if m.large {
		m.passBeatLocked(*b, s.node, now)
	}
	return true
}

// passBeatLocked sends a beat to the neighbours that want it.
func (m *Mesh) passBeatLocked(b beat, from string, now time.Time) {
	for _, node := range m.trees.Targets(nil, b.origin, from) {
		m.peers[node].stream.putBeat(b, now)
	}
}

// tellLocked sends all that is known of the load of some POPs.
func (m *Mesh) tellLocked(s *stream, origins []string, now time.Time) {
	for _, origin := range origins {
		v := &m.voice
		if origin != m.cfg.Node {
			p := m.peers[origin]
			if p == nil {
				continue
			}
			v = &p.voice
		}
		if v.at.IsZero() || origin == s.node || now.Sub(v.at) >= MaxLoadAge {
			continue
		}
		s.putBeat(v.whole(now), now)
	}
}

// beatAll sends this POP's beats while the mesh is a large one, until ctx ends.
func (m *Mesh) beatAll(ctx context.Context) {
	var last time.Time
	for ctx.Err() == nil {
		m.mu.Lock()
		large, every, urgent := m.large, beatEvery(m.count), m.pending != nil && m.pending.urgent
		m.mu.Unlock()
		if !large {
			wait(ctx, m.beating, 0)
			last = time.Time{}
			continue
		}
		if urgent {
			every /= beatUrgent
		}
		now := time.Now()
		if due := last.Add(every); now.Before(due) {
			m.mu.Lock()
			m.seekLocked(now)
			m.mu.Unlock()
			wait(ctx, m.beating, due.Sub(now))
			continue
		}
		last = now
		m.sendBeat(now)
	}
}

// sendBeat is one beat of this POP's.
func (m *Mesh) sendBeat(now time.Time) {
	m.mu.Lock()
	pending, first := m.pending, m.voice.at.IsZero()
	m.pending = nil
	m.mu.Unlock()
	b := beat{origin: m.cfg.Node, said: pending != nil, clock: m.clock()}
	switch {
	case first && m.cfg.WholeLoad != nil: // what is published from now on comes next
		b.load, b.said = m.cfg.WholeLoad(), true
	case pending != nil:
		b.load = pending.Load
		b.load.Age += now.Sub(pending.at)
	}
	b.load.Rates = greatest(b.load.Rates)
	b.load.Whole = b.load.Whole || first
	m.mu.Lock()
	defer m.mu.Unlock()
	if !b.said {
		b.load.Rates = m.voice.load.Rates
	}
	b.prev = m.voice.load.Seq
	b.load.Life, b.load.Seq = m.cfg.Life, m.loads.Add(1)
	if m.census.id > 0 && m.own.Covers(m.census.heads) {
		b.census = m.census.id
	}
	m.voice.take(b, now)
	m.passBeatLocked(b, "", now)
	m.seekLocked(now)
	m.askCensusLocked(now)
}

// seekLocked asks all neighbours for POPs that have not been heard for long, or
// not at all.
func (m *Mesh) seekLocked(now time.Time) {
	if len(m.trees.Links()) == 0 {
		return
	}
	silent := beatEvery(m.count)*3/2 + time.Second // with 4 s, well within the lease of 10 s
	var origins []string
	for node, p := range m.peers {
		v := &p.voice
		if !p.listed || p.stream != nil && p.stream.class == classFull || now.Sub(v.heard) < silent || now.Sub(v.sought) < v.pause {
			continue
		}
		v.sought, v.pause = now, min(max(2*v.pause, firstSeek), lastSeek)
		origins = append(origins, node)
	}
	for _, node := range m.trees.Links() {
		m.trees.Seek(node, origins)
		m.peers[node].stream.turn(origins, turnTell)
	}
}
