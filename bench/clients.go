//go:build linux

package main

import (
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// retryPause is how long a connection that failed waits before it tries again, so that a target that refuses everything
// is not hammered.
const retryPause = 2 * time.Millisecond

// clients is a worker that keeps a number of connections busy, all with one loop:
//
//	   +----- failed, after retryPause -----+
//	   v                                    |
//	connect --> writing --> reading --------+
//	   ^           ^           |
//	   |           +-- keep ---+ reply whole
//	   +------- else: close ---+
//
// For streams, reading never ends. For hold, a whole reply parks the connection.
type clients struct {
	*loop
	job     loadJob
	slots   []client
	failed  []int     // slots to connect again
	retry   time.Time // when to do so
	to      []*unix.SockaddrInet4
	from    []*unix.SockaddrInet4
	turn    int
	request [messageSize]byte
	in      []byte
	done    tally

	opened int       // for hold: slots that were given out
	kept   []int     // for hold: descriptors of parked connections
	limit  time.Time // for hold: give up then
}

// client is one connection. fd is -1 between two of them.
type client struct {
	fd      int
	start   time.Time // of the connect, or of the request on a kept connection
	waiting bool      // for the connect to finish; the request is not written yet
	got     int       // bytes of the reply
}

func newClients(j loadJob, index int) (*clients, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	c := &clients{loop: l, job: j, turn: index, in: make([]byte, messageSize), done: tally{hist: []*histogram{new(histogram)}}}
	c.request[0] = wantEcho
	if j.Kind == jobStream {
		c.request[0], c.in = wantStream, make([]byte, 1<<20)
	}
	for _, a := range j.Addrs {
		c.to = append(c.to, sockaddr(a))
	}
	for _, a := range j.Sources {
		c.from = append(c.from, &unix.SockaddrInet4{Addr: a.As4()})
	}
	n := j.Conns
	if j.Kind == jobHold {
		n = min(n, 64) // at a time, so that no backlog overflows
	}
	c.slots, c.opened = make([]client, n), n
	return c, nil
}

func (c *clients) result() *tally { return &c.done }

func (c *clients) run(course *course) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := range c.slots {
		c.slots[i].fd = -1
		c.connect(i)
	}
	for !c.over(course) {
		timeout := 20
		if len(c.failed) > 0 {
			timeout = int(retryPause / time.Millisecond)
		}
		evs, before := c.wait(timeout), c.done.ops
		phase := course.phase.Load()
		for _, ev := range evs {
			c.ready(int(ev.Fd), phase == measuring)
		}
		if c.done.ops > before || phase == warming && len(evs) > 0 {
			course.arrived(phase)
		}
		c.reconnect()
	}
	c.end()
}

func (c *clients) over(course *course) bool {
	if c.job.Kind == jobHold {
		return len(c.kept) >= c.job.Conns || time.Now().After(c.limit)
	}
	return course.phase.Load() == ending
}

// reconnect gives the failed connections another try once they have rested.
func (c *clients) reconnect() {
	if len(c.failed) == 0 || time.Now().Before(c.retry) {
		return
	}
	again := slices.Clone(c.failed) // connect may fail once more
	c.failed = c.failed[:0]
	for _, i := range again {
		c.connect(i)
	}
}

// end closes everything but what is parked. A connection that has been stuck for a second counts as an error, for its
// latency is in no histogram.
func (c *clients) end() {
	now := time.Now()
	for i := range c.slots {
		s := &c.slots[i]
		if s.fd < 0 {
			continue
		}
		if now.Sub(s.start) > time.Second && c.job.Kind != jobStream {
			c.done.fail("connection stuck", unix.ETIMEDOUT)
		}
		_ = unix.Close(s.fd)
	}
	_ = unix.Close(c.fd)
}

// connect starts a new connection in slot i. On loopback the handshake is over when connect returns, and the request goes
// out at once.
func (c *clients) connect(i int) {
	s := &c.slots[i]
	c.turn++
	start := time.Now()
	fd, err := socketTo(c.from[c.turn%len(c.from)], unix.SOCK_NONBLOCK)
	if err != nil {
		c.fail(i, "socket", err)
		return
	}
	*s = client{fd: fd, start: start}
	if err := unix.Connect(fd, c.to[c.turn%len(c.to)]); err != nil && err != unix.EINPROGRESS {
		c.fail(i, "connect", err)
		return
	}
	_, errno := write(fd, c.request[:])
	s.waiting = errno != 0 && again(errno)
	switch {
	case s.waiting:
		err = c.add(fd, unix.EPOLLOUT, int32(i))
	case errno != 0:
		err = errno
	default:
		err = c.add(fd, unix.EPOLLIN, int32(i))
	}
	if err != nil {
		c.fail(i, "connect", err)
	}
}

// fail counts an error and lets the slot rest.
func (c *clients) fail(i int, what string, err error) {
	c.done.fail(what, err)
	if s := &c.slots[i]; s.fd >= 0 {
		_ = unix.Close(s.fd)
		s.fd = -1
	}
	if len(c.failed) == 0 {
		c.retry = time.Now().Add(retryPause)
	}
	c.failed = append(c.failed, i)
}

func (c *clients) ready(i int, counted bool) {
	s := &c.slots[i]
	if s.waiting {
		s.waiting = false
		if _, errno := write(s.fd, c.request[:]); errno != 0 {
			c.fail(i, "connect", errno)
		} else if err := c.change(s.fd, unix.EPOLLIN, int32(i)); err != nil {
			c.fail(i, "epoll", err)
		}
		return
	}
	if c.job.Kind == jobStream {
		n, errno := discard(s.fd, c.in)
		if errno != 0 && again(errno) {
			return
		}
		if !c.intact(i, n, errno) {
			return
		}
		if counted {
			c.done.bytes += int64(n)
			c.done.ops++
		}
		return
	}
	n, errno := read(s.fd, c.in[:messageSize-s.got])
	if errno != 0 && again(errno) || !c.intact(i, n, errno) {
		return
	}
	if s.got += n; s.got == messageSize {
		c.replied(i, counted)
	}
}

// intact counts a connection that ended before its reply.
func (c *clients) intact(i, n int, errno unix.Errno) bool {
	switch {
	case errno != 0:
		c.fail(i, "read", errno)
	case n == 0:
		c.fail(i, "read", unix.ECONNABORTED)
	default:
		return true
	}
	return false
}

// replied notes the latency and goes on as the job wants it.
func (c *clients) replied(i int, counted bool) {
	s := &c.slots[i]
	now := time.Now()
	if counted {
		c.done.ops++
		c.done.hist[0].add(now.Sub(s.start))
	}
	switch c.job.Kind {
	case jobRequest:
		s.start, s.got = now, 0
		if _, errno := write(s.fd, c.request[:]); errno != 0 {
			c.fail(i, "write", errno)
		}
	case jobHold:
		_ = unix.EpollCtl(c.fd, unix.EPOLL_CTL_DEL, s.fd, nil)
		c.kept = append(c.kept, s.fd)
		s.fd = -1
		if c.opened < c.job.Conns {
			c.opened++
			c.connect(i)
		}
	default:
		if c.job.Reset {
			_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		_ = unix.Close(s.fd)
		c.connect(i)
	}
}
