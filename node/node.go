// Package node builds one POP out of the other packages, runs it, and shuts it
// down in order.
//
//	n := node.New(cfg, node.Options{Version: "1.0.0"}, log)
//	go func() { <-n.Ready(); fmt.Println("listening on", n.Addrs().Listen) }()
//	err := n.Run(ctx) // until ctx ends and open connections have finished
//
// Start: lock, name, database, countries, routing picture, listeners, mesh,
// address file, traffic. Stop: not ready, no new connections, open ones finish
// until the drain deadline, API, mesh, address file, database, lock. Run holds nothing
// when it returns. A Node is a value: tests and the lab build several in one
// process, each with a database of its own. Flags, signals and exit codes are
// the business of cmd/edgeproxy.
package node

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/internal/handover"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/certs"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

// Options are what does not come from the configuration.
type Options struct {
	Version string           // shown in status and metrics
	Now     func() time.Time // this machine's clock as the records have it; default time.Now

	// Via says where this POP reaches a mesh address, host:port, of another:
	// the lab puts relays between its POPs, which it can cut. nil: there.
	Via func(addr string) string

	// Successor is the command that runs the next generation of this POP, from
	// the binary as it is on the disk then; nil: this one cannot be upgraded.
	Successor func() *exec.Cmd
	// Query is the command that reads a QueryRequest and writes a QueryReply, and
	// is killed when ctx ends; nil: no queries are run.
	Query func(ctx context.Context) *exec.Cmd
	// Estate is what the generation before, or systemd, has passed on; nil: nothing.
	Estate *handover.Estate
}

// Node is one POP.
type Node struct {
	opts Options
	log  zerolog.Logger
	succession
	cfg    *config.Config                // as started with; what may change since lives where it is used
	latest atomic.Pointer[config.Config] // as last reloaded

	started  time.Time
	draining atomic.Bool
	aborted  chan struct{}
	abort    sync.Once
	ready    chan struct{} // closed once traffic is served

	patience  patience
	stuck     atomic.Pointer[string]                    // the loops that are, or empty
	positions atomic.Pointer[map[geo.Region]geo.Vector] // of the regions, by configuration

	// Made by start, in this order; stop undoes them in reverse.
	lock             *lock
	life             *life
	damage           []string // that was found when it was opened
	affinity         *route.Affinity
	registered       registryCounts
	here             mesh.POP // this POP as the configuration describes it
	admin                     // countries, router, checks, loops and the part that can be replaced; makes the Node an api.POP
	server           *proxy.Server
	ledger           *ledger // nil without strict limits
	overlay          *overlay
	watches          *watches
	front            *net.TCPListener
	others           []*net.TCPListener            // at the same address, inherited
	passedOn         map[string][]*net.TCPListener // the services' listeners, inherited
	listeners        *listeners
	serviceListeners atomic.Int64 // how many of them there are
	certs            *certs.Store // nil: there are none
	apiFront         *net.TCPListener
	names            *names // nil: no DNS
	addrs            Addrs
	end              context.CancelFunc // begins the orderly end
}

// Addrs are the addresses in use, with the ports that were chosen.
type Addrs struct {
	Listen string // of the default service
	API    string
	Gossip string // of membership; empty without a mesh
	Sync   string // of the record streams; likewise
	DNS    string // empty where there is none
}

// New makes a POP that does nothing until Run.
func New(cfg *config.Config, opts Options, log zerolog.Logger) *Node {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	n := &Node{opts: opts, log: log, cfg: cfg, ready: make(chan struct{}), aborted: make(chan struct{}), patience: usualPatience}
	n.heirs, n.settled = make(chan heir), make(chan struct{})
	n.latest.Store(cfg)
	return n
}

// Ready is closed when the POP serves traffic.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Addrs are valid once Ready is closed.
func (n *Node) Addrs() Addrs { return n.addrs }

// Name is this POP's name in the mesh, valid once Ready is closed.
func (n *Node) Name() string { return n.life.Node }

// Abort ends a drain at once, cutting the connections that are open.
func (n *Node) Abort() { n.abort.Do(func() { close(n.aborted) }) }

