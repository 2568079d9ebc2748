package proxy

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/internal/exhausted"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// session is one client connection and the backend connection that serves it.
//
//	accepted ── header ── pick ── dial ──┬── relaying ── one direction ended ── ended
//	                        ▲    failed  │
//	                        └────────────┘ (at most Settings.Attempts)
type session struct {
	server  *Server
	front   *front
	client  socket
	backend socket
	slot    *route.Slot
	picked  time.Time // when the place on slot was taken

	up, down direction     // client → backend, backend → client
	open     atomic.Int32  // directions that still run
	ended    atomic.Uint32 // why, once it is known; an end

	shard      uint32    // of the registry, whose lock guards the following
	prev, next *session  // in that shard
	quiet      time.Time // when the last pass that saw something move or end did
	half       bool      // whether that pass saw one ended

	// For the access log.
	peer     netip.AddrPort // the client's address: the socket's or the header's
	country  string
	region   geo.Region
	chosen   string // backend id
	reason   route.Reason
	started  time.Time
	connect  time.Duration
	attempts int
}

// end is how a connection ended.
type end uint32

const (
	endOpen          end = iota
	endClosed            // both directions ended with FIN
	endClientReset       // the client reset it or vanished
	endBackendReset      // the backend did
	endIdle              // nothing moved for Settings.IdleTimeout
	endLinger            // nothing moved for Settings.LingerTimeout after a half-close
	endDrained           // cut at the drain deadline
	endNoBackend         // none was healthy and below its limit
	endConnectFailed     // no backend answered
	endBadHeader         // no PROXY header, or a wrong one, from a trusted prefix
	ends
)

var endNames = [ends]string{"open", "closed", "client_reset", "backend_reset", "idle_timeout",
	"linger_timeout", "drained", "no_backend", "connect_failed", "bad_proxy_header"}

func (e end) String() string { return endNames[e] }

// handle serves one accepted connection up to the point where both directions
// run, in goroutines of their own: the dial has made this one's stack large,
// and an idle connection must not keep it.
func (s *Server) handle(f *front, conn *net.TCPConn) {
	c := &session{server: s, front: f, client: socket{TCPConn: conn}, started: time.Now()}
	set := s.settings.Load()
	c.peer = unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())

	var early []byte // what came with the PROXY header
	if len(set.Trusted) > 0 && set.trusts(c.peer.Addr()) {
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		var why end
		if early, why = c.header(*buf, set.HeaderTimeout); why != endOpen {
			c.refuse(why)
			return
		}
	}

	place := s.geo.Lookup(c.peer.Addr())
	c.country, c.region = place.Country, place.Region
	q := route.Query{App: f.app, Client: c.peer.Addr(), Place: place, Waits: s.rights != nil}
	if why := c.connectBackend(q, set); why != endOpen {
		c.refuse(why)
		return
	}
	c.relay(early)
}

// header reads the PROXY header that the peer has to send, and returns what
// came with it.
func (c *session) header(buf []byte, timeout time.Duration) (early []byte, why end) {
	_ = c.client.SetReadDeadline(time.Now().Add(timeout)) // fails only where the read will
	cut := c.front.cut
	stop := context.AfterFunc(cut, func() { _ = c.client.SetReadDeadline(longAgo) })
	from, early, err := readHeader(c.client, buf)
	stop()
	_ = c.client.SetReadDeadline(time.Time{})
	switch {
	case cut.Err() != nil:
		return nil, endDrained
	case err != nil:
		c.server.perClient.Warn().Err(err).Stringer("client", c.peer).Msg("PROXY header refused")
		return nil, endBadHeader
	case from.IsValid():
		c.peer = unmap(from)
	}
	return early, endOpen
}

