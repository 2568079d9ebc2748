package gossip

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Load is what a POP says of its own connections. It is telemetry: it is kept
// by nobody, a later one replaces an earlier one, and only its owner sends it.
type Load struct {
	Life   uint64        // of the sender; a greater one forgets what was said before
	Seq    uint64        // of the sender's life, rising; given by PublishLoad
	Age    time.Duration // since it was taken, as the sender counts; the way is not in it
	Whole  bool          // backends that are not named have no connections
	Counts map[string]int64
	Rates  []LoadRate // all that are not 0
}

// LoadRate is how many connections per second ask for an app in a region.
type LoadRate struct {
	App, Region string
	Rate        float64
}

// Bounds of what a peer may claim; what is beyond ends its stream.
const (
	MaxLoadCount = 1 << 24 // connections with one backend
	MaxLoadRate  = 1 << 20 // per second
	MaxLoadAge   = time.Minute
	maxLoadName  = 255 // bytes
)

// PublishLoad sends every peer what changed. Where a peer has not taken what
// came before, it gets both as one. It never blocks.
func (m *Mesh) PublishLoad(l Load) {
	m.mu.Lock()
	streams := m.targetsLocked("")
	m.mu.Unlock()
	for _, s := range streams {
		s.putLoad(l)
	}
}

// LoadSeq is the number of the last load that was sent to anybody.
func (m *Mesh) LoadSeq() uint64 { return m.loads.Load() }

// putLoad queues a load, which replaces what it speaks of.
func (s *stream) putLoad(l Load) {
	s.mu.Lock()
	if old := s.load; old != nil && !l.Whole {
		counts := maps.Clone(old.Counts)
		maps.Copy(counts, l.Counts)
		l.Whole, l.Counts = old.Whole, counts
	}
	s.load, s.loadAt = &l, time.Now()
	s.mu.Unlock()
	notify(s.wake)
}

// takeLoad adds the load that waits, to which its waiting adds age.
func (s *stream) takeLoad(b []byte, now time.Time) []byte {
	s.mu.Lock()
	l, at := s.load, s.loadAt
	s.load = nil
	s.mu.Unlock()
	if l == nil {
		return b
	}
	sent := *l
	sent.Seq = s.m.loads.Add(1)
	sent.Age = min(max(0, l.Age+now.Sub(at)), MaxLoadAge)
	return appendFrame(b, kindLoad, sent.append)
}

// tookLoad hands a peer's load on, with half a round trip added to its age.
func (s *stream) tookLoad(l Load) error {
	if s.m.cfg.TookLoad == nil {
		return nil
	}
	s.m.mu.Lock()
	if best, ok := s.peer.clock.best(); ok {
		l.Age += best.rtt / 2
	}
	s.m.mu.Unlock()
	s.m.cfg.TookLoad(s.node, l)
	return nil
}

func (l Load) append(b []byte) []byte {
	b = binary.AppendUvarint(binary.AppendUvarint(b, l.Life), uint64(l.Age.Microseconds()))
	b = appendBool(binary.AppendUvarint(b, l.Seq), l.Whole)
	b = binary.AppendUvarint(b, uint64(len(l.Counts)))
	for _, id := range slices.Sorted(maps.Keys(l.Counts)) {
		b = binary.AppendUvarint(appendString(b, id), uint64(l.Counts[id]))
	}
	b = binary.AppendUvarint(b, uint64(len(l.Rates)))
	for _, r := range l.Rates {
		b = appendString(appendString(b, r.App), r.Region)
		b = binary.AppendUvarint(b, uint64(r.Rate*1000))
	}
	return b
}

func decodeLoad(b []byte) (l Load, err error) {
	r := &reader{b: b}
	l.Life = r.uvarint()
	l.Age = time.Duration(r.atMost("an age in µs", uint64(MaxLoadAge.Microseconds()))) * time.Microsecond
	l.Seq, l.Whole = r.uvarint(), r.bool()
	n := r.count(2)
	l.Counts = make(map[string]int64, n)
	for range n {
		id := r.name(maxLoadName)
		l.Counts[id] = int64(r.atMost("connections", MaxLoadCount))
	}
	for range r.count(3) {
		rate := LoadRate{App: r.string(maxLoadName), Region: r.string(maxLoadName)}
		rate.Rate = float64(r.atMost("connections in 1000 s", MaxLoadRate*1000)) / 1000
		l.Rates = append(l.Rates, rate)
	}
	return l, r.end("load")
}

// atMost is a number within a bound.
func (r *reader) atMost(what string, limit uint64) uint64 {
	v := r.uvarint()
	if r.err == nil && v > limit {
		r.fail(fmt.Errorf("%d %s, at most %d are believed", v, what, limit))
	}
	return v
}
