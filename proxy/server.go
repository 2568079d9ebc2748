// Package proxy accepts TCP connections and relays each to the backend that
// the router picks.
//
//	srv := proxy.New(proxy.Config{Settings: proxy.Settings{Drain: 30 * time.Second}}, router, geo, log)
//	ln, err := proxy.Listen(ctx, "0.0.0.0:8080")
//	err = srv.Serve(ctx, ln, "myapp") // until ctx ends and the open connections have
//
// For every connection: PROXY header where one is due, may the client connect
// at all (package guard), pick and reserve a backend, connect with a timeout, the next best one where that fails, then
// bytes both ways until both directions have ended. A half-close is passed on
// as a half-close, a reset as a reset, and urgent data not at all. A place is
// taken before the dial and given back exactly once. An idle connection holds
// its two descriptors and no buffer, with Goroutines also two small ones. An
// error from accept never ends the server.
// The package does not choose (package route does) and knows no database.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/proxy/guard"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Geo finds where a client is; the zero Place where nothing is known.
// It is called for every connection: it must not block or allocate.
type Geo interface {
	Lookup(netip.Addr) geo.Place
}

// Settings may be changed while the server runs. Zero values are the defaults.
type Settings struct {
	ConnectTimeout time.Duration  // for one attempt; 0: 2 s
	Attempts       int            // backends tried for one client; 0: 3
	IdleTimeout    time.Duration  // without a byte in either direction; 0: 1 h
	LingerTimeout  time.Duration  // the same once one direction has ended; 0: 60 s
	HeaderTimeout  time.Duration  // for the whole PROXY header; 0: 3 s
	Drain          time.Duration  // how long open connections may go on once Serve's context has ended
	Trusted        []netip.Prefix // from these a PROXY header is required; from all others it is data
	AccessLog      bool           // one line a connection at level info instead of debug
	// MaxConnections pauses accepting at so many open connections, so that
	// clients cannot take the descriptors that the rest of the process needs.
	// 0: no bound.
	MaxConnections int
	Guard          guard.Rules // who may connect; the address of a PROXY header counts
}

func (s Settings) withDefaults() Settings {
	orDuration := func(d *time.Duration, def time.Duration) {
		if *d <= 0 {
			*d = def
		}
	}
	orDuration(&s.ConnectTimeout, 2*time.Second)
	orDuration(&s.IdleTimeout, time.Hour)
	orDuration(&s.LingerTimeout, time.Minute)
	orDuration(&s.HeaderTimeout, 3*time.Second)
	if s.Attempts <= 0 {
		s.Attempts = 3
	}
	return s
}

// trusts says whether a peer has to begin with a PROXY header.
func (s *Settings) trusts(peer netip.Addr) bool {
	peer = peer.WithZone("") // no prefix contains an address with one
	for _, p := range s.Trusted {
		if p.Contains(peer) {
			return true
		}
	}
	return false
}

// Config is what stays the same while the server runs.
type Config struct {
	Settings
	// Relay is how connections are relayed; empty: Auto.
	Relay Relay
	// Rights are waited for where the router lacks one, with strict limits; nil without.
	Rights Rights
	// Overlay reaches backends that the kernel does not; nil: there are none.
	// While it reaches any, Relay has to be Goroutines.
	Overlay Overlay
}

// Relay is a way to relay connections. Both behave the same.
type Relay string

const (
	Auto       Relay = "auto"      // Reactor where there is one
	Reactor    Relay = "reactor"   // epoll, on Linux alone: a worker for each core
	Goroutines Relay = "goroutine" // two goroutines a connection
)

// Available says whether this system has it.
func (r Relay) Available() bool { return r != Reactor || hasReactor }

// Rights may bring a right that the router lacks. Safe for concurrent use.
type Rights interface {
	// Wait asks for a right to a backend and returns when there may be one, or
	// it is known that there is none; the error is ctx's. Urgent: the client can
	// go nowhere else.
	Wait(ctx context.Context, backend string, urgent bool) error
}

// Server relays connections. One Server serves any number of listeners.
type Server struct {
	Metrics   Metrics
	settings  atomic.Pointer[Settings]
	guard     *guard.Guard
	router    *route.Router
	rights    Rights
	geo       Geo
	log       zerolog.Logger
	perClient zerolog.Logger // for what every client can cause: a few lines a second, the metrics have the rest
	dialer    net.Dialer
	overlay   Overlay
	reactor   bool
	groups    groups // of the reactor's workers

	sessions registry
	serving  inService
	given    atomic.Bool   // another process has the listeners
	killed   chan struct{} // closed by Kill
	kill     sync.Once
}