// connectBackend picks, reserves and dials until a backend answers.
func (c *session) connectBackend(q route.Query, set *Settings) end {
	s := c.server
	var failed [10]*route.Slot // Settings.Attempts is at most this
	tried := failed[:0]
	for c.attempts < min(set.Attempts, len(failed)) {
		began := c.started
		if c.attempts > 0 {
			began = time.Now()
		}
		choice := s.router.Pick(q, tried, began, rand.Uint64())
		if choice.Lacks != "" {
			choice = c.await(q, choice, tried)
			began = time.Now()
		}
		if choice.Backend == nil && c.front.cut.Err() != nil {
			return endDrained // it was not waited for
		}
		if choice.Backend == nil {
			break
		}
		c.attempts++
		c.picked = began
		c.slot, c.chosen, c.reason = choice.Slot, choice.Backend.ID, choice.Reason
		conn, rtt, err := s.dial(c.front.cut, choice.Backend.Addr, set.ConnectTimeout)
		if err == nil {
			c.backend.TCPConn, c.connect = conn, rtt
			choice.Slot.Connected(rtt)
			s.Metrics.observeConnect(rtt)
			s.router.Bind(q, choice, c.started)
			return endOpen
		}
		choice.Slot.Release(time.Since(began))
		c.slot = nil
		if c.front.cut.Err() != nil {
			return endDrained // it was not waited for: that is no failure
		}
		if !exhausted.Is(err) { // nor is a lack of our own
			if out := s.router.Failed(choice, time.Now()); out > 0 {
				s.log.Warn().Err(err).Str("backend", choice.Backend.ID).Dur("for_ms", out).Msg("backend ejected: its last connects failed")
			}
		}
		s.perClient.Warn().Err(err).Str("backend", choice.Backend.ID).Stringer("client", c.peer).Int("attempt", c.attempts).Msg("connect to backend failed")
		tried = append(tried, choice.Slot)
	}
	if c.attempts == 0 {
		c.reason = route.ReasonNone
		s.perClient.Warn().Stringer("client", c.peer).Str("app", q.App).Msg("no backend: none is healthy, not draining and below its hard limit")
		return endNoBackend
	}
	return endConnectFailed
}

// rightWait is how long a client waits for rights, in all, before it goes to a
// farther backend or is refused. A right is a round trip away.
const rightWait = time.Second

// await picks again whenever there may be a right to what the choice lacked.
func (c *session) await(q route.Query, choice route.Choice, tried []*route.Slot) route.Choice {
	s := c.server
	s.Metrics.rightWaits.Add(1)
	ctx, cancel := context.WithTimeout(c.front.cut, rightWait)
	defer cancel()
	for choice.Lacks != "" {
		q.Waits = s.rights.Wait(ctx, choice.Lacks, choice.Urgent) == nil
		choice = s.router.Pick(q, tried, time.Now(), rand.Uint64())
	}
	return choice
}

func (s *Server) dial(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (*net.TCPConn, time.Duration, error) {
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(timeout))
	defer cancel()
	// Not DialTCP, which has no way to leave the local address out: it binds
	// the socket to port 0 first, for which the kernel searches a port that is
	// free towards everybody (measured: 900 µs a connect with 20,000 in use).
	conn, err := s.dialer.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, time.Since(began), err
	}
	return conn.(*net.TCPConn), time.Since(began), nil
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// refuse ends a connection that never had a backend.
func (c *session) refuse(why end) {
	c.ended.Store(uint32(why))
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

// finish gives the place back and tells what happened.
func (c *session) finish() {
	s := c.server
	why := end(c.ended.Load())
	if c.slot != nil {
		c.reportBytes()
		c.slot.Release(time.Since(c.picked))
	}
	s.Metrics.active.Add(-1)
	s.Metrics.ended[why].Add(1)

	level := s.log.Debug
	if s.settings.Load().AccessLog {
		level = s.log.Info
	}
	e := level()
	if !e.Enabled() {
		return
	}
	e.Stringer("client", c.peer).Str("country", c.country).Str("region", string(c.region)).
		Str("backend", c.chosen).Str("reason", string(c.reason)).Int("attempts", c.attempts).
		Int64("bytes_in", c.up.bytes.Load()).Int64("bytes_out", c.down.bytes.Load()).
		Dur("connect_ms", c.connect).Dur("took_ms", time.Since(c.started)).
		Stringer("end", why).Msg("connection")
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
