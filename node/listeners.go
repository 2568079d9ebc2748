package node

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/certs"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// listenAgain is how long an address that could not be had is left alone.
const listenAgain = time.Second

// listeners are the addresses at which this POP listens for services, as their
// rows say at any moment. The default listener is none of them, but serves its
// app as that one's row says.
//
//	row ── planned ── bound ── served ── row gone: no new connections ── the last one ended
//	          └─ not bound: a fault, which all POPs are told of; tried again
type listeners struct {
	node     string
	server   *proxy.Server
	router   *route.Router
	affinity *route.Affinity
	app      string            // that the default listener serves
	first    *proxy.Port       // the default listener's
	reserved map[string]string // addresses of this POP's own, and what they are
	certs    *certs.Store      // nil: there are none
	resized  func(n int)       // told how many listeners there are
	log      zerolog.Logger
	poked    chan struct{} // size 1: the rows may have changed

	mu        sync.Mutex
	held      bool // an upgrade passes the sockets on: none is opened or closed meanwhile
	inherited map[string][]*net.TCPListener
	open      map[string]*listener
	closing   map[*listener]string // addresses that are let go of
	broken    map[string]error     // addresses at which serving failed, and why; not tried yet since
	of        *mesh.Snapshot       // that they are as
	plan      []planned            // of it
	clashes   faultList            // of the plan
	faults    []mesh.Fault         // of this POP, as all are to know them
	size      int                  // as resized was told
	serving   sync.WaitGroup
	serve     context.Context // ends when the POP drains
}

// listener is one address that is served.
type listener struct {
	ln   *net.TCPListener
	port *proxy.Port
}

func newListeners(node, app string, server *proxy.Server, router *route.Router, affinity *route.Affinity, log zerolog.Logger) *listeners {
	return &listeners{
		node: node, server: server, router: router, affinity: affinity,
		app: app, first: proxy.App(app),
		log:   log.With().Str("component", "services").Logger(),
		poked: make(chan struct{}, 1), resized: func(int) {}, open: map[string]*listener{}, closing: map[*listener]string{}, broken: map[string]error{},
	}
}

// reserved are the addresses that a POP has of its own, and what they are.
func reserved(own Addrs) map[string]string {
	all := map[string]string{own.Listen: "default listener (listen_addr)", own.API: "API (api_addr)", own.Gossip: "membership (gossip_addr)", own.Sync: "record stream (sync_addr)", own.DNS: "DNS server (dns_addr)"}
	delete(all, "")
	return all
}

// begin opens the listeners for the first time, beside what the POP has of its
// own. What they serve goes on until serve ends, and as long as a drain takes.
func (l *listeners) begin(serve context.Context, own Addrs) {
	l.serve, l.reserved = serve, reserved(own)
	l.reconcile(serve)
}

// poke has the rows looked at soon.
func (l *listeners) poke() {
	if l == nil {
		return // before there are any
	}
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// run keeps the listeners as the rows say until ctx ends.
func (l *listeners) run(ctx context.Context) {
	again := time.NewTicker(listenAgain)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.poked:
		case <-again.C: // what could not be had, and certificates, come and go by themselves
		}
		l.reconcile(ctx)
	}
}

// wait returns when the last connection to a listener has ended. Nothing is
// opened any more by then: reconcile sees that serve has ended.
func (l *listeners) wait() {
	l.faulty() // a reconcile that is under way ends first
	l.serving.Wait()
}

// reconcile opens, changes and closes what the rows ask for.
func (l *listeners) reconcile(ctx context.Context) {
	snap := l.router.Snapshot()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held || l.serve.Err() != nil {
		return
	}
	changed := l.of != snap
	if changed {
		l.of = snap
		l.plan, l.clashes = planListeners(snap.Services, l.reserved)
		l.affinity.SetAppTTLs(appTTLs(snap.Services))
		l.setDefault(snap)
		l.closeLocked()
	}
	faults := faultList{slices.Clone(l.clashes.all), l.clashes.more}
	for _, p := range l.plan {
		one := l.open[p.addr]
		switch {
		case one != nil && changed:
			l.server.Set(one.port, p.services...)
		case one == nil && !l.openLocked(ctx, p, &faults):
			continue
		}
		l.uncertified(p, &faults)
	}
	for _, lns := range l.inherited { // of services that are not there any more
		for _, ln := range lns {
			ln.Close()
		}
	}
	l.inherited = nil
	l.saidLocked(faults.list())
	if changed {
		l.server.Keep(l.appsLocked())
	}
	if n := len(l.open) + len(l.closing); n != l.size {
		l.size = n
		l.resized(n)
	}
}

// closeLocked closes what no service asks for any more.
func (l *listeners) closeLocked() {
	for addr, one := range l.open {
		if !slices.ContainsFunc(l.plan, func(p planned) bool { return p.addr == addr }) {
			one.port.Close()
			delete(l.open, addr)
			l.closing[one] = addr
			l.log.Info().Str("listen", addr).Msg("no service listens here any more; connections that are open go on")
		}
	}
}

// appsLocked are those that are served, the default listener's too.
func (l *listeners) appsLocked() map[string]bool {
	apps := map[string]bool{l.app: true}
	for _, p := range l.plan {
		for _, s := range p.services {
			apps[s.App] = true
		}
	}
	return apps
}