// New makes a server that does nothing until Serve.
func New(cfg Config, router *route.Router, geo Geo, log zerolog.Logger) *Server {
	s := &Server{guard: guard.New(time.Now()), router: router, rights: cfg.Rights, overlay: cfg.Overlay, geo: geo, log: log, killed: make(chan struct{})}
	s.reactor = hasReactor && cfg.Relay != Goroutines
	s.perClient = log.Sample(&zerolog.BurstSampler{Burst: 10, Period: time.Second})
	s.dialer = net.Dialer{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error { return keepAlive(c) }}
	s.Configure(cfg.Settings)
	return s
}

// Configure changes the settings for connections accepted from now on, and
// the timeouts for all.
func (s *Server) Configure(set Settings) {
	set = set.withDefaults()
	s.settings.Store(&set)
	s.guard.Set(set.Guard)
	s.groups.wake()
}

// Active is the number of connections open now.
func (s *Server) Active() int64 { return s.Metrics.Active() }

// Listen opens a TCP listener whose connections have keep-alive on and
// send at once.
func Listen(ctx context.Context, addr string) (*net.TCPListener, error) {
	// Accepted sockets inherit the options of the listener (Linux), which
	// spares four system calls a connection.
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return errors.Join(keepAlive(c), noDelay(c))
	}}
	// Go's listeners are MPTCP ones otherwise: dearer to accept from, without
	// splice, and before Linux 6.10 without the options set here.
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// front is one listener and the connections that came through it.
type front struct {
	app     string
	cut     context.Context   // ends when the connections still open must
	serving sync.WaitGroup    // goroutines of its connections
	jobs    chan *net.TCPConn // to a worker that waits, if there is one
	idle    atomic.Int32      // workers that wait
}

// Serve accepts connections for the app (empty: any backend) until ctx ends,
// then lets open ones finish until Settings.Drain has passed or Kill is
// called, and closes those that are left. It closes ln and the others, which
// are at the same address and come from Files. The error is nil unless the
// listener broke.
func (s *Server) Serve(ctx context.Context, ln *net.TCPListener, app string, others ...*net.TCPListener) error {
	for _, one := range append(others, ln) {
		takeConnections(one)
	}
	if s.reactor {
		return s.serveReactor(ctx, ln, app, others)
	}
	return s.serveGoroutines(ctx, ln, app, others)
}

// Waiting says whether connections wait to be accepted from ln, or from the
// listeners that share its address.
func (s *Server) Waiting(ln *net.TCPListener) bool {
	backlog, err := Backlog(ln)
	return err == nil && backlog > 0 || s.groups.waiting()
}

func (s *Server) serveGoroutines(ctx context.Context, ln *net.TCPListener, app string, others []*net.TCPListener) error {
	outlive := context.WithoutCancel(ctx) // open connections go on when ctx has ended
	cut, cutNow := context.WithCancel(outlive)
	defer cutNow()
	f := &front{app: app, cut: cut, jobs: make(chan *net.TCPConn)}

	var sweeping sync.WaitGroup
	sweepCtx, stopSweep := context.WithCancel(outlive)
	sweeping.Go(func() { s.sweep(sweepCtx) })

	var accepting errgroup.Group
	all := append([]*net.TCPListener{ln}, others...)
	for _, one := range all {
		accepting.Go(func() error { return s.acceptFrom(ctx, one, f) })
	}
	s.serving.add(ln, func() ([]*os.File, error) { return copies(all) })
	defer s.serving.remove(ln)
	err := accepting.Wait()
	close(f.jobs)
	s.drain(f, cutNow)
	stopSweep()
	sweeping.Wait()
	return err
}

// longAgo as a deadline ends every wait on a socket, present and future.
var longAgo = time.Unix(1, 0)

// drain waits for the connections of a listener to end, and ends those that do not.
func (s *Server) drain(f *front, cutNow context.CancelFunc) {
	done := make(chan struct{})
	go func() { f.serving.Wait(); close(done) }()
	deadline := time.NewTimer(s.settings.Load().Drain)
	defer deadline.Stop()
	select {
	case <-done:
		return
	case <-deadline.C:
	case <-s.killed:
	}
	cutNow()
	s.sessions.each(func(c *session) {
		if c.front == f {
			c.end(endDrained, false)
		}
	})
	<-done
}

