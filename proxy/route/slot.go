package route

import (
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
	others   atomic.Int64 // the same of the other POPs, as last reported
	opens    atomic.Int64 // places ever taken
	faded    atomic.Int64 // in units of 1/fixed: of closed connections, what still counted as opened in the window
	departed atomic.Int64 // and what did not any more
	since    atomic.Int64 // unix ns when it came back, 0: it was never away
	ejected  atomic.Int64 // unix ns until when, 0: it is not
	down     atomic.Int64 // unix ns since when checks say so, 0: they do not
	streak   atomic.Int32 // failed connects in a row
	suspect  atomic.Bool  // a connect failed since Suspects was last asked
	window   *number      // balance.window
	past     past         // guarded by balance.mu
	picks    [tiers]atomic.Uint64
	failures atomic.Uint64
	connects atomic.Uint64 // that succeeded
	rttSum   atomic.Int64  // ns, over connects
	rttLast  atomic.Int64  // ns
	bytesIn  atomic.Uint64
	bytesOut atomic.Uint64

	strict bool // connections need rights, as kept in:
	rights rightsOf

	ejections atomic.Uint64
	times     int       // ejections that followed each other; guarded by Router.ejecting
	last      time.Time // when the last one ends; the same
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
func (s *Slot) reserve(limit int64) bool {
	if limit == unlimited {
		if isGone(s.own.Add(1)) {
			s.own.Add(-1)
			return false
		}
		s.opens.Add(1)
		return true
	}
	for {
		n := s.own.Load()
		if n >= limit || isGone(n) {
			return false
		}
		if s.own.CompareAndSwap(n, n+1) {
			s.opens.Add(1)
			return true
		}
	}
}

// Release gives one place back that was held for so long. What was opened in
// the window is known to this POP alone, and so is that it is gone; what was
// open before, the others count on.
func (s *Slot) Release(held time.Duration) {
	fresh := math.Exp(-max(0, held.Seconds()) / s.window.Load())
	s.faded.Add(int64(fixed * fresh))
	s.departed.Add(int64(fixed * (1 - fresh)))
	s.own.Add(-1)
	if s.strict {
		s.rights.release()
	}
}

// Connected records a successful connect that took rtt.
func (s *Slot) Connected(rtt time.Duration) {
	s.connects.Add(1)
	if s.streak.Load() != 0 {
		s.streak.Store(0)
	}
	s.rttSum.Add(int64(rtt))
	s.rttLast.Store(int64(rtt))
}

// Relayed records the bytes that a connection carried: in from the client to
// the backend, out the other way.
func (s *Slot) Relayed(in, out int64) {
	s.bytesIn.Add(uint64(in))
	s.bytesOut.Add(uint64(out))
}

// SlotStats are a Slot's figures at one moment.
type SlotStats struct {
	ID                string
	Connections       int64         // of this POP
	Others            int64         // of the other POPs, as last reported
	Picks             [tiers]uint64 // by tier 0, 1, 2
	Failures          uint64
	Ejections         uint64
	Connects          uint64
	RTTSum, RTTLast   time.Duration
	BytesIn, BytesOut uint64
}

// Stats reads the figures, each exact, not all of the same instant.
func (s *Slot) Stats() SlotStats {
	st := SlotStats{
		ID:          s.ID,
		Connections: s.own.Load(),
		Others:      s.others.Load(),
		Failures:    s.failures.Load(),
		Ejections:   s.ejections.Load(),
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
	window *number // for every slot
	strict bool    // likewise

	mu   sync.Mutex
	byID map[string]*Slot
	all  []*Slot // in the order in which they were made, so that a sum is the same every time
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
		slot = &Slot{ID: id, window: s.window, strict: s.strict}
		s.byID[id] = slot
		s.all = append(s.all, slot)
	}
	return slot
}

// Inherit counts connections of a backend that another process of this POP
// has, more or, where n is negative, fewer: they were open before.
func (s *Slots) Inherit(id string, n int64) {
	slot := s.Get(id)
	if n < 0 {
		slot.departed.Add(-n * fixed)
	}
	if isGone(slot.own.Add(n)) { // pruned between the two
		slot.own.Add(-n)
		s.Get(id).own.Add(n)
	}
}

// find is the slot of a backend, nil for one never seen.
func (s *Slots) find(id string) *Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Prune forgets the slots without connections of which keep says false, so
// that ids that come and go do not grow the set for ever. Who still has such a
// slot, from an older table, cannot take a place on it any more.
func (s *Slots) Prune(keep func(id string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = slices.DeleteFunc(s.all, func(slot *Slot) bool {
		out := !keep(slot.ID) && slot.own.CompareAndSwap(0, gone)
		if out {
			delete(s.byID, slot.ID)
		}
		return out
	})
}

func (s *Slots) list() []*Slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// Stats lists the figures of all backends by id.
func (s *Slots) Stats() []SlotStats {
	slots := s.list()
	slices.SortFunc(slots, func(a, b *Slot) int { return strings.Compare(a.ID, b.ID) })
	stats := make([]SlotStats, len(slots))
	for i, slot := range slots {
		stats[i] = slot.Stats()
	}
	return stats
}
