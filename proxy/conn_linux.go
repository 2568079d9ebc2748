package proxy

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/reactor"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"golang.org/x/sys/unix"
)

// conn is one client connection of a worker. What it goes through is what a
// session does; see there.
type conn struct {
	account
	pair  reactor.Pair
	key   key
	phase phase

	queued  bool          // it is in worker.again
	probed  bool          // the backend's socket has keep-alive
	watched bool          // the client's socket is watched for room, too
	half    bool          // one direction had ended when it last moved
	far     bool          // the timer is more than a look away
	nagle   uint8         // writes to the backend, up to nagleOff
	in, out int64         // bytes that the backend's figures have
	last    int64         // bytes both ways when it last moved
	quiet   time.Duration // since the worker's start, when it last moved

	early  *prelude      // what the client has sent, until a backend has answered; nil: nothing
	dialed *mesh.Backend // that has not answered yet
	tried  []*route.Slot // backends that did not answer
}

type phase uint8

const (
	heading    phase = iota // a PROXY header or a ClientHello is awaited
	awaiting                // a right is
	connecting              // a backend's answer is
	relaying
)

// nagleOff: see sockets.beforeWrite.
const nagleOff = 2

// mark is what epoll says of a side.
func (c *conn) mark(s reactor.Side) unix.EpollEvent {
	return unix.EpollEvent{Fd: int32(c.key.id<<1) | int32(s), Pad: int32(c.key.generation)}
}

// admit begins with a connection that was accepted from w.addr.
func (w *worker) admit(fd int32) {
	peer := addressOf(&w.addr)
	if w.doors.shared {
		if to := w.group.idlest(w); to != w {
			to.count.begin() // before it has read of it: the next choice counts this one
			if to.post(letter{fd: fd, peer: peer}) {
				return
			}
			to.count.cancel()
		}
	}
	w.count.begin()
	w.begin(fd, peer)
}

// begin serves a connection that is counted.
func (w *worker) begin(fd int32, peer netip.AddrPort) {
	id, generation, c := w.conns.Get()
	*c = conn{key: key{id, generation}}
	routes := w.group.front.port.routes.Load()
	c.account = account{server: w.server, count: w.count, service: routes.plain, peer: peer, started: w.now}
	if c.service == nil {
		c.service = &noService
	}
	c.pair.Init(fd)
	if w.stage == cutting { // a letter that came late
		w.end(c, endDrained, false)
		return
	}
	header := len(w.set.Trusted) > 0 && w.set.trusts(peer.Addr())
	if !header {
		if why := c.admit(); why != endOpen {
			w.end(c, why, true)
			return
		}
	}
	if header || routes.plain == nil {
		c.early = newPrelude(header)
		w.until(c, w.now.Add(w.set.HeaderTimeout))
		w.control(unix.EPOLL_CTL_ADD, fd, interest, c.mark(reactor.Client))
		return
	}
	w.enter(c)
	// After the backend's, so that the client's first bytes find it connected
	// where both are reported at once.
	if c.key.generation == generation && c.pair.FD(reactor.Client) >= 0 {
		w.control(unix.EPOLL_CTL_ADD, fd, interest, c.mark(reactor.Client))
	}
}

// until sets the deadline of a phase.
func (w *worker) until(c *conn, deadline time.Time) {
	w.wheel.Set(c.key.id+firstTimer, w.ticks(deadline)+1)
}

// ready is called for each event.
func (w *worker) ready(c *conn, side reactor.Side, events uint32) {
	c.pair.Ready(side, readiness(events))
	switch {
	case c.phase == relaying:
		w.relay(c)
	case c.phase == heading:
		w.hear(c)
	case c.phase == connecting && side == reactor.Backend:
		w.answered(c, events)
	}
}

// choose picks, reserves and dials the next backend, or ends the connection.
func (w *worker) choose(c *conn) {
	q := c.query()
	for c.attempts < min(w.set.Attempts, mostAttempts) {
		now := w.now
		if c.attempts > 0 {
			now = time.Now()
		}
		choice := w.server.router.Pick(q, c.tried, now, rand.Uint64())
		if choice.Lacks != "" {
			w.await(c, q, choice)
			return
		}
		if choice.Backend == nil {
			break
		}
		if w.dial(c, choice) {
			return
		}
	}
	w.end(c, c.unserved(), false)
}

// dial begins to connect to the choice. False: that has failed already.
func (w *worker) dial(c *conn, choice route.Choice) bool {
	c.attempt(choice, time.Now())
	fd, err := beginConnect(choice.Backend.Addr)
	if err != nil {
		w.failed(c, choice, os.NewSyscallError("connect", err))
		return false
	}
	c.phase, c.dialed = connecting, choice.Backend
	c.pair.Join(fd)
	w.control(unix.EPOLL_CTL_ADD, fd, interest|unix.EPOLLOUT, c.mark(reactor.Backend))
	w.until(c, c.picked.Add(c.service.connectTimeout(w.set)))
	return true
}

func (w *worker) failed(c *conn, choice route.Choice, err error) {
	c.account.failed(choice, err, time.Now())
	c.tried = append(c.tried, choice.Slot)
}

// choice is the backend that is being dialed, as the router knows it.
func (c *conn) choice() route.Choice {
	return route.Choice{Backend: c.dialed, Slot: c.slot, Reason: c.reason}
}