// Kill ends every drain at once.
func (s *Server) Kill() { s.kill.Do(func() { close(s.killed) }) }

// acceptFrom serves who comes to a listener until ctx ends, and closes it.
func (s *Server) acceptFrom(ctx context.Context, ln *net.TCPListener, f *front) error {
	defer ln.Close()
	woken := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() { _ = ln.SetDeadline(longAgo); close(woken) })
	err := s.acceptAll(ctx, ln, f)
	if !unwatch() {
		<-woken // acceptRest sets another deadline
	}
	if err == nil && !s.given.Load() {
		s.acceptRest(ln, f)
	}
	return err
}

// acceptAll serves every connection until ctx ends.
func (s *Server) acceptAll(ctx context.Context, ln *net.TCPListener, f *front) error {
	pause := pauser{log: s.log}
	for ctx.Err() == nil {
		if s.full() {
			s.Metrics.acceptPauses.Add(1)
			pause.wait(ctx, errTooMany)
			continue
		}
		conn, err := ln.AcceptTCP()
		switch {
		case err == nil:
			pause.reset()
			s.serve(f, conn)
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		default:
			// EMFILE, ENFILE, ENOBUFS, ECONNABORTED …: whatever it is, the
			// next moment may be better, and open connections go on.
			s.Metrics.acceptErrors.Add(1)
			pause.wait(ctx, err)
		}
	}
	return nil
}

// acceptRest serves the connections that clients see as established already,
// or will when the answer to their SYN arrives: closing the listener would
// reset them. It returns when nobody has come for backlogGrace, or on Kill.
func (s *Server) acceptRest(ln *net.TCPListener, f *front) {
	if err := noNewConnections(ln); err != nil {
		s.log.Debug().Err(err).Msg("connections that arrive as the listener closes may be reset")
	}
	const step = backlogGrace / 20
	end := time.Now().Add(backlogMost)
	for quiet := time.Duration(0); quiet < backlogGrace && time.Now().Before(end) && !s.full(); quiet += step {
		select {
		case <-s.killed:
			return
		default:
		}
		_ = ln.SetDeadline(time.Now().Add(step))
		conn, err := ln.AcceptTCP()
		switch {
		case err == nil:
			s.serve(f, conn)
			quiet = 0
		case !errors.Is(err, os.ErrDeadlineExceeded):
			<-time.After(step) // EMFILE and the like: perhaps the next time
		}
	}
}

const (
	backlogGrace = 200 * time.Millisecond // longer than most handshakes take
	backlogMost  = 5 * time.Second        // where new ones cannot be kept out and never pause
)

func (s *Server) full() bool {
	most := s.settings.Load().MaxConnections
	return most > 0 && s.Active() >= int64(most)
}

// serve hands a connection to a worker.
func (s *Server) serve(f *front, conn *net.TCPConn) {
	s.Metrics.begin()
	select {
	case f.jobs <- conn:
	default:
		f.serving.Go(func() { s.work(f, conn) })
	}
}

// idleWorkers is how many workers of a listener wait for another connection.
const idleWorkers = 64

// work handles a connection, then others. A dial needs a deep stack, and
// growing one anew for every connection costs as much as the dial's own code.
func (s *Server) work(f *front, conn *net.TCPConn) {
	for ok := true; ok; {
		s.handle(f, conn)
		if f.idle.Add(1) > idleWorkers {
			f.idle.Add(-1)
			return
		}
		conn, ok = <-f.jobs
		f.idle.Add(-1)
	}
}

var errTooMany = errors.New("maximum number of open connections reached")

// pauser waits between failed accepts, longer each time, and says so once a second.
type pauser struct {
	log   zerolog.Logger
	delay time.Duration
	said  time.Time
}

func (p *pauser) reset() { p.delay = 0 }

func (p *pauser) wait(ctx context.Context, err error) {
	if errors.Is(err, syscall.ECONNABORTED) {
		return // the client has gone; nothing is short
	}
	select {
	case <-ctx.Done():
	case <-time.After(p.next(err)):
	}
}

// next is how long to wait after an error.
func (p *pauser) next(err error) time.Duration {
	p.delay = min(max(2*p.delay, 5*time.Millisecond), 500*time.Millisecond)
	if now := time.Now(); now.Sub(p.said) >= time.Second {
		p.said = now
		p.log.Warn().Err(err).Dur("pause_ms", p.delay).Msg("accepting paused")
	}
	return p.delay
}
