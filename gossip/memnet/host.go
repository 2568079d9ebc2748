package memnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	backlog   = 128         // connections that wait to be accepted; more are not answered
	synAgain  = time.Second // Linux sends the first four SYN again after a second each
	giveUp    = 2 * time.Minute
	firstFree = 40000 // port 0 means the next free one from here
)

// Host is one machine with one address.
type Host struct {
	net  *Net
	addr netip.Addr

	mu      sync.Mutex
	streams map[uint16]*listener
	packets map[uint16]*Transport
	next    uint16
}

// Addr is the host's address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Listen accepts streams on port; 0 takes a free one.
func (h *Host) Listen(port uint16) (net.Listener, error) {
	return h.listen(port)
}

func (h *Host) listen(port uint16) (*listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if port == 0 {
		port = h.freePortLocked()
	}
	at := netip.AddrPortFrom(h.addr, port)
	if h.streams[port] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: syscall.EADDRINUSE}
	}
	l := &listener{host: h, at: at, queue: make(chan *conn, backlog), done: make(chan struct{})}
	h.streams[port] = l
	return l, nil
}

func (h *Host) freePortLocked() uint16 {
	for {
		h.next++
		p := firstFree + h.next%20000
		if h.streams[p] == nil && h.packets[p] == nil {
			return p
		}
	}
}

func (h *Host) listening(port uint16) *listener {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.streams[port]
}

// Dial opens a stream to "10.0.0.1:7947". It takes a round trip. Where nobody
// listens it is refused; over a cut line it tries until ctx or two minutes end.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return h.dial(ctx, nil, addr)
}

func (h *Host) dial(ctx context.Context, stop <-chan struct{}, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	for {
		c, err := h.syn(ctx, stop, to)
		if c != nil {
			return c, nil
		}
		if err == nil { // not answered
			err = h.net.sleep(ctx, stop, synAgain)
		}
		if errors.Is(err, context.DeadlineExceeded) {
			return fail(os.ErrDeadlineExceeded) // a net.Error that says Timeout, as the real one
		}
		if err != nil {
			return fail(err)
		}
	}
}

// syn is one attempt: nil, nil where no answer will come.
func (h *Host) syn(ctx context.Context, stop <-chan struct{}, to netip.AddrPort) (net.Conn, error) {
	there, back := line{h.addr, to.Addr()}, line{to.Addr(), h.addr}
	if err := h.net.sleep(ctx, stop, h.net.segmentDelay(there)); err != nil {
		return nil, err
	}
	if whole, _ := h.net.passable(there); !whole {
		return nil, nil
	}
	h.net.mu.Lock()
	peer := h.net.hosts[to.Addr()]
	h.net.mu.Unlock()
	if peer == nil {
		return nil, nil // no such machine: silence
	}
	l := peer.listening(to.Port())
	if err := h.net.sleep(ctx, stop, h.net.segmentDelay(back)); err != nil {
		return nil, err
	}
	if whole, _ := h.net.passable(back); !whole {
		return nil, nil
	}
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	h.mu.Lock()
	from := netip.AddrPortFrom(h.addr, h.freePortLocked())
	h.mu.Unlock()
	near, far := newStream(h.net, from, to)
	select {
	case <-l.done:
		return nil, syscall.ECONNREFUSED
	case l.queue <- far:
		if l.isClosed() { // meanwhile, and nobody will take it out
			_ = far.Close()
		}
		return near, nil
	default:
		return nil, nil // backlog full
	}
}

// sleep ends early with ctx, with stop, and with the network.
func (n *Net) sleep(ctx context.Context, stop <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-stop:
	case <-n.done:
	}
	return net.ErrClosed
}

type listener struct {
	host  *Host
	at    netip.AddrPort
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
	case <-l.host.net.done:
	case c := <-l.queue:
		return c, nil
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
}

func (l *listener) isClosed() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// Close frees the port; what waits to be accepted is closed.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.host.mu.Lock()
		delete(l.host.streams, l.at.Port())
		l.host.mu.Unlock()
		for {
			select {
			case c := <-l.queue:
				_ = c.Close()
				continue
			default:
			}
			return
		}
	})
	return nil
}
