package device

import (
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// stackListener listens in our own stack.
type stackListener struct {
	ep     tcpip.Endpoint
	queue  waiter.Queue
	entry  waiter.Entry
	event  chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (l *stackListener) start(ep tcpip.Endpoint) {
	l.ep = ep
	l.entry, l.event = waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	l.queue.EventRegister(&l.entry)
}

func (l *stackListener) Accept() (net.Conn, error) {
	for {
		ep, queue, terr := l.ep.Accept(nil)
		if terr == nil {
			select { // who else accepts has had the same event
			case l.event <- struct{}{}:
			default:
			}
			return newStackConn(ep, queue), nil
		}
		if _, block := terr.(*tcpip.ErrWouldBlock); !block {
			err := errnoOf("accept", terr)
			select {
			case <-l.closed:
				err = net.ErrClosed
			default:
			}
			return nil, l.failed(err)
		}
		select {
		case <-l.event:
		case <-l.closed:
			return nil, l.failed(net.ErrClosed)
		}
	}
}

func (l *stackListener) failed(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: err}
}

// Close resets what has not been accepted.
func (l *stackListener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		err = nil
		close(l.closed)
		l.ep.Close()
		l.queue.EventUnregister(&l.entry)
	})
	if err != nil {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: err}
	}
	return nil
}

func (l *stackListener) Addr() net.Addr { a, err := l.ep.GetLocalAddress(); return tcpAddr(a, err) }

// deadline closes a channel at a time that may be changed.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func (d *deadline) init() { d.done = make(chan struct{}) }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// set takes the zero time for never, and binds calls that wait already, too.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		d.done = make(chan struct{}) // the timer has closed, or is about to
	}
	d.timer = nil
	select {
	case <-d.done:
		d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	done := d.done
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(done) })
	} else {
		close(done)
	}
}
