package device

import (
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// outboxBytes is what waits for WireGuard at most, about 1,500 full packets:
// more would only delay what comes behind it.
const outboxBytes = 2 << 20

// outgoing is one packet on its way to WireGuard: of our stack, possibly a
// large one yet to be cut into segments, or one to forward.
type outgoing struct {
	packet *stack.PacketBuffer // ours to release; nil: frame counts
	frame  *frame
}

func (o outgoing) size() int {
	if o.packet != nil {
		return o.packet.Size()
	}
	return len(o.frame.data) // what it holds, however little of it is used
}

func (o outgoing) release() {
	if o.packet != nil {
		o.packet.DecRef()
	} else {
		framePool.Put(o.frame)
	}
}

// frame is a packet to forward. It is copied, as WireGuard uses its buffer again.
type frame struct {
	n    int
	data [2048]byte
	more []byte // instead of data, for packets larger than that
}

func (f *frame) bytes() []byte {
	if f.more != nil {
		return f.more[:f.n]
	}
	return f.data[:f.n]
}

var framePool = sync.Pool{New: func() any { return new(frame) }}

func newFrame(packet []byte) *frame {
	f := framePool.Get().(*frame)
	f.n, f.more = len(packet), nil
	if f.n > len(f.data) {
		f.more = make([]byte, f.n)
	}
	copy(f.bytes(), packet)
	return f
}

// outbox is a queue of many writers and one reader, who takes all at once.
type outbox struct {
	mu     sync.Mutex
	ready  sync.Cond // of the reader: something is there
	space  sync.Cond // of writers: the reader has taken all; and of settle
	queue  []outgoing
	bytes  int
	used   bool
	idle   bool // the reader waits
	closed bool
}

func newOutbox() *outbox {
	b := &outbox{}
	b.ready.L, b.space.L = &b.mu, &b.mu
	return b
}

// put takes o over, also where it says that it has not queued it. It waits for
// space if told to: TCP of our own is better held back than dropped, and what
// others send is better dropped than holding us back.
func (b *outbox) put(o outgoing, wait bool) bool {
	b.mu.Lock()
	for b.bytes >= outboxBytes && wait && !b.closed {
		b.space.Wait()
	}
	if b.closed || b.bytes >= outboxBytes {
		b.mu.Unlock()
		o.release()
		return false
	}
	b.queue = append(b.queue, o)
	b.bytes += o.size()
	b.used, b.idle = true, false
	if len(b.queue) == 1 {
		b.ready.Signal()
	}
	b.mu.Unlock()
	return true
}

// take swaps what waits for the empty slice, and blocks while nothing does.
func (b *outbox) take(empty []outgoing) ([]outgoing, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.queue) == 0 && !b.closed {
		if !b.idle {
			b.idle = true
			b.space.Broadcast()
		}
		b.ready.Wait()
	}
	if b.closed {
		return nil, os.ErrClosed
	}
	taken := b.queue
	b.queue = empty
	if b.bytes >= outboxBytes {
		b.space.Broadcast()
	}
	b.bytes = 0
	return taken, nil
}

// settle waits until the reader has passed on all that it has taken. It is
// false where there was never anything.
func (b *outbox) settle(most time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	late := false
	timer := time.AfterFunc(most, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		late = true
		b.space.Broadcast()
	})
	defer timer.Stop()
	for b.used && !b.idle && !late && !b.closed {
		b.space.Wait()
	}
	return b.used && !b.closed
}

// close wakes everybody. Twice is safe.
func (b *outbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, o := range b.queue {
		o.release()
	}
	b.queue, b.bytes = nil, 0
	b.ready.Broadcast()
	b.space.Broadcast()
}
