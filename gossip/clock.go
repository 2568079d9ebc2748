package gossip

import (
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// clockSamples are the last few looks at a peer's raw clock. The one with the
// shortest round trip is the best (Mills, RFC 5905 §10: clock filter).
type clockSamples struct {
	list []clockSample // newest last
}

type clockSample struct {
	rtt    time.Duration
	offset time.Duration // the peer's clock minus ours
}

const clockWindow = 8

// sampleOf is what follows from a peer's clock, read half a round trip ago.
func sampleOf(theirs, ours int64, rtt time.Duration) clockSample {
	return clockSample{rtt: rtt, offset: time.Duration(clockOf(theirs)-clockOf(ours))*time.Microsecond + rtt/2}
}

func (c *clockSamples) add(s clockSample) {
	if len(c.list) == clockWindow {
		c.list = c.list[1:]
	}
	c.list = append(c.list, s)
}

// best is false before the first sample.
func (c clockSamples) best() (clockSample, bool) {
	if len(c.list) == 0 {
		return clockSample{}, false
	}
	return slices.MinFunc(c.list, func(a, b clockSample) int { return int(a.rtt - b.rtt) }), true
}

// lowerMedian of offsets from our clock, ours (0) among them.
func lowerMedian(offsets []time.Duration) time.Duration {
	all := append([]time.Duration{0}, offsets...)
	slices.Sort(all)
	return all[(len(all)-1)/2]
}

// Offset is mesh time minus our raw clock: the lower median of the raw clocks
// of all peers and our own. A peer that is cut off counts as it was last heard:
// a wrong clock here is no less wrong, nor time another on either side of a cut,
// because nobody can be asked.
func (m *Mesh) Offset() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	var offsets []time.Duration
	for _, p := range m.peers {
		if s, ok := p.clock.best(); ok {
			offsets = append(offsets, s.offset)
		}
	}
	return lowerMedian(offsets)
}

// ClockKnown says whether Offset rests on any clock but our own.
func (m *Mesh) ClockKnown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if len(p.clock.list) > 0 {
			return true
		}
	}
	return false
}

// marks remember when what was written here was published: as many as fit,
// evenly, and none that every peer has acknowledged.
type marks struct {
	list []mark
	step time.Duration // least time between two
}

// mark stands for the writes from at on, up to that number.
type mark struct {
	origin crdt.Origin
	seq    uint64
	at     time.Time
}

const (
	maxMarks = 256
	minStep  = 100 * time.Millisecond
	maxStep  = 24 * time.Hour
)

func (m *marks) add(r crdt.Range, now time.Time) {
	if n := len(m.list); n > 0 {
		if last := &m.list[n-1]; last.origin == r.Origin && now.Sub(last.at) < m.step {
			last.seq = max(last.seq, r.To)
			return
		}
	}
	m.step = max(m.step, minStep)
	for len(m.list) >= maxMarks {
		m.thin()
	}
	m.list = append(m.list, mark{origin: r.Origin, seq: r.To, at: now})
}

// thin doubles the step. What is of two origins, as after a new epoch, does not
// merge: then the oldest goes.
func (m *marks) thin() {
	if m.step *= 2; m.step > maxStep {
		m.list = m.list[1:]
		return
	}
	kept := m.list[:1]
	for _, k := range m.list[1:] {
		if last := &kept[len(kept)-1]; last.origin == k.origin && k.at.Sub(last.at) < m.step {
			last.seq = max(last.seq, k.seq)
		} else {
			kept = append(kept, k)
		}
	}
	m.list = kept
}

// acknowledged forgets what all have whose heads are at least these.
func (m *marks) acknowledged(heads crdt.Heads) {
	for len(m.list) > 0 && heads[m.list[0].origin] >= m.list[0].seq {
		m.list = m.list[1:]
	}
	if len(m.list) == 0 {
		m.step = 0
	}
}

// lag is how long a peer with these heads has lacked something that was
// written here, 0 when it lacks nothing.
func (m *marks) lag(heads crdt.Heads, now time.Time) time.Duration {
	for _, k := range m.list {
		if heads[k.origin] < k.seq {
			return now.Sub(k.at)
		}
	}
	return 0
}
