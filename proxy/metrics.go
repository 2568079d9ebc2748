package proxy

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ConnectBounds are the upper bounds of the buckets of the connect times.
var ConnectBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
}

// counters are what one writer counts, or several that are not in a hurry.
type counters struct {
	active       atomic.Int64
	accepted     atomic.Uint64
	acceptErrors atomic.Uint64
	acceptPauses atomic.Uint64
	ended        [ends]atomic.Uint64
	connects     [len(ConnectBounds) + 1]atomic.Uint64 // the last one: longer
	connectSum   atomic.Int64                          // ns
	rightWaits   atomic.Uint64
	_            [64]byte // another writer's begin on a cache line of their own
}

// begin counts a connection that was accepted; account.finish counts its end.
func (c *counters) begin() {
	c.accepted.Add(1)
	c.active.Add(1)
}

// cancel takes back what begin counted.
func (c *counters) cancel() {
	c.accepted.Add(^uint64(0))
	c.active.Add(-1)
}

func (c *counters) observeConnect(rtt time.Duration) {
	i := 0
	for i < len(ConnectBounds) && rtt > ConnectBounds[i] {
		i++
	}
	c.connects[i].Add(1)
	c.connectSum.Add(int64(rtt))
}

// Metrics count what a server does. Figures of single backends are in route.Slot.
type Metrics struct {
	counters // of the goroutine path, and of workers that have ended

	mu      sync.Mutex                  // of changes to the list and of sums over it
	workers atomic.Pointer[[]*counters] // each counts on its own
}

func (m *Metrics) each(fn func(*counters)) {
	fn(&m.counters)
	if workers := m.workers.Load(); workers != nil {
		for _, c := range *workers {
			fn(c)
		}
	}
}

// Active is the number of connections open now.
func (m *Metrics) Active() (n int64) {
	m.each(func(c *counters) { n += c.active.Load() })
	return n
}

// join makes the counters of a worker.
func (m *Metrics) join() *counters {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &counters{}
	workers := []*counters{c}
	if old := m.workers.Load(); old != nil {
		workers = append(workers, *old...)
	}
	m.workers.Store(&workers)
	return c
}

// leave keeps what a worker that has ended has counted.
func (m *Metrics) leave(c *counters) {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(*m.workers.Load()), func(w *counters) bool { return w == c })
	m.workers.Store(&left)
	m.accepted.Add(c.accepted.Load())
	m.acceptErrors.Add(c.acceptErrors.Load())
	m.acceptPauses.Add(c.acceptPauses.Load())
	for i := range c.ended {
		m.ended[i].Add(c.ended[i].Load())
	}
	for i := range c.connects {
		m.connects[i].Add(c.connects[i].Load())
	}
	m.connectSum.Add(c.connectSum.Load())
	m.rightWaits.Add(c.rightWaits.Load())
}

// Stats are a server's figures at one moment.
type Stats struct {
	Active       int64
	Accepted     uint64
	AcceptErrors uint64
	AcceptPauses uint64
	Ended        map[string]uint64              // by how connections ended
	Connects     [len(ConnectBounds) + 1]uint64 // connects to backends, by time taken
	ConnectSum   time.Duration
	RightWaits   uint64 // connections that waited for a right, with strict limits
}

// Stats reads the figures, each exact, not all of the same instant.
func (m *Metrics) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Stats{Ended: make(map[string]uint64, ends)}
	m.each(func(c *counters) {
		st.Active += c.active.Load()
		st.Accepted += c.accepted.Load()
		st.AcceptErrors += c.acceptErrors.Load()
		st.AcceptPauses += c.acceptPauses.Load()
		st.ConnectSum += time.Duration(c.connectSum.Load())
		st.RightWaits += c.rightWaits.Load()
		for e := endClosed; e < ends; e++ {
			st.Ended[e.String()] += c.ended[e].Load()
		}
		for i := range st.Connects {
			st.Connects[i] += c.connects[i].Load()
		}
	})
	return st
}
