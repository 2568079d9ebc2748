package proxy

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// session is one client connection and the backend connection that serves it.
//
//	accepted ── header ── pick ── dial ──┬── relaying ── one direction ended ── ended
//	                        ▲    failed  │
//	                        └────────────┘ (at most Settings.Attempts)
type session struct {
	account
	front   *front
	client  socket
	backend socket

	up, down     direction         // client → backend, backend → client
	open         atomic.Int32      // directions that still run
	backendProxy mesh.ProxyVersion // what the backend is sent first
	ended        atomic.Uint32     // why, once it is known; an end

	shard      uint32    // of the registry, whose lock guards the following
	prev, next *session  // in that shard
	quiet      time.Time // when the last pass that saw something move or end did
	half       bool      // whether that pass saw one ended
}

// handle serves one accepted connection up to the point where both directions
// run, in goroutines of their own: the dial has made this one's stack large,
// and an idle connection must not keep it.
func (s *Server) handle(f *front, conn *net.TCPConn) {
	c := &session{front: f, client: socket{connection: conn}}
	routes := f.port.routes.Load()
	c.account = account{server: s, count: &s.Metrics.counters, service: routes.plain, started: time.Now()}
	set := s.settings.Load()
	c.peer = unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())

	var early *prelude // what came before the choice
	if header := len(set.Trusted) > 0 && set.trusts(c.peer.Addr()); header || routes.plain == nil {
		early = newPrelude(header)
		defer early.free()
	}
	c.serve(routes, early, set)
}

// serve goes on with a connection of which nothing may be due any more.
func (c *session) serve(routes *routes, early *prelude, set *Settings) {
	if c.service == nil {
		c.service = &noService
	}
	why := endOpen
	if early == nil || !early.header {
		why = c.admit()
	}
	if why == endOpen && early != nil {
		why = c.listen(early, routes, set.HeaderTimeout)
	}
	if why == endOpen {
		why = c.enter()
	}
	if why != endOpen {
		c.refuse(why)
		return
	}
	var first []byte
	if early != nil {
		first = early.early()
	}
	c.begin(first, set)
}

// begin chooses a backend and relays, with what has come of the client first.
func (c *session) begin(first []byte, set *Settings) {
	if c.service.tls != nil {
		if why := c.terminate(first, set.HeaderTimeout); why != endOpen {
			c.refuse(why)
			return
		}
		first = nil
	}
	if why := c.connectBackend(c.query(), set); why != endOpen {
		c.refuse(why)
		return
	}
	if v := c.backendProxy; v != mesh.ProxyOff {
		local, _ := c.client.LocalAddr().(*net.TCPAddr)
		first = append(c.greeting(v, unmap(local.AddrPort())), first...)
	}
	c.relay(first)
}

// listen reads what the client has to send before a backend is chosen.
func (c *session) listen(p *prelude, routes *routes, timeout time.Duration) end {
	_ = c.client.SetReadDeadline(time.Now().Add(timeout)) // fails only where the read will
	cut := c.front.cut
	stop := context.AfterFunc(cut, func() { _ = c.client.SetReadDeadline(longAgo) })
	defer func() {
		stop()
		_ = c.client.SetReadDeadline(time.Time{})
	}()
	for {
		n, err := c.client.Read(p.room())
		p.have += n
		if n > 0 {
			if done, why := c.hear(p, routes, nil); done {
				return why
			}
		}
		switch {
		case cut.Err() != nil:
			return endDrained
		case err != nil:
			return c.cutShort(p, err)
		}
	}
}

// connectBackend picks, reserves and dials until a backend answers.
func (c *session) connectBackend(q route.Query, set *Settings) end {
	s := c.server
	var failed [mostAttempts]*route.Slot
	tried := failed[:0]
	for c.attempts < min(set.Attempts, len(failed)) {
		began := c.started
		if c.attempts > 0 {
			began = time.Now()
		}
		choice := s.router.Pick(q, tried, began, rand.Uint64())
		if choice.Lacks != "" {
			s.Metrics.rightWaits.Add(1)
			choice = s.await(c.front.cut, q, choice, tried)
			began = time.Now()
		}
		if choice.Backend == nil && c.front.cut.Err() != nil {
			return endDrained // it was not waited for
		}
		if choice.Backend == nil {
			break
		}
		c.attempt(choice, began)
		conn, rtt, err := s.dial(c.front.cut, choice.Backend.Addr, c.service.connectTimeout(set))
		if err == nil {
			c.backend.connection, c.backendProxy = conn, choice.Backend.ProxyOut
			c.connected(q, choice, rtt)
			return endOpen
		}
		if c.front.cut.Err() != nil {
			c.giveUp(time.Now())
			return endDrained // it was not waited for: that is no failure
		}
		c.failed(choice, err, time.Now())
		tried = append(tried, choice.Slot)
	}
	return c.unserved()
}

// refuse ends a connection that never had a backend.
func (c *session) refuse(why end) {
	c.ended.Store(uint32(why))
	if why.resets() {
		_ = c.client.SetLinger(0)
	} else if alert := why.alert(); alert != "" {
		_ = c.client.SetWriteDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(c.client, alert)
	}
	c.client.Close()
	c.finish()
}

// relay sends the backend what has been read already and runs both directions
// in goroutines of their own.
func (c *session) relay(early []byte) {
	_, _ = c.client.open(), c.backend.open() // nobody has closed them
	c.up.init(c, &c.client, &c.backend, endClientReset, endBackendReset)
	c.down.init(c, &c.backend, &c.client, endBackendReset, endClientReset)
	c.open.Store(2)
	c.server.sessions.add(c)
	if c.front.cut.Err() != nil {
		c.end(endDrained, false) // the cut may have looked before we were there to be seen
	}
	if len(early) > 0 && c.up.write(early) != nil {
		c.end(endBackendReset, true)
	}
	c.front.serving.Add(2)
	go c.up.run()
	go c.down.run()
}

// end makes both directions stop; the first reason given stays. With reset,
// both sides see a reset: it is passed on, and it spares this machine a
// TIME_WAIT for every client that aborts.
//
// It does not close: each direction uses the descriptors of both sockets, and
// one may be waiting to write to the one while it reads the other.
func (c *session) end(why end, reset bool) {
	if !c.ended.CompareAndSwap(uint32(endOpen), uint32(why)) {
		return
	}
	for _, s := range [...]*socket{&c.client, &c.backend} {
		if reset {
			_ = s.SetLinger(0)
		}
		_ = s.SetDeadline(longAgo)
	}
}

// directionDone is called once by each direction; the second one finishes.
func (c *session) directionDone() {
	if c.open.Add(-1) > 0 {
		return
	}
	c.ended.CompareAndSwap(uint32(endOpen), uint32(endClosed))
	c.server.sessions.remove(c)
	c.client.Close()
	c.backend.Close()
	c.finish()
}

// finish is the account's, with the last bytes.
func (c *session) finish() {
	if c.slot != nil {
		c.reportBytes()
	}
	c.account.finish(end(c.ended.Load()), c.up.bytes.Load(), c.down.bytes.Load(), time.Now())
}

// reportBytes adds what has moved since the last report to the backend's
// figures, and says whether anything has. Only check, under the registry's
// lock, and finish, when that cannot see the session any more, call it.
func (c *session) reportBytes() bool {
	in, out := c.up.unreported(), c.down.unreported()
	if in|out == 0 {
		return false
	}
	c.slot.Relayed(in, out)
	return true
}
