package gossip

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Load is what a POP says of itself at a moment: its connections, what its
// checks say of backends, and to which of them a connect failed. It is
// telemetry: it is kept by nobody, a later one replaces an earlier one, and only
// its owner sends it.
type Load struct {
	Life   uint64        // of the sender; a greater one forgets what was said before
	Seq    uint64        // of the sender's life, rising; given when it is sent
	Age    time.Duration // since it was taken, as the sender counts; the way is not in it
	Whole  bool          // backends that are not named have no connections, and are not checked by it
	Counts map[string]int64
	Rates  []LoadRate // all that are not 0

	Verdicts  map[string]LoadVerdict // of the backends that it checks
	Unchecked []string               // those that it checks no more
	Suspects  []string               // a connect to them failed just now
}

// LoadRate is how many connections per second ask for an app in a region.
type LoadRate struct {
	App, Region string
	Rate        float64
}

// LoadVerdict is what the sender's checks say of a backend.
type LoadVerdict struct {
	Up  bool
	For time.Duration // how long it has been so, as the sender counts
	Why string        // of a failure
}

// Bounds of what a peer may claim; what is beyond ends its stream.
const (
	MaxLoadCount = 1 << 24 // connections with one backend
	MaxLoadRate  = 1 << 20 // per second
	MaxLoadAge   = time.Minute
	MaxLoadFor   = 10 * 365 * 24 * time.Hour
	MaxLoadWhy   = 120 // bytes
	MaxSuspects  = 64
	maxLoadName  = 255 // bytes
	// loadPart is how many bytes of entries one frame has, about: those of some
	// ten thousand backends. What is left follows in frames of its own.
	loadPart = 512 << 10
	maxRates = 1024 // the greatest, in one load
)

// PublishLoad sends every peer what changed. Where a peer has not taken what
// came before, it gets both as one. It never blocks.
func (m *Mesh) PublishLoad(l Load) {
	l.Rates = greatest(l.Rates)
	m.mu.Lock()
	if m.large {
		m.addPendingLocked(l, time.Now())
	}
	streams := m.streamsLocked()
	streams = slices.DeleteFunc(streams, func(s *stream) bool { return s.class != classFull })
	m.mu.Unlock()
	for _, s := range streams {
		s.putLoad(l)
	}
}

// pendingLoad is what was published since the last beat.
type pendingLoad struct {
	Load
	at     time.Time
	urgent bool
}

func (m *Mesh) addPendingLocked(l Load, now time.Time) {
	p := &pendingLoad{Load: l, at: now}
	if m.pending != nil && !l.Whole {
		p.Load, p.urgent = m.pending.then(l), m.pending.urgent
	}
	if !p.urgent && len(l.Verdicts)+len(l.Unchecked)+len(l.Suspects) > 0 {
		p.urgent = true
		notify(m.beating)
	}
	m.pending = p
}

// LoadSeq is the number of the last load that was sent to anybody.
func (m *Mesh) LoadSeq() uint64 { return m.loads.Load() }

// putLoad queues a load, which replaces what it speaks of.
func (s *stream) putLoad(l Load) {
	if s.protocol < protocolLoad {
		return
	}
	s.mu.Lock()
	if s.load != nil && !l.Whole {
		l = s.load.then(l)
	}
	s.load, s.loadAt = &l, time.Now()
	s.mu.Unlock()
	notify(s.wake)
}

// putWhole queues all that this POP has, taken while no change can be queued
// in between and be overwritten.
func (s *stream) putWhole() {
	if s.m.cfg.WholeLoad == nil || s.protocol < protocolLoad {
		return
	}
	s.mu.Lock()
	l := s.m.cfg.WholeLoad()
	l.Rates = greatest(l.Rates)
	s.load, s.loadAt = &l, time.Now()
	s.mu.Unlock()
	notify(s.wake)
}

// greatest are the rates that one frame has room for.
func greatest(rates []LoadRate) []LoadRate {
	if len(rates) <= maxRates {
		return rates
	}
	rates = slices.SortedFunc(slices.Values(rates), func(a, b LoadRate) int { return cmp.Compare(b.Rate, a.Rate) })
	return rates[:maxRates]
}

// then is both loads as one. Neither is changed: others send them, too.
func (l Load) then(next Load) Load {
	next.Whole = l.Whole
	next.Counts = joined(l.Counts, next.Counts)
	ended := slices.Clone(next.Unchecked)
	for _, id := range l.Unchecked {
		if _, again := next.Verdicts[id]; !again && !slices.Contains(ended, id) {
			ended = append(ended, id)
		}
	}
	next.Verdicts = joined(l.Verdicts, next.Verdicts)
	for _, id := range next.Unchecked {
		delete(next.Verdicts, id)
	}
	next.Unchecked = ended
	suspects := slices.Clone(l.Suspects)
	for _, id := range next.Suspects {
		if !slices.Contains(suspects, id) {
			suspects = append(suspects, id)
		}
	}
	next.Suspects = suspects[:min(len(suspects), MaxSuspects)]
	return next
}

// joined are the entries of both, of one key the later one's.
func joined[V any](a, b map[string]V) map[string]V {
	all := make(map[string]V, len(a)+len(b))
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// cut takes so much of the load as goes into one frame; nothing is left where
// that is all.
func (l Load) cut() (part Load, rest *Load) {
	if (len(l.Counts)+len(l.Verdicts)+len(l.Unchecked))*(maxLoadName+MaxLoadWhy+12) <= loadPart {
		return l, nil // whatever the names are
	}
	left := loadPart
	part, rest = l, &Load{Life: l.Life, Age: l.Age, Rates: l.Rates}
	part.Counts, rest.Counts = divided(l.Counts, &left, func(int64) int { return 4 })
	part.Verdicts, rest.Verdicts = divided(l.Verdicts, &left, func(v LoadVerdict) int { return 10 + len(v.Why) })
	n := 0
	for n < len(l.Unchecked) && left > 0 {
		left -= 2 + len(l.Unchecked[n])
		n++
	}
	part.Unchecked, rest.Unchecked = l.Unchecked[:n], l.Unchecked[n:]
	if len(rest.Counts)+len(rest.Verdicts)+len(rest.Unchecked) == 0 {
		return l, nil
	}
	return part, rest
}

// divided takes entries while there are bytes left for them.
func divided[V any](m map[string]V, left *int, size func(V) int) (some, others map[string]V) {
	some, others = map[string]V{}, map[string]V{}
	for key, v := range m {
		if *left > 0 {
			some[key] = v
			*left -= 2 + len(key) + size(v)
		} else {
			others[key] = v
		}
	}
	return some, others
}

// takeLoad adds the load that waits, to which its waiting adds age.
func (s *stream) takeLoad(b []byte, now time.Time) []byte {
	s.mu.Lock()
	l, at := s.load, s.loadAt
	s.load = nil
	var sent Load
	if l != nil {
		sent, s.load = l.cut()
	}
	more := s.load != nil
	s.mu.Unlock()
	if l == nil {
		return b
	}
	if more {
		notify(s.wake)
	}
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
