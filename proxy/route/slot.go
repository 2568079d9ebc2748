package route

import (
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Slot counts what this POP does with one backend. It outlives snapshots, so
// that a connection gives its place back to the count from which it took it,
// and it is written by every connection: no lock, only atomic adds.
type Slot struct {
	ID string

	own      atomic.Int64 // connections open or being dialed
	picks    [tiers]atomic.Uint64
	failures atomic.Uint64
	connects atomic.Uint64 // that succeeded
	rttSum   atomic.Int64  // ns, over connects
	rttLast  atomic.Int64  // ns
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64
}

// gone is the count of a slot that Prune took out of its set, far below what
// counting up from it reaches. A place on it would be counted nowhere.
const gone = math.MinInt64 / 2

func isGone(n int64) bool { return n < gone/2 }

// Connections is the number of places taken.
func (s *Slot) Connections() int64 {
	n := s.own.Load()
	if isGone(n) {
		return 0
	}
	return n
}

// reserve adds one unless the limit is reached. The compare-and-swap makes the
// limit exact under any number of concurrent picks, where check-then-count overshoots.
func (s *Slot) reserve(hard int64) bool {
	if hard <= 0 {
		if isGone(s.own.Add(1)) {
			s.own.Add(-1)
			return false
		}
		return true
	}
	for {
		n := s.own.Load()
		if n >= hard || isGone(n) {
			return false
		}
		if s.own.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives one place back.
func (s *Slot) Release() { s.own.Add(-1) }

// Connected records a successful connect that took rtt.
func (s *Slot) Connected(rtt time.Duration) {
	s.connects.Add(1)
	s.rttSum.Add(int64(rtt))
	s.rttLast.Store(int64(rtt))
}

// Failed records a connect that did not succeed.
func (s *Slot) Failed() { s.failures.Add(1) }

// Relayed records the bytes that a connection carried: in from the client to
// the backend, out the other way.
func (s *Slot) Relayed(in, out int64) {
	s.bytesIn.Add(uint64(in))
	s.bytesOut.Add(uint64(out))
}

// SlotStats are a Slot's figures at one moment.
type SlotStats struct {
	ID                string
	Connections       int64
	Picks             [tiers]uint64 // by tier 0, 1, 2
	Failures          uint64
	Connects          uint64
	RTTSum, RTTLast   time.Duration
	BytesIn, BytesOut uint64
}

// Stats reads the figures, each exact, not all of the same instant.
func (s *Slot) Stats() SlotStats {
	st := SlotStats{
		ID:          s.ID,
		Connections: s.own.Load(),
		Failures:    s.failures.Load(),
		Connects:    s.connects.Load(),
		RTTSum:      time.Duration(s.rttSum.Load()),
		RTTLast:     time.Duration(s.rttLast.Load()),
		BytesIn:     s.bytesIn.Load(),
		BytesOut:    s.bytesOut.Load(),
	}
	for i := range st.Picks {
		st.Picks[i] = s.picks[i].Load()
	}
	return st
}

// Slots is the set of counts by backend id. The zero value is ready for use,
// by any number of goroutines.
type Slots struct {
	mu   sync.Mutex
	byID map[string]*Slot
}

// Get finds or makes the slot of a backend.
func (s *Slots) Get(id string) *Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = make(map[string]*Slot)
	}
	slot := s.byID[id]
	if slot == nil {
		slot = &Slot{ID: id}
		s.byID[id] = slot
	}
	return slot
}

// Connections is the number of places taken on a backend, 0 for one never seen.
func (s *Slots) Connections(id string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot := s.byID[id]; slot != nil {
		return slot.Connections()
	}
	return 0
}

// Prune forgets the slots without connections of which keep says false, so
// that ids that come and go do not grow the set for ever. Who still has such a
// slot, from an older table, cannot take a place on it any more.
func (s *Slots) Prune(keep func(id string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byID, func(id string, slot *Slot) bool {
		return !keep(id) && slot.own.CompareAndSwap(0, gone)
	})
}

// Stats lists the figures of all backends by id.
func (s *Slots) Stats() []SlotStats {
	s.mu.Lock()
	slots := slices.Collect(maps.Values(s.byID))
	s.mu.Unlock()
	slices.SortFunc(slots, func(a, b *Slot) int { return strings.Compare(a.ID, b.ID) })
	stats := make([]SlotStats, len(slots))
	for i, slot := range slots {
		stats[i] = slot.Stats()
	}
	return stats
}
