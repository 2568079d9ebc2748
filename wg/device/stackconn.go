package device

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// backlog is what waits to be accepted; beyond it cookies are sent.
const backlog = 4096

// stackConn is a TCP connection of our own stack, to be used as a *net.TCPConn.
// gVisor's own wrapper makes text of errors, which then say ECONNRESET to nobody.
type stackConn struct {
	ep       tcpip.Endpoint
	queue    *waiter.Queue
	readable side
	writable side
	once     sync.Once
	closed   chan struct{}
}

// side is one direction: one call at a time, that waits for an event.
type side struct {
	mu       sync.Mutex
	entry    waiter.Entry
	event    chan struct{}
	deadline deadline
}

func (s *side) register(queue *waiter.Queue, mask waiter.EventMask) {
	s.entry, s.event = waiter.NewChannelEntry(mask | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&s.entry)
	s.deadline.init()
}

func newStackConn(ep tcpip.Endpoint, queue *waiter.Queue) *stackConn {
	c := &stackConn{ep: ep, queue: queue, closed: make(chan struct{})}
	c.readable.register(queue, waiter.ReadableEvents)
	c.writable.register(queue, waiter.WritableEvents)
	keepalive(ep)
	return c
}

// wait is nil when it is worth trying again.
func (c *stackConn) wait(s *side) error {
	select {
	case <-s.event:
		return nil
	case <-s.deadline.passed():
		return os.ErrDeadlineExceeded
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *stackConn) check(s *side) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	case <-s.deadline.passed():
		return os.ErrDeadlineExceeded
	default:
		return nil
	}
}

func (c *stackConn) Read(b []byte) (int, error) {
	c.readable.mu.Lock()
	defer c.readable.mu.Unlock()
	if err := c.check(&c.readable); err != nil {
		return 0, c.failed("read", err)
	}
	if len(b) == 0 {
		return 0, nil
	}
	for {
		w := tcpip.SliceWriter(b)
		res, terr := c.ep.Read(&w, tcpip.ReadOptions{})
		switch terr.(type) {
		case nil:
			c.ep.ModerateRecvBuf(res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(&c.readable); err != nil {
				return 0, c.failed("read", err)
			}
		case *tcpip.ErrClosedForReceive:
			if err := c.check(&c.readable); err != nil {
				return 0, c.failed("read", err)
			}
			// The stack tells of a reset once, and that may have been a write:
			// what was cut off must not look complete.
			if tcp.EndpointState(c.ep.State()) == tcp.StateError {
				return 0, c.failed("read", syscall.ECONNRESET)
			}
			return 0, io.EOF
		default:
			return 0, c.failed("read", c.errno("read", terr))
		}
	}
}

func (c *stackConn) Write(b []byte) (int, error) {
	c.writable.mu.Lock()
	defer c.writable.mu.Unlock()
	if err := c.check(&c.writable); err != nil {
		return 0, c.failed("write", err)
	}
	var r bytes.Reader
	for done := 0; ; {
		if done == len(b) {
			return done, nil
		}
		r.Reset(b[done:])
		n, terr := c.ep.Write(&r, tcpip.WriteOptions{})
		done += int(n)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.wait(&c.writable); err != nil {
				return done, c.failed("write", err)
			}
		default:
			return done, c.failed("write", c.errno("write", terr))
		}
	}
}

// errno is net.ErrClosed where the cause is that we have closed.
func (c *stackConn) errno(call string, terr tcpip.Error) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return errnoOf(call, terr)
	}
}

func (c *stackConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close sends what has been written and then the end; or a reset, after SetLinger(0).
func (c *stackConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		close(c.closed)
		c.ep.Close()
		c.queue.EventUnregister(&c.readable.entry)
		c.queue.EventUnregister(&c.writable.entry)
		c.readable.deadline.set(time.Time{})
		c.writable.deadline.set(time.Time{})
	})
	if err != nil {
		return c.failed("close", err)
	}
	return nil
}

// CloseWrite sends the end; the other side may go on.
func (c *stackConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

// CloseRead reads no more.
func (c *stackConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

func (c *stackConn) shutdown(how tcpip.ShutdownFlags) error {
	select {
	case <-c.closed:
		return c.failed("close", net.ErrClosed)
	default:
	}
	if terr := c.ep.Shutdown(how); terr != nil {
		return c.failed("close", errnoOf("shutdown", terr))
	}
	return nil
}

// SetLinger is as (*net.TCPConn).SetLinger has it: 0 makes Close a reset.
func (c *stackConn) SetLinger(seconds int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: seconds >= 0, Timeout: time.Duration(max(seconds, 0)) * time.Second})
	return nil
}

// SetNoDelay is as (*net.TCPConn).SetNoDelay has it, and on by default, too.
func (c *stackConn) SetNoDelay(on bool) error {
	c.ep.SocketOptions().SetDelayOption(!on)
	return nil
}

func (c *stackConn) LocalAddr() net.Addr  { a, err := c.ep.GetLocalAddress(); return tcpAddr(a, err) }
func (c *stackConn) RemoteAddr() net.Addr { a, err := c.ep.GetRemoteAddress(); return tcpAddr(a, err) }

func (c *stackConn) SetDeadline(t time.Time) error {
	c.readable.deadline.set(t)
	c.writable.deadline.set(t)
	return nil
}
func (c *stackConn) SetReadDeadline(t time.Time) error  { c.readable.deadline.set(t); return nil }
func (c *stackConn) SetWriteDeadline(t time.Time) error { c.writable.deadline.set(t); return nil }

func tcpAddr(a tcpip.FullAddress, err tcpip.Error) *net.TCPAddr {
	if err != nil {
		return &net.TCPAddr{}
	}
	return &net.TCPAddr{IP: net.IP(a.Addr.AsSlice()), Port: int(a.Port)}
}

// errnoOf is the error that the kernel would give.
func errnoOf(call string, terr tcpip.Error) error {
	var errno syscall.Errno
	switch terr.(type) {
	case *tcpip.ErrConnectionRefused:
		errno = syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		errno = syscall.ECONNRESET
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		errno = syscall.ECONNABORTED
	case *tcpip.ErrTimeout:
		errno = syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		errno = syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable, *tcpip.ErrNoNet:
		errno = syscall.ENETUNREACH
	case *tcpip.ErrClosedForSend:
		errno = syscall.EPIPE
	case *tcpip.ErrNotConnected:
		errno = syscall.ENOTCONN
	case *tcpip.ErrPortInUse:
		errno = syscall.EADDRINUSE
	case *tcpip.ErrBadLocalAddress, *tcpip.ErrNoPortAvailable:
		errno = syscall.EADDRNOTAVAIL
	case *tcpip.ErrNoBufferSpace:
		errno = syscall.ENOBUFS
	default:
		errno = syscall.EINVAL
	}
	return os.NewSyscallError(call, errno)
}
