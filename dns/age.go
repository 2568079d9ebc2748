package dns

import (
	"sync/atomic"
	"time"
)

// TTLs in seconds: the shorter, the fresher the answer is. One that has not
// changed for four times so long may be kept for so long.
const (
	leastTTL  = 5
	mostTTL   = 30
	perTTL    = 4
	lookEvery = 250 * time.Millisecond
)

// age is since when the answers of a name have been the same.
type age struct {
	content  uint64 // of the entry
	since    atomic.Int64
	standing atomic.Uint64 // of the backends, as last looked at
	looked   atomic.Int64  // 0: never
}

func newAge(content uint64, now time.Time) *age {
	a := &age{content: content}
	a.since.Store(now.UnixNano())
	return a
}

// ttl is how long an answer may be kept. Which backends take connections is
// looked at now and then; standing is nil where the answer does not depend on it.
func (a *age) ttl(now time.Time, standing func() uint64) uint32 {
	at := now.UnixNano()
	if last := a.looked.Load(); standing != nil && at-last >= int64(lookEvery) && a.looked.CompareAndSwap(last, at) {
		if is := standing(); a.standing.Swap(is) != is && last != 0 {
			a.since.Store(at)
		}
	}
	stable := time.Duration(at - a.since.Load())
	return uint32(min(max(stable/time.Second/perTTL, leastTTL), mostTTL))
}
