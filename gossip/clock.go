package gossip

import (
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// clockSamples are the last few looks at a peer's clock. The one with the
// shortest round trip is the best (Mills, RFC 5905 §10: clock filter).
type clockSamples struct {
	list []clockSample // newest last
}

type clockSample struct {
	rtt    time.Duration
	offset time.Duration // the peer's clock minus ours
}

const (
	clockWindow = 8
	clockDrift  = 100 * time.Millisecond // what two good clocks may differ within the window
)

// sampleOf is what follows from a peer's clock, read half a round trip ago.
func sampleOf(theirs, ours int64, rtt time.Duration) clockSample {
	return clockSample{rtt: rtt, offset: time.Duration(clockOf(theirs)-clockOf(ours))*time.Microsecond + rtt/2}
}

// add forgets the earlier samples where they and this one cannot both be right,
// each being wrong by half a round trip at most: then one of the clocks was set.
func (c *clockSamples) add(s clockSample) {
	if best, ok := c.best(); ok && (s.offset-best.offset).Abs() > (s.rtt+best.rtt)/2+clockDrift {
		c.list = nil
	}
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

// medians are the lower and the upper one of offsets from our clock, ours (0)
// among them: the same where their number is odd.
func medians(offsets []time.Duration) (lower, upper time.Duration) {
	all := append([]time.Duration{0}, offsets...)
	slices.Sort(all)
	return all[(len(all)-1)/2], all[len(all)/2]
}

// steadyClock is this machine's clock without the jumps that it makes when
// somebody sets it: from the start on it goes on with the time that has passed.
// It is what other POPs are told, so that mesh time jumps for none of them.
// What frames cannot carry it does not say either. Guarded by Mesh.mu.
type steadyClock struct {
	began time.Time // by its monotonic reading
	base  int64     // µs since 1970 then
}

const (
	smallStep = 100 * time.Millisecond // is followed at once: nobody is misled by so little
	agreement = time.Second            // that shows a clock to have been mended
)

// maxSteady leaves room for the time that passes: a clock that stood still, at
// the end of what frames carry, would look as if all others ran.
const maxSteady = maxClock - 1<<48

func newSteadyClock(raw int64) steadyClock {
	return steadyClock{began: time.Now(), base: min(max(raw, -maxSteady), maxSteady)}
}

func (c *steadyClock) micro() int64 { return c.base + time.Since(c.began).Microseconds() }

// follow takes on what the raw clock says where it was set, and then agrees
// with another, or where there is no other.
func (c *steadyClock) follow(raw int64, others []time.Duration) {
	if raw < -maxSteady || raw > maxSteady {
		return
	}
	step := time.Duration(raw-c.micro()) * time.Microsecond
	if step.Abs() < time.Millisecond {
		return // what reading two clocks takes
	}
	agrees := func(other time.Duration) bool { return (step - other).Abs() <= agreement }
	if step.Abs() > smallStep && len(others) > 0 && !slices.ContainsFunc(others, agrees) {
		return
	}
	c.base += step.Microseconds()
}

// Time is what a POP knows of the time.
type Time struct {
	Mesh time.Time     // the lower median of the clocks of all peers and our own
	Span time.Duration // from it to the upper median, 0 where that is out of all reason
	Raw  time.Time     // this machine's clock, which may be wrong
}

// maxSpan: of two clocks which are further apart one is broken.
const maxSpan = 24 * time.Hour

// Time reads mesh time: of those that are no neighbours it has the clocks by
// their beats. A peer that is cut off counts as it was last heard:
// a wrong clock here is no less wrong, nor time another on either side of a cut,
// because nobody can be asked.
func (m *Mesh) Time() Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.timeLocked()
}

func (m *Mesh) timeLocked() Time {
	offsets := m.offsetsLocked()
	raw := m.cfg.Now()
	before := m.steady.base
	m.steady.follow(raw.UnixMicro(), offsets)
	for i := range offsets { // they are from our clock, which has moved
		offsets[i] -= time.Duration(m.steady.base-before) * time.Microsecond
	}
	if moved := m.steady.base - before; moved != 0 {
		for _, p := range m.peers {
			by := -time.Duration(moved) * time.Microsecond
			p.clock.shift(by)
			p.voice.offset += by
		}
	}
	lower, upper := medians(offsets)
	t := Time{Mesh: time.UnixMicro(m.steady.micro()).Add(lower), Raw: raw}
	if span := upper - lower; span <= maxSpan {
		t.Span = span
	}
	return t
}

// shift says that our clock has moved the other way.
func (c *clockSamples) shift(by time.Duration) {
	for i := range c.list {
		c.list[i].offset += by
	}
}

// offsetsLocked are the peers' clocks minus ours, as far as they are known.
func (m *Mesh) offsetsLocked() (offsets []time.Duration) {
	for _, p := range m.peers {
		s, ok := p.clock.best()
		switch {
		case p.voice.timed && (p.stream == nil || !ok):
			offsets = append(offsets, p.voice.offset)
		case ok:
			offsets = append(offsets, s.offset)
		}
	}
	return offsets
}

// Offset is mesh time minus this machine's clock.
func (m *Mesh) Offset() time.Duration {
	t := m.Time()
	return t.Mesh.Sub(t.Raw.Round(0))
}

// ClockKnown says whether Offset rests on any clock but our own.
func (m *Mesh) ClockKnown() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if len(p.clock.list) > 0 || p.voice.timed {
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

// lost forgets what is not here any more: nobody will have it from us.
func (m *marks) lost(own crdt.Heads) {
	m.list = slices.DeleteFunc(m.list, func(k mark) bool { return k.seq > own[k.origin] })
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