// Run serves until ctx ends, then drains. The error says why the POP could not
// start, or what broke; it is nil after an orderly end.
func (n *Node) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, n.stop()) }()
	ctx, n.end = context.WithCancel(ctx)
	defer n.end()
	if err := n.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to end before it had begun: an orderly end
		}
		return err
	}

	// What must outlive the drain runs until the proxy is done.
	support, stopSupport := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSupport()
	var behind sync.WaitGroup
	part := n.live.Load()
	if m := part.mesh; m != nil {
		ringEnded, err := m.join(support, n.will)
		if err != nil {
			return err
		}
		n.addrs.Gossip = m.ring.Addr().String()
		behind.Go(func() {
			if err := <-ringEnded; err != nil {
				n.log.Error().Err(err).Msg("out of the mesh: serving with what is known")
			}
		})
	}
	if n.ledger != nil {
		behind.Go(func() { n.ledger.run(support) })
	}
	behind.Go(func() { n.overlay.run(support) })
	n.loops.opened(n.addrs.Listen, n.addrs.API, n.addrs.Gossip, n.addrs.Sync, n.addrs.DNS)
	if err := n.announce(); err != nil {
		stopSupport()
		behind.Wait()
		return err
	}
	part.run(support, n.cfg.DBReload)
	behind.Go(func() {
		n.watch(support)
		n.live.Load().wait()
	})
	behind.Go(func() { _ = n.geo.Run(support) }) // ends with support, and only then
	behind.Go(func() { n.sweepAffinity(support) })
	if n.certs != nil {
		behind.Go(func() { _ = n.certs.Run(support) }) // ends with support, and only then
	}
	behind.Go(func() { n.vigil.run(support) })
	// Not behind: also who drains for an upgrade can be told to end at once.
	served, killer := make(chan struct{}), sync.WaitGroup{}
	killer.Go(func() {
		select {
		case <-n.aborted:
			n.server.Kill()
		case <-served:
		}
	})
	if n.will.Kept {
		n.server.GiveAway(n.front)
	}

	g, gctx := errgroup.WithContext(ctx)
	n.listeners.begin(gctx, n.addrs)
	behind.Go(func() { n.listeners.run(support) })
	g.Go(func() error {
		defer stopSupport() // the API answers until the last connection is gone
		defer n.listeners.wait()
		return n.server.Serve(gctx, n.front, n.listeners.first, n.others...)
	})
	if n.names != nil {
		behind.Go(func() { n.names.watch(support) })
		g.Go(func() error { return n.names.serve(gctx, support.Done()) })
	}
	apiEnded := make(chan struct{})
	g.Go(func() error {
		defer close(apiEnded)
		cfg := api.Config{Token: string(n.cfg.APIToken), Ready: n.notReady, Metrics: n.metrics(), Mesh: n, Watches: n.watches, Queries: n, Registry: n}
		return api.New(cfg, n, n.log.With().Str("component", "api").Logger()).Serve(support, n.apiFront)
	})
	g.Go(func() error {
		return n.passOn(gctx, func() {
			n.watches.end("a new process takes this POP over")
			stopSupport()
			behind.Wait()
			<-apiEnded
		})
	})
	if part.mesh != nil {
		g.Go(func() error { return n.yield(gctx, part.mesh.taken) })
	}
	g.Go(func() error {
		<-gctx.Done()
		n.draining.Store(true)
		n.watches.end("this POP drains")
		if n.retired.Load() {
			return nil // the POP goes on, elsewhere
		}
		notify(daemon.SdNotifyStopping)
		n.log.Info().Int64("connections", n.server.Active()).Msg("draining")
		return nil
	})
	close(n.ready)
	notify(daemon.SdNotifyReady)
	if n.opts.Estate.Succeeds() {
		if err := n.opts.Estate.Serving(n.without...); err != nil {
			n.log.Warn().Err(err).Msg("the process before this one does not hear that it is over")
		}
	}
	n.log.Info().Str("node", n.life.Node).Str("region", n.cfg.Region).Str("listen", n.addrs.Listen).Str("api", n.addrs.API).
		Str("dns", n.addrs.DNS).Str("db", n.store().Path()).Int("backends", len(n.router.Snapshot().Backends)).
		Dur("start_ms", time.Since(n.started)).Msg("serving")
	err = g.Wait()
	close(served)
	killer.Wait()
	if !n.retired.Load() {
		n.upgrading.Lock() // a process that was to take over must not find this one gone, and do so
	}
	stopSupport()
	behind.Wait()
	return err
}

// stop closes what start opened, whatever start got to.
func (n *Node) stop() error {
	var errs []error
	for _, lns := range n.passedOn {
		n.others = append(n.others, lns...)
	}
	for _, ln := range append(n.others, n.front, n.apiFront) {
		if ln != nil {
			_ = ln.Close() // closed already after an orderly end
		}
	}
	n.names.close()
	if n.retired.Load() {
		return nil // the rest has gone before, or is the next generation's
	}
	if n.overlay != nil {
		n.overlay.close() // already after an orderly end
	}
	errs = append(errs, n.closeLive())
	if n.addrs != (Addrs{}) {
		_ = removePop(n.cfg.DBPath) // may be on a read-only disk
	}
	n.lock.release()
	return errors.Join(errs...)
}

// closeLive closes the part that works now, if there is one.
func (n *Node) closeLive() error {
	p := n.live.Load()
	switch {
	case p == nil:
		return nil
	case p.ended == nil || p.wait():
		return p.close()
	}
	return errors.New("the database could not be closed: what holds it is stuck")
}

// notReady says why traffic should not be sent here.
func (n *Node) notReady() []string {
	var reasons []string
	select {
	case <-n.ready:
	default:
		reasons = append(reasons, "starting")
	}
	if n.draining.Load() {
		reasons = append(reasons, "draining")
	}
	if stuck := n.stuck.Load(); stuck != nil && *stuck != "" {
		reasons = append(reasons, "no progress: "+*stuck)
	} else if err := n.picture().err(); err != nil { // whose lock the stuck may hold
		reasons = append(reasons, err.Error())
	}
	if m := n.mesh(); m != nil {
		reasons = append(reasons, m.notReady()...)
	}
	return reasons
}
