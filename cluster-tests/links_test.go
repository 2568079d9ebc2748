package clustertests

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// link is how it goes from one POP to another. The zero value is a good one.
type link struct {
	cut   bool          // nothing arrives, and nobody is told
	loss  int           // percent of the packets
	delay time.Duration // of each
	twice int           // percent of the packets that arrive two times
	early int           // percent that have no delay, and overtake the others
	rate  int           // bytes of a stream in a second; 0: as fast as it can be
}

// links are those between all POPs of a scenario, one for each direction. A
// relay asks them for every packet. Safe for concurrent use.
type links struct {
	mu      sync.Mutex
	all     map[[2]int]link
	rand    *rand.Rand
	changed chan struct{} // closed, and made anew, when something changes
}

func newLinks(seed uint64) *links {
	return &links{all: map[[2]int]link{}, rand: rand.New(rand.NewPCG(seed, 2)), changed: make(chan struct{})}
}

// change applies f to the link from one POP to another.
func (l *links) change(from, to int, f func(*link)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.all[[2]int{from, to}]
	f(&at)
	l.all[[2]int{from, to}] = at
	l.tellLocked()
}

// heal makes all good ones.
func (l *links) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.all)
	l.tellLocked()
}

func (l *links) tellLocked() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// passes says how much later a packet arrives, once for each time that it does.
func (l *links) passes(from, to int) (delays []time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.all[[2]int{from, to}]
	chance := func(percent int) bool { return percent > 0 && l.rand.IntN(100) < percent }
	if at.cut || chance(at.loss) {
		return nil
	}
	for copies := 1; copies > 0; copies-- {
		if delays = append(delays, at.delay); chance(at.early) {
			delays[len(delays)-1] = 0
		}
		if len(delays) == 1 && chance(at.twice) {
			copies++
		}
	}
	return delays
}

// delayOf is the delay alone, for what cannot be lost.
func (l *links) delayOf(from, to int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[[2]int{from, to}].delay
}

// rateOf is how much of a stream goes through now.
func (l *links) rateOf(from, to int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[[2]int{from, to}].rate
}

// open waits until neither direction is cut: a stream whose acknowledgements
// are lost stands still as well.
func (l *links) open(ctx context.Context, a, b int) error {
	for {
		l.mu.Lock()
		cut, changed := l.all[[2]int{a, b}].cut || l.all[[2]int{b, a}].cut, l.changed
		l.mu.Unlock()
		if !cut {
			return ctx.Err()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// cable brings packets to their end, each when it is due: in the order in which
// they were sent, but for those without a delay, which do not wait for others.
// A router's queue: what does not fit is dropped.
type cable struct{ late, express chan parcel }

type parcel struct {
	due  time.Time
	data []byte
}

const cableQueue = 1024 // packets on their way

func newCable() *cable {
	return &cable{make(chan parcel, cableQueue), make(chan parcel, cableQueue)}
}

// send takes the packet as its own, once for each of the delays.
func (w *cable) send(data []byte, delays []time.Duration) {
	for _, delay := range delays {
		lane := w.late
		if delay == 0 {
			lane = w.express
		}
		select {
		case lane <- parcel{time.Now().Add(delay), data}:
		default:
		}
	}
}

// run delivers until ctx ends.
func (w *cable) run(ctx context.Context, deliver func([]byte)) {
	var both sync.WaitGroup
	for _, lane := range []chan parcel{w.late, w.express} {
		both.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case p := <-lane:
					if !waitUntil(ctx, p.due) {
						return
					}
					deliver(p.data)
				}
			}
		})
	}
	both.Wait()
}

// waitUntil is false where ctx ends before.
func waitUntil(ctx context.Context, due time.Time) bool {
	left := time.Until(due)
	if left <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
