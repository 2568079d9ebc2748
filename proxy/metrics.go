package proxy

import (
	"sync/atomic"
	"time"
)

// ConnectBounds are the upper bounds of the buckets of the connect times.
var ConnectBounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond,
	25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second,
}

// Metrics count what a server does. Figures of single backends are in route.Slot.
type Metrics struct {
	active       atomic.Int64
	accepted     atomic.Uint64
	acceptErrors atomic.Uint64
	acceptPauses atomic.Uint64
	ended        [ends]atomic.Uint64
	connects     [len(ConnectBounds) + 1]atomic.Uint64 // the last one: longer
	connectSum   atomic.Int64                          // ns
	rightWaits   atomic.Uint64
}

func (m *Metrics) observeConnect(rtt time.Duration) {
	i := 0
	for i < len(ConnectBounds) && rtt > ConnectBounds[i] {
		i++
	}
	m.connects[i].Add(1)
	m.connectSum.Add(int64(rtt))
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
	st := Stats{
		Active:       m.active.Load(),
		Accepted:     m.accepted.Load(),
		AcceptErrors: m.acceptErrors.Load(),
		AcceptPauses: m.acceptPauses.Load(),
		Ended:        make(map[string]uint64, ends),
		ConnectSum:   time.Duration(m.connectSum.Load()),
		RightWaits:   m.rightWaits.Load(),
	}
	for e := endClosed; e < ends; e++ {
		st.Ended[e.String()] = m.ended[e].Load()
	}
	for i := range st.Connects {
		st.Connects[i] = m.connects[i].Load()
	}
	return st
}
