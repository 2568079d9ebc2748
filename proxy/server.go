// Package proxy accepts TCP connections and relays each to the backend that
// the router picks.
//
//	srv := proxy.New(proxy.Config{Settings: proxy.Settings{Drain: 30 * time.Second}}, router, geo, log)
//	ln, err := proxy.Listen(ctx, "0.0.0.0:8080")
//	err = srv.Serve(ctx, ln, proxy.App("myapp")) // until ctx ends and the open connections have
//
// For every connection: PROXY header where one is due, may the client connect
// at all (package guard), which of several services it names in a TLS handshake
// (package sni), pick and reserve a backend, connect with a timeout, the next best one where that fails, then
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
	HeaderTimeout  time.Duration  // for a PROXY header and a TLS ClientHello, where they are due, and for a handshake; 0: 3 s
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
	// Certificates are for services that terminate TLS; nil: there are none.
	Certificates Certificates
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
	certs     Certificates
	services  services
	reactor   bool
	groups    groups // of the reactor's workers

	sessions registry
	sweeping sweeper
	serving  inService
	killed   chan struct{} // closed by Kill
	kill     sync.Once
}

// New makes a server that does nothing until Serve.
func New(cfg Config, router *route.Router, geo Geo, log zerolog.Logger) *Server {
	s := &Server{guard: guard.New(time.Now()), router: router, rights: cfg.Rights, overlay: cfg.Overlay, certs: cfg.Certificates, geo: geo, log: log, killed: make(chan struct{})}
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
	first   *net.TCPListener // that it is named by
	port    *Port
	cut     context.Context   // ends when the connections still open must
	serving sync.WaitGroup    // goroutines of its connections
	jobs    chan *net.TCPConn // to a worker that waits, if there is one
	idle    atomic.Int32      // workers that wait
}

// Serve accepts connections and serves them as the port says until ctx ends,
// or the port is closed. Once ctx has ended it lets open ones finish until Settings.Drain has passed or Kill is
// called, and closes those that are left. It closes ln and the others, which
// are at the same address and come from Files. The error is nil unless the
// listener broke.
func (s *Server) Serve(ctx context.Context, ln *net.TCPListener, port *Port, others ...*net.TCPListener) error {
	defer port.atRest()
	for _, one := range append(others, ln) {
		takeConnections(one)
	}
	if s.reactor {
		return s.serveReactor(ctx, ln, port, others)
	}
	return s.serveGoroutines(ctx, ln, port, others)
}

// Waiting says whether connections wait to be accepted from ln, or from the
// listeners that share its address.
func (s *Server) Waiting(ln *net.TCPListener) bool {
	backlog, err := Backlog(ln)
	return err == nil && backlog > 0 || s.groups.waiting()
}

func (s *Server) serveGoroutines(ctx context.Context, ln *net.TCPListener, port *Port, others []*net.TCPListener) error {
	cut, cutNow := context.WithCancel(context.WithoutCancel(ctx)) // open connections go on when ctx has ended
	defer cutNow()
	f := &front{first: ln, port: port, cut: cut, jobs: make(chan *net.TCPConn)}

	defer s.sweep()()
	accepts, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	watching.Go(func() {
		select {
		case <-port.closed:
			stop()
		case <-accepts.Done():
		}
	})
	var accepting errgroup.Group
	all := append([]*net.TCPListener{ln}, others...)
	for _, one := range all {
		accepting.Go(func() error { return s.acceptFrom(accepts, one, f) })
	}
	s.serving.add(ln, func() ([]*os.File, error) { return copies(all) })
	defer s.serving.remove(ln)
	err := accepting.Wait()
	port.atRest()
	close(f.jobs)
	alone := ctx // of a port that was closed alone connections go on
	if err != nil {
		alone = accepts
	}
	stop()
	ended := make(chan struct{})
	go func() { f.serving.Wait(); close(ended) }()
	s.drain(alone, ended, func() {
		cutNow()
		s.endSessions(f)
	})
	return err
}

// longAgo as a deadline ends every wait on a socket, present and future.
var longAgo = time.Unix(1, 0)

// drain waits until the connections of a listener have ended, and when ctx has
// ended and the time is over has those cut that have not.
func (s *Server) drain(ctx context.Context, ended <-chan struct{}, cut func()) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	case <-s.killed:
	}
	deadline := time.NewTimer(s.settings.Load().Drain)
	defer deadline.Stop()
	select {
	case <-ended:
		return
	case <-deadline.C:
	case <-s.killed:
	}
	cut()
	<-ended
}

// endSessions ends the connections of a listener that goroutines relay.
func (s *Server) endSessions(f *front) {
	s.sessions.each(func(c *session) {
		if c.front == f {
			c.end(endDrained, false)
		}
	})
}

// Kill ends every drain at once.
func (s *Server) Kill() { s.kill.Do(func() { close(s.killed) }) }
