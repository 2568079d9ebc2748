package proxy

import (
	"crypto/tls"
	"maps"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/sni"
)

// Port is what the connections that come to one address are served as. It may
// change while it is served: connections that are there go on as they began.
// Safe for concurrent use.
type Port struct {
	routes atomic.Pointer[routes]
	closed chan struct{}
	close  sync.Once
	rested chan struct{}
	rest   sync.Once
}

// Rested is closed when nothing listens at the port's address for it any more.
func (p *Port) Rested() <-chan struct{} { return p.rested }

func (p *Port) atRest() { p.rest.Do(func() { close(p.rested) }) }

// Close ends the accepting at the port's address, and not the connections that
// are there: those go on until they end, or the server does.
func (p *Port) Close() { p.close.Do(func() { close(p.closed) }) }

// NewPort is one that serves nobody until it is Set.
func NewPort() *Port {
	p := &Port{closed: make(chan struct{}), rested: make(chan struct{})}
	p.routes.Store(&routes{names: &sni.Table[*service]{}})
	return p
}

// routes are one state of a Port.
type routes struct {
	plain *service             // nil: clients name whom they want, in a TLS handshake
	names *sni.Table[*service] // else
}

// App is a Port that serves an app (empty: any backend) and of which no service
// says anything.
func App(name string) *Port {
	p := NewPort()
	p.routes.Store(&routes{plain: &service{Service: mesh.Service{App: name}}})
	return p
}

// Set changes what a port is served as: one service with mode TCP, or any number
// with others, which are told apart by name. Of two with one name the first has
// it. None at all: every client is refused.
func (s *Server) Set(p *Port, services ...mesh.Service) {
	r := &routes{}
	var entries []sni.Entry[*service]
	for _, v := range services {
		one := s.services.of(v, s)
		if !v.Mode.TLS() {
			r.plain = one
			break
		}
		for _, name := range v.SNI {
			entries = append(entries, sni.Entry[*service]{Pattern: name, Value: one})
		}
	}
	if r.plain == nil {
		r.names = sni.NewTable(entries)
	}
	p.routes.Store(r)
}

// service is a mesh.Service as it is served.
type service struct {
	mesh.Service
	tls  *tls.Config // of TLSTerminate
	open *atomic.Int64
}

// services are those of a server by app. The zero value is ready.
type services struct {
	mu    sync.Mutex
	known map[asMode]*service
	open  map[string]*atomic.Int64 // connections, by app
}

// asMode names a service at ports of one kind: the POP's default one serves an
// app as it is, whatever its own ports do.
type asMode struct {
	app string
	tls bool
}

// of is the service as it is served: the same one while nothing about it
// changes, so that TLS sessions can be resumed, and with the same count of
// connections for ever.
func (all *services) of(v mesh.Service, s *Server) *service {
	all.mu.Lock()
	defer all.mu.Unlock()
	if reflect.DeepEqual(v, mesh.Service{App: v.App, Mode: v.Mode}) {
		return &service{Service: v} // nothing is said of it: nothing is counted
	}
	key := asMode{v.App, v.Mode.TLS()}
	if old := all.known[key]; old != nil && reflect.DeepEqual(old.Service, v) {
		return old
	}
	if all.known == nil {
		all.known, all.open = map[asMode]*service{}, map[string]*atomic.Int64{}
	}
	if all.open[v.App] == nil {
		all.open[v.App] = new(atomic.Int64)
	}
	one := &service{Service: v, open: all.open[v.App]}
	if v.Mode == mesh.TLSTerminate {
		one.tls = s.tlsConfig(v)
	}
	all.known[key] = one
	return one
}

// Keep forgets all services but these, as far as they have no connections.
func (s *Server) Keep(apps map[string]bool) {
	s.services.mu.Lock()
	defer s.services.mu.Unlock()
	maps.DeleteFunc(s.services.known, func(key asMode, _ *service) bool { return !apps[key.app] })
	maps.DeleteFunc(s.services.open, func(app string, open *atomic.Int64) bool { return !apps[app] && open.Load() == 0 })
}

// ServiceConnections is how many connections each service has open.
func (s *Server) ServiceConnections() map[string]int64 {
	s.services.mu.Lock()
	defer s.services.mu.Unlock()
	counts := make(map[string]int64, len(s.services.open))
	for app, open := range s.services.open {
		counts[app] = open.Load()
	}
	return counts
}

// enter counts a connection, unless there are as many as there may be. Of a
// port of which no service says anything nothing is counted.
func (v *service) enter() bool {
	if v.open == nil {
		return true
	}
	if n := v.open.Add(1); v.MaxConnections > 0 && n > v.MaxConnections {
		v.open.Add(-1)
		return false
	}
	return true
}

func (v *service) leave() {
	if v.open != nil {
		v.open.Add(-1)
	}
}

func (v *service) connectTimeout(set *Settings) time.Duration {
	if v.ConnectTimeout > 0 {
		return v.ConnectTimeout
	}
	return set.ConnectTimeout
}

func (v *service) idleTimeout(set *Settings) time.Duration {
	if v.IdleTimeout > 0 {
		return v.IdleTimeout
	}
	return set.IdleTimeout
}
