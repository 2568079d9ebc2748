package gossip

import (
	"context"
	"sync"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// item is a frame that waits for the store.
type item struct {
	deltaFrame
	pulled *pulledFrame // if set, this instead of a delta
	size   int
	fresh  []crdt.Range // of its writes, what was not known here when its turn came
}

// inbox is what a peer has sent and the store has not taken yet, in order.
// When it is full the stream is not read: TCP makes the peer wait. Guarded by
// stream.mu.
type inbox struct {
	items  []item
	bytes  int
	queued bool          // the applier knows of it
	space  chan struct{} // 1
}

// deliver queues an item for the applier and waits while there are too many.
func (s *stream) deliver(ctx context.Context, i item) error {
	for {
		s.mu.Lock()
		if s.inbox.bytes < inboxBytes {
			break
		}
		s.mu.Unlock()
		select {
		case <-s.inbox.space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.inbox.items = append(s.inbox.items, i)
	s.inbox.bytes += i.size
	known := s.inbox.queued
	s.inbox.queued = true
	s.mu.Unlock()
	if !known {
		s.m.applier.add(s)
	}
	return nil
}

// collect empties the inbox.
func (s *stream) collect() []item {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := s.inbox.items
	s.inbox.items, s.inbox.bytes, s.inbox.queued = nil, 0, false
	notify(s.inbox.space)
	return items
}

// applier takes one inbox after the other: a peer that sends much waits for
// those that send little.
type applier struct {
	wake chan struct{} // 1

	mu   sync.Mutex
	list []inLine
}

// inLine is an inbox, or a mark that is closed when all before it is done.
type inLine struct {
	stream *stream
	mark   chan struct{}
}

func (a *applier) add(s *stream) {
	a.mu.Lock()
	a.list = append(a.list, inLine{stream: s})
	a.mu.Unlock()
	notify(a.wake)
}

// settle waits until all that has been delivered is applied, and says whether it is.
func (a *applier) settle(ctx context.Context) bool {
	mark := make(chan struct{})
	a.mu.Lock()
	a.list = append(a.list, inLine{mark: mark})
	a.mu.Unlock()
	notify(a.wake)
	select {
	case <-mark:
		return true
	case <-ctx.Done():
		return false
	}
}

// next is nil when ctx has ended.
func (a *applier) next(ctx context.Context) *stream {
	for ctx.Err() == nil {
		a.mu.Lock()
		if len(a.list) > 0 {
			t := a.list[0]
			a.list = a.list[1:]
			a.mu.Unlock()
			if t.mark != nil {
				close(t.mark)
				continue
			}
			return t.stream
		}
		a.mu.Unlock()
		select {
		case <-a.wake:
		case <-ctx.Done():
		}
	}
	return nil
}
