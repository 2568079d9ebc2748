package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/rs/zerolog"
)

const (
	maxBody     = 1 << 20          // bytes of a request body
	readTimeout = 10 * time.Second // for a whole request
	// writeTimeout leaves room for a CPU profile or an execution trace.
	writeTimeout = 2 * time.Minute
	idleTimeout  = 2 * time.Minute
	stopTimeout  = 2 * time.Second // for requests under way when Serve ends
)

// Config of a Server. Without a Token the listener must be on loopback, which
// package config ensures.
type Config struct {
	Token string // bearer token; empty: none
	// Ready says why the POP is not ready, nothing when it is. It must not block.
	Ready func() (reasons []string)
	// Metrics serves GET /metrics.
	Metrics http.Handler
	// Mesh is the other POPs.
	Mesh Mesh
	// Watches serves GET /api/v1/watch.
	Watches Watches
	// Queries serves /api/v1/query.
	Queries Queries
	// Registry takes backends that announce themselves.
	Registry Registry
}

// Server answers the admin API.
type Server struct {
	cfg  Config
	pop  POP
	log  zerolog.Logger
	http *http.Server

	queries chan struct{}   // one for each that runs
	ending  context.Context // ended by end, before the requests under way have to end
	end     context.CancelFunc
}

// New makes a server that does nothing until Serve.
func New(cfg Config, pop POP, logger zerolog.Logger) *Server {
	s := &Server{cfg: cfg, pop: pop, log: logger, queries: make(chan struct{}, mostQueries)}
	s.ending, s.end = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		ConnContext:       withConn,
		ErrorLog:          log.New(debugLines{logger}, "", 0),
	}
	return s
}

// debugLines takes net/http's complaints about single clients.
type debugLines struct{ log zerolog.Logger }

func (d debugLines) Write(p []byte) (int, error) {
	d.log.Debug().Str("err", strings.TrimSpace(string(p))).Msg("api connection")
	return len(p), nil
}

// Serve answers until ctx ends. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.end()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			_ = s.http.Close() // somebody still reads a profile
		}
	})
	err := s.http.Serve(ln)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API on %s: %w", ln.Addr(), err)
}

func (s *Server) handler() http.Handler {
	open := http.NewServeMux() // for load balancers and container engines
	open.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	open.HandleFunc("GET /ready", s.ready)

	closed := http.NewServeMux()
	closed.Handle("GET /metrics", s.cfg.Metrics)
	closed.HandleFunc("GET /api/v1/backends", s.list)
	closed.HandleFunc("POST /api/v1/backends", s.create)
	closed.HandleFunc("GET /api/v1/backends/{id}", s.get)
	closed.HandleFunc("PATCH /api/v1/backends/{id}", s.update)
	closed.HandleFunc("DELETE /api/v1/backends/{id}", s.delete)
	closed.HandleFunc("POST /api/v1/register", s.register)
	closed.HandleFunc("POST /api/v1/heartbeat/{id}", s.heartbeat)
	closed.HandleFunc("GET /api/v1/services", s.services)
	closed.HandleFunc("GET /api/v1/services/{app}", s.service)
	closed.HandleFunc("PATCH /api/v1/services/{app}", s.setService)
	closed.HandleFunc("DELETE /api/v1/services/{app}", s.deleteService)
	closed.HandleFunc("GET /api/v1/explain", s.explain)
	closed.HandleFunc("GET /api/v1/status", s.status)
	closed.HandleFunc("GET /api/v1/load", s.load)
	closed.HandleFunc("GET /api/v1/watch", s.watch)
	closed.HandleFunc("GET /api/v1/query", s.query)
	closed.HandleFunc("POST /api/v1/query", s.query)
	closed.HandleFunc("GET /api/v1/members", s.members)
	closed.HandleFunc("DELETE /api/v1/members/{node}", s.forget)
	closed.HandleFunc("POST /api/v1/leave", s.leave)
	closed.HandleFunc("POST /api/v1/upgrade", s.upgrade)
	closed.HandleFunc("GET /api/v1/keys", s.keys)
	closed.HandleFunc("POST /api/v1/keys", s.addKey)
	closed.HandleFunc("POST /api/v1/keys/{id}/use", s.useKey)
	closed.HandleFunc("DELETE /api/v1/keys/{id}", s.removeKey)
	closed.HandleFunc("GET /api/v1/quarantine", s.quarantine)
	closed.HandleFunc("POST /api/v1/quarantine/release", s.release)
	closed.HandleFunc("POST /api/v1/quarantine/drop", s.drop)
	closed.HandleFunc("GET /api/v1/wg", s.wg)
	closed.HandleFunc("GET /api/v1/wg/files/{name}", s.exportWG)
	closed.HandleFunc("POST /api/v1/wg/rotate", s.rotateWG)
	closed.HandleFunc("GET /api/v1/wg/peers", s.wgPeers)
	closed.HandleFunc("POST /api/v1/wg/peers", s.addWGPeer)
	closed.HandleFunc("DELETE /api/v1/wg/peers/{name}", s.removeWGPeer)
	closed.HandleFunc("GET /api/v1/backup", s.backup)
	closed.HandleFunc("GET /debug/pprof/", s.profiling(pprof.Index))
	closed.HandleFunc("GET /debug/pprof/cmdline", s.profiling(pprof.Cmdline))
	closed.HandleFunc("GET /debug/pprof/profile", s.profiling(pprof.Profile))
	closed.HandleFunc("GET /debug/pprof/symbol", s.profiling(pprof.Symbol))
	closed.HandleFunc("GET /debug/pprof/trace", s.profiling(pprof.Trace))

	// Both muxes answer what they do not know with 404 or 405; ours is JSON.
	guarded := jsonErrors(closed)
	if s.cfg.Token != "" {
		guarded = s.authorized(guarded)
	}
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusForbidden, "", "refused: a browser sent this for another site ("+r.Header.Get("Origin")+")")
	}))
	open.Handle("/", crossOrigin.Handler(guarded))
	if s.cfg.Token != "" {
		return open
	}
	return s.local(open)
}

// local guards a server without a token, which trusts whoever is on this
// machine: a page in somebody's browser is not, even where DNS rebinding makes
// its host name point here.
func (s *Server) local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if ok && isLoopback(local.String()) && !isLoopback(r.Host) {
			fail(w, http.StatusForbidden, "", fmt.Sprintf("host %q is not this machine: ask for localhost or 127.0.0.1", r.Host))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isLoopback says whether host or host:port is localhost or a loopback address.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

func (s *Server) authorized(next http.Handler) http.Handler {
	// Hashes have one length: comparing them tells nothing of the token's.
	want := sha256.Sum256([]byte(s.cfg.Token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 || !strings.EqualFold(scheme, "Bearer") {
			w.Header().Set("WWW-Authenticate", `Bearer realm="edgeproxy"`)
			fail(w, http.StatusUnauthorized, "", "missing or wrong token: send Authorization: Bearer with the POP's EDGEPROXY_API_TOKEN")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// profiling shows what is in memory, secrets included: never without a token.
func (s *Server) profiling(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Token == "" {
			fail(w, http.StatusForbidden, "", "profiling needs a token: set EDGEPROXY_API_TOKEN")
			return
		}
		next(w, r)
	}
}