// uncertified adds the names for which TLS cannot be terminated at an address.
func (l *listeners) uncertified(p planned, faults *faultList) {
	for _, s := range p.services {
		if s.Mode != mesh.TLSTerminate {
			continue
		}
		if l.certs == nil {
			faults.add(s.App, p.addr, "there are no certificates: set EDGEPROXY_CERT_DIR to a directory that has them")
			continue
		}
		var without []string
		for _, name := range s.SNI {
			if !l.certs.Has(name) {
				without = append(without, name)
			}
		}
		if len(without) > 0 {
			faults.add(s.App, p.addr, "EDGEPROXY_CERT_DIR has no certificate for "+andMore(without))
		}
	}
}

// setDefault has the default listener serve its app as the app's row says.
func (l *listeners) setDefault(snap *mesh.Snapshot) {
	if l.app == "" {
		return
	}
	s := snap.Service(l.app)
	s.Mode, s.Listen, s.SNI, s.ALPN = mesh.TCP, nil, nil, nil
	l.server.Set(l.first, s)
}

// openLocked listens at an address and serves it, from the first connection on:
// of an address that was inherited some wait already. False: it cannot be had.
func (l *listeners) openLocked(ctx context.Context, p planned, faults *faultList) bool {
	for _, addr := range l.closing {
		if overlap(addr, p.addr) {
			return false // in a moment it is free: that is no fault
		}
	}
	lns, err := l.inherited[p.addr], l.broken[p.addr]
	delete(l.inherited, p.addr)
	delete(l.broken, p.addr)
	if err == nil && len(lns) == 0 {
		var ln *net.TCPListener
		if ln, err = proxy.Listen(ctx, p.addr); err == nil {
			lns = []*net.TCPListener{ln}
		}
	}
	if err != nil {
		for _, s := range p.services {
			faults.add(s.App, p.addr, sentence(err))
		}
		return false
	}
	one := &listener{ln: lns[0], port: proxy.NewPort()}
	l.server.Set(one.port, p.services...)
	l.open[p.addr] = one
	serve := l.serve
	l.serving.Go(func() {
		err := l.server.Serve(serve, one.ln, one.port, lns[1:]...)
		l.ended(p.addr, one, err)
	})
	l.serving.Go(func() {
		select {
		case <-one.port.Rested():
		case <-serve.Done():
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.closing, one)
	})
	l.log.Info().Str("listen", p.addr).Str("app", p.services[0].App).Str("mode", string(p.services[0].Mode)).Msg("listening for a service")
	return true
}

// ended notes that an address is not served any more: after an error that is a
// fault, until it is tried again.
func (l *listeners) ended(addr string, one *listener, err error) {
	if err != nil {
		l.log.Error().Err(err).Str("listen", addr).Msg("service not served here any more")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.closing, one)
	if l.open[addr] == one {
		delete(l.open, addr)
		l.broken[addr] = err
	}
}

// saidLocked notes this POP's faults, and logs what is new.
func (l *listeners) saidLocked(faults []mesh.Fault) {
	now := make(map[mesh.Fault]bool, len(faults))
	for i := range faults {
		faults[i].POP = l.node
		now[faults[i]] = true
	}
	was := make(map[mesh.Fault]bool, len(l.faults))
	for _, f := range l.faults {
		if was[f] = true; !now[f] {
			l.log.Info().Str("app", f.App).Str("listen", f.Listen).Str("was", f.Error).Msg("a fault of a service is over")
		}
	}
	for _, f := range faults {
		if !was[f] {
			l.log.Warn().Str("app", f.App).Str("listen", f.Listen).Str("err", f.Error).Msg("a service cannot be served as its row says")
		}
	}
	l.faults = faults
}

// hold keeps the listeners as they are until it is told otherwise, and returns
// the sockets of each, by address, for the process that takes over.
func (l *listeners) hold() (map[string][]*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
	files := map[string][]*os.File{}
	for addr, one := range l.open {
		some, err := l.server.Files(one.ln)
		if errors.Is(err, proxy.ErrNotServed) {
			continue // it was opened just now: the next process opens it anew
		}
		if files[addr] = some; err != nil {
			return files, err
		}
	}
	return files, nil
}

// sockets are the listeners of the services that are served.
func (l *listeners) sockets() (lns []*net.TCPListener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.open {
		lns = append(lns, one.ln)
	}
	return lns
}

func (l *listeners) release() {
	l.mu.Lock()
	l.held = false
	l.mu.Unlock()
	l.poke()
}

// faulty are the faults of this POP.
func (l *listeners) faulty() []mesh.Fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.faults
}

// sentence is why an address cannot be had, without the address.
func sentence(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "the address is in use by another program (ss -ltnp shows it)"
	case errors.Is(err, syscall.EACCES):
		return "permission denied: ports below 1024 need root, CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this machine does not have that IP address"
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	return err.Error()
}

// appTTLs are the affinity TTLs of the services that say one.
func appTTLs(services []mesh.Service) map[string]time.Duration {
	ttls := map[string]time.Duration{}
	for _, s := range services {
		if s.AffinityTTL != nil {
			ttls[s.App] = *s.AffinityTTL
		}
	}
	return ttls
}
