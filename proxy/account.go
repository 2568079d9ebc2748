package proxy

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/internal/exhausted"
	"github.com/edgeproxy/edgeproxy/proxy/guard"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// account is what is known and counted of one client's connection, whichever
// way it is relayed.
type account struct {
	server  *Server
	count   *counters
	service *service       // that serves it
	inside  bool           // and counts it
	hello   *hello         // of a TLS client; nil: it has none
	local   netip.AddrPort // where it connected to, by its PROXY header
	slot    *route.Slot    // where a place is taken, or nil
	seat    guard.Seat     // the client's own
	picked  time.Time      // when it was

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
	endDenied            // by the access lists
	endTooMany           // the client had as many connections as it may
	endTooFast           // the client opened them faster than it may
	endBadHello          // no TLS ClientHello, or a wrong one, where one is due
	endUnknownName       // no service has the name that it asks for
	endHandshake         // the TLS handshake failed
	endServiceFull       // the service had as many connections as it may
	ends
)

var endNames = [ends]string{"open", "closed", "client_reset", "backend_reset", "idle_timeout",
	"linger_timeout", "drained", "no_backend", "connect_failed", "bad_proxy_header",
	"denied", "too_many_connections", "too_many_new_connections",
	"bad_client_hello", "unknown_name", "tls_handshake_failed", "service_full"}

func (e end) String() string { return endNames[e] }

// mostAttempts bounds Settings.Attempts.
const mostAttempts = 10

// admit asks whether the client may connect; endOpen: it may.
func (a *account) admit() end {
	var verdict guard.Verdict
	if a.seat, verdict = a.server.guard.Admit(a.peer.Addr(), a.started); verdict == guard.Admitted {
		return endOpen
	}
	why := [...]end{guard.Denied: endDenied, guard.TooMany: endTooMany, guard.TooFast: endTooFast}[verdict]
	a.server.perClient.Warn().Stringer("client", a.peer).Stringer("end", why).Msg("connection refused")
	return why
}

// enter counts the connection at its service; endOpen: it may go on.
func (a *account) enter() end {
	if a.inside = a.service.enter(); a.inside {
		return endOpen
	}
	a.server.perClient.Warn().Stringer("client", a.peer).Str("app", a.service.App).Int64("max_connections", a.service.MaxConnections).Msg("connection refused: the service has no room")
	return endServiceFull
}

// take takes over what a PROXY header names.
func (a *account) take(from proxied) {
	if from.src.IsValid() {
		a.peer, a.local = unmap(from.src), unmap(from.dst)
	}
}

// query is who asks for what; it also finds where the client is.
func (a *account) query() route.Query {
	place := a.server.geo.Lookup(a.peer.Addr())
	a.country, a.region = place.Country, place.Region
	return route.Query{App: a.service.App, Client: a.peer.Addr(), Place: place, Waits: a.server.rights != nil}
}

// attempt books the choice as the next to be dialed.
func (a *account) attempt(choice route.Choice, now time.Time) {
	a.attempts++
	a.picked = now
	a.slot, a.chosen, a.reason = choice.Slot, choice.Backend.ID, choice.Reason
}

// connected books that the choice has answered.
func (a *account) connected(q route.Query, choice route.Choice, rtt time.Duration) {
	a.connect = rtt
	choice.Slot.Connected(rtt)
	a.count.observeConnect(rtt)
	a.server.router.Bind(q, choice, a.started)
}

// giveUp gives back the place of an attempt of which nothing is known.
func (a *account) giveUp(now time.Time) {
	a.slot.Release(now.Sub(a.picked))
	a.slot = nil
}

// failed books that the choice has not answered, and gives its place back.
func (a *account) failed(choice route.Choice, err error, now time.Time) {
	s := a.server
	a.giveUp(now)
	if !exhausted.Is(err) { // a lack of our own says nothing of the backend
		if out := s.router.Failed(choice, now); out > 0 {
			s.log.Warn().Err(err).Str("backend", choice.Backend.ID).Dur("for_ms", out).Msg("backend ejected: its last connects failed")
		}
	}
	s.perClient.Warn().Err(err).Str("backend", choice.Backend.ID).Stringer("client", a.peer).Int("attempt", a.attempts).Msg("connect to backend failed")
}

// unserved is how a connection ends for which there is no further choice.
func (a *account) unserved() end {
	if a.attempts > 0 {
		return endConnectFailed
	}
	a.reason = route.ReasonNone
	a.server.perClient.Warn().Stringer("client", a.peer).Str("app", a.service.App).Msg("no backend: none is healthy, not draining and below its hard limit")
	return endNoBackend
}

// badHeader books that the client's PROXY header was refused.
func (a *account) badHeader(err error) end {
	a.server.perClient.Warn().Err(err).Stringer("client", a.peer).Msg("PROXY header refused")
	return endBadHeader
}

// finish gives the place back and tells what happened; in and out are all
// bytes of the connection. It is called once, by whoever ends it.
func (a *account) finish(why end, in, out int64, now time.Time) {
	s := a.server
	if a.slot != nil {
		a.slot.Release(now.Sub(a.picked))
	}
	if a.inside {
		a.service.leave()
	}
	s.guard.Leave(a.peer.Addr(), a.seat)
	a.count.active.Add(-1)
	a.count.ended[why].Add(1)

	level := s.log.Debug
	if s.settings.Load().AccessLog {
		level = s.log.Info
	}
	e := level()
	if !e.Enabled() {
		return
	}
	if a.service.App != "" {
		e.Str("app", a.service.App)
	}
	if a.hello != nil {
		e.Str("sni", a.hello.name)
	}
	e.Stringer("client", a.peer).Str("country", a.country).Str("region", string(a.region)).
		Str("backend", a.chosen).Str("reason", string(a.reason)).Int("attempts", a.attempts).
		Int64("bytes_in", in).Int64("bytes_out", out).
		Dur("connect_ms", a.connect).Dur("took_ms", now.Sub(a.started)).
		Stringer("end", why).Msg("connection")
}

// rightWait is how long a client waits for rights, in all, before it goes to a
// farther backend or is refused. A right is a round trip away.
const rightWait = time.Second

// await picks again whenever there may be a right to what the choice lacked.
func (s *Server) await(ctx context.Context, q route.Query, choice route.Choice, tried []*route.Slot) route.Choice {
	ctx, cancel := context.WithTimeout(ctx, rightWait)
	defer cancel()
	for choice.Lacks != "" {
		q.Waits = s.rights.Wait(ctx, choice.Lacks, choice.Urgent) == nil
		choice = s.router.Pick(q, tried, time.Now(), rand.Uint64())
	}
	return choice
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
