package memnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	window  = 256 << 10 // bytes of one direction that are under way or unread; then Write waits
	segSize = 16 << 10
)

// segment is a piece of a stream and when it arrives.
type segment struct {
	data []byte
	at   time.Time
}

// half is one direction of a stream. Both ends lock it.
//
//	Write -> [segments under way | arrived] -> Read
type half struct {
	net  *Net
	line line

	mu       sync.Mutex
	wake     chan struct{} // closed and made anew when anything below changes
	segments []segment
	unread   int
	unacked  int       // of what the writer sent, as far as it knows
	last     time.Time // when the last segment arrives: none overtakes it
	finished bool      // the writer is done: EOF after the data
	finAt    time.Time
	refused  time.Time // if set, from when on the writer knows that the reader has closed
	read     time.Time
	write    time.Time // deadlines
	reading  bool      // false: this end's Read was closed by its own Close
	writing  bool
}

func newHalf(n *Net, from, to netip.Addr) *half {
	return &half{net: n, line: line{from, to}, wake: make(chan struct{}), reading: true, writing: true}
}

// conn is one end of a stream.
type conn struct {
	in, out       *half
	local, remote netip.AddrPort
}

func newStream(n *Net, a, b netip.AddrPort) (near, far *conn) {
	there, back := newHalf(n, a.Addr(), b.Addr()), newHalf(n, b.Addr(), a.Addr())
	return &conn{in: back, out: there, local: a, remote: b}, &conn{in: there, out: back, local: b, remote: a}
}

func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.in.get(b)
	return n, c.explain("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.out.put(b)
	return n, c.explain("write", err)
}

// CloseWrite ends our direction; the peer reads EOF after the data.
func (c *conn) CloseWrite() error {
	c.out.set(func(h *half) { h.finish() })
	return nil
}

// Close ends both directions. What was written still arrives.
func (c *conn) Close() error {
	var known time.Time // to the peer, after all that was written
	c.out.set(func(h *half) { h.finish(); h.writing, known = false, h.arrival() })
	c.in.set(func(h *half) {
		if h.reading {
			h.refused, h.reading, h.segments, h.unread = known, false, nil, 0
		}
	})
	return nil
}

func (c *conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(func(h *half) { h.read = t })
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.set(func(h *half) { h.write = t })
	return nil
}

func (c *conn) explain(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// set changes the half and wakes whoever waits for a change.
func (h *half) set(f func(*half)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
	h.wakeLocked()
}

func (h *half) wakeLocked() {
	close(h.wake)
	h.wake = make(chan struct{})
}

func (h *half) finish() {
	if !h.finished {
		h.finished, h.finAt = true, h.arrival()
	}
}

// arrival is when something sent now is there.
func (h *half) arrival() time.Time {
	at := time.Now().Add(h.net.segmentDelay(h.line))
	if at.Before(h.last) {
		at = h.last
	}
	h.last = at
	return at
}

func (h *half) get(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		whole, changed := h.net.passable(h.line)
		now := time.Now()
		var next time.Time // when to look again
		switch {
		case !h.reading:
			return 0, net.ErrClosed
		case past(h.read, now):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case !whole:
		case len(h.segments) > 0 && !h.segments[0].at.After(now):
			return h.takeLocked(b), nil
		case len(h.segments) > 0:
			next = h.segments[0].at
		case h.finished && !h.finAt.After(now):
			return 0, io.EOF
		case h.finished:
			next = h.finAt
		}
		if err := h.waitLocked(changed, sooner(next, h.read)); err != nil {
			return 0, err
		}
	}
}

func (h *half) takeLocked(b []byte) int {
	s := &h.segments[0]
	n := copy(b, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		h.segments = h.segments[1:]
	}
	h.unread -= n
	h.wakeLocked()
	return n
}

func (h *half) put(b []byte) (sent int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		// Room in the window is told by acknowledgements, which come the other way.
		acked, changed := h.net.passable(line{h.line.to, h.line.from})
		whole, _ := h.net.passable(h.line)
		switch {
		case !h.writing || h.finished:
			return sent, net.ErrClosed
		case past(h.write, time.Now()):
			return sent, os.ErrDeadlineExceeded
		case past(h.refused, time.Now()) && whole && acked:
			return sent, syscall.EPIPE
		case sent == len(b):
			return sent, nil
		}
		if acked {
			h.unacked = h.unread
		}
		if room := window - h.unacked; room > 0 {
			n := min(room, len(b)-sent, segSize)
			h.segments = append(h.segments, segment{data: append([]byte(nil), b[sent:sent+n]...), at: h.arrival()})
			h.unread += n
			h.unacked += n
			sent += n
			h.wakeLocked()
			continue
		}
		until := h.write
		if h.refused.After(time.Now()) { // later only a change of the line brings news
			until = sooner(h.write, h.refused)
		}
		if err := h.waitLocked(changed, until); err != nil {
			return sent, err
		}
	}
}

// waitLocked gives the lock back until something changes or the time has come.
func (h *half) waitLocked(changed <-chan struct{}, until time.Time) error {
	wake := h.wake
	h.mu.Unlock()
	defer h.mu.Lock()
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-wake:
	case <-changed:
	case <-timer:
	case <-h.net.done:
		return net.ErrClosed
	}
	return nil
}

func past(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