// answered is called when something has come of a connect.
func (w *worker) answered(c *conn, events uint32) {
	fd := c.pair.FD(reactor.Backend)
	reset := false
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno := socketError(fd)
		// A reset is of a connection that was established.
		if reset = errno == 0 || errno == unix.ECONNRESET || errno == unix.EPIPE; !reset {
			w.redial(c, errno)
			return
		}
	} else if events&unix.EPOLLOUT == 0 {
		return
	} else if connectedToItself(fd, c.dialed.Addr) {
		w.redial(c, unix.ECONNREFUSED)
		return
	}
	c.connected(route.Query{App: c.service.App, Client: c.peer.Addr()}, c.choice(), max(1, w.now.Sub(c.picked)))
	w.preload(c)
	c.phase, c.dialed, c.tried, c.quiet = relaying, nil, nil, w.now.Sub(w.start)
	w.timers(c)
	if reset {
		w.end(c, endBackendReset, true)
		return
	}
	w.relay(c)
}

// redial gives a backend up and tries the next one.
func (w *worker) redial(c *conn, err error) {
	choice := c.choice()
	c.dialed = nil
	closeFD(c.pair.FD(reactor.Backend))
	c.pair.Join(-1)
	w.failed(c, choice, os.NewSyscallError("connect", err))
	w.choose(c)
}

// relay gives the pair its turn.
func (w *worker) relay(c *conn) {
	w.sockets.conn = c
	switch c.pair.Step(&w.sockets, turn) {
	case reactor.Idle:
	case reactor.More:
		if !c.queued {
			c.queued = true
			w.again = append(w.again, c.key)
		}
	case reactor.Closed:
		w.end(c, endClosed, false)
		return
	case reactor.ClientBroke:
		w.end(c, endClientReset, true)
		return
	case reactor.BackendBroke:
		w.end(c, endBackendReset, true)
		return
	case reactor.BackendGone:
		w.end(c, endBackendReset, false)
		return
	}
	in, out := c.pair.Bytes()
	half := c.pair.Half()
	if in+out != c.last || half != c.half {
		c.last, c.quiet = in+out, w.now.Sub(w.start)
		if c.far || half != c.half {
			c.half = half
			w.timers(c)
		}
	}
}

// timers makes the timer look at a connection soon. It is not set for every
// byte: it moves on when it is due and something has moved since.
func (w *worker) timers(c *conn) {
	if c.phase != relaying {
		return // its deadline stands
	}
	c.far = false
	w.wheel.Set(c.key.id+firstTimer, w.after(w.set.sweepEvery()))
}

// expire is called when the timer of a connection is due.
func (w *worker) expire(c *conn) {
	switch c.phase {
	case heading:
		w.end(c, c.cutShort(c.early, os.ErrDeadlineExceeded), false)
		return
	case connecting:
		w.redial(c, syscall.ETIMEDOUT)
		return
	case awaiting:
		return
	}
	if !c.probed {
		c.probed = true
		keepProbing(c.pair.FD(reactor.Backend))
	}
	moved := c.report()
	timeout, why := c.service.idleTimeout(w.set), endIdle
	if c.half && w.set.LingerTimeout < timeout {
		timeout, why = w.set.LingerTimeout, endLinger
	}
	quiet := w.start.Add(c.quiet)
	if w.now.Sub(quiet) >= timeout {
		w.end(c, why, false)
		return
	}
	next := quiet.Add(timeout)
	if soon := w.now.Add(w.set.sweepEvery()); moved && soon.Before(next) {
		next = soon
	}
	c.far = !moved
	w.wheel.Set(c.key.id+firstTimer, w.ticks(next)+1)
}

// keepProbing does for a backend's socket what keepAlive does for a
// listener's: only for connections that last, since most do not.
func keepProbing(fd int32) {
	setSocket(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	setSocket(fd, unix.IPPROTO_TCP, keepIdle, 60)
	setSocket(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15)
}

// report adds what has moved since the last report to the backend's figures.
func (c *conn) report() bool {
	in, out := c.pair.Bytes()
	if in == c.in && out == c.out {
		return false
	}
	c.slot.Relayed(in-c.in, out-c.out)
	c.in, c.out = in, out
	return true
}

// end closes a connection. With reset, whoever has not reset it sees a reset:
// the socket of who has is closed for the kernel already.
func (w *worker) end(c *conn, why end, reset bool) {
	w.sockets.conn = c
	w.dropEarly(c)
	c.pair.Release(&w.sockets)
	if alert := why.alert(); alert != "" {
		_, _ = w.sockets.Write(c.pair.FD(reactor.Client), []byte(alert)) // where it takes no more, it is told nothing
	}
	for side, broke := range [...]end{reactor.Client: endClientReset, reactor.Backend: endBackendReset} {
		fd := c.pair.FD(reactor.Side(side))
		if fd < 0 {
			continue
		}
		if reset && why != broke {
			resetOnClose(fd)
		}
		closeFD(fd)
	}
	w.wheel.Stop(c.key.id + firstTimer)
	if c.slot != nil {
		c.report()
	}
	in, out := c.pair.Bytes()
	c.finish(why, in, out, time.Now())
	w.conns.Put(c.key.id)
	*c = conn{}
	c.pair.Init(-1)
}
