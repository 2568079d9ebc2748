package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/proxy"
	"github.com/edgeproxy/edgeproxy/proxy/certs"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/proxy/route/rights"
)

// start opens everything, in the order of the fields.
func (n *Node) start(ctx context.Context) (err error) {
	n.started = time.Now()
	cfg := n.cfg
	if err := n.succeed(ctx); err != nil {
		return err
	}
	var unlocked error // why there is no lock; a read-only place excuses it
	if n.lock, unlocked = takeLock(cfg.DBPath); errors.Is(unlocked, errLockHeld) {
		return unlocked
	}
	if n.life, err = openLife(cfg, n.opts.Now()); err != nil {
		return err
	}
	p := &part{}
	if p.store, err = n.openStore(ctx); err != nil {
		return err
	}
	n.live.Store(p)
	readOnly := p.store.ReadOnly()
	if readOnly {
		n.log.Warn().Str("db", cfg.DBPath).Msg("database is read-only: serving it, refusing changes")
	}
	if err := n.keepBeside(cfg, unlocked); err != nil {
		return err
	}
	if n.geo == nil {
		if err := n.openGeo(cfg); err != nil {
			return err
		}
	}

	if n.affinity == nil {
		n.affinity = route.NewAffinity(cfg.BindingTTL, cfg.BindingMax)
	}
	n.router = route.NewRouter(n.affinity)
	if cfg.StrictLimits {
		n.router.Strict()
	}
	n.router.Tune(tuning(cfg))
	check, err := defaultCheck(cfg)
	if err != nil {
		return err
	}
	n.here = self(cfg, n.life.Node)
	n.positions.Store(new(positions(cfg)))
	if n.overlay, err = newOverlay(cfg, n.life.Node, n.router, n.log); err != nil {
		return err
	}
	n.overlay.part = n.mesh
	n.watches = newWatches(n.life.Node, n.life.incarnation)
	n.loops, n.app = newLoops(n.life.Node, cfg), cfg.App
	n.vigil = newVigil(n.here, n.life.incarnation, check, n.router, n.overlay, n.log)
	n.vigil.watches = n.watches
	if err := n.paint(ctx, p); err != nil {
		return err
	}
	n.overlay.open(time.Now())
	serve := proxy.Config{Settings: settings(cfg, 0), Relay: proxy.Relay(cfg.Relay), Overlay: n.overlay}
	if cfg.CertDir != "" {
		if n.certs, err = certs.Open(cfg.CertDir, n.log.With().Str("component", "certs").Logger()); err != nil {
			return fmt.Errorf("%s: %w", cfg.Origin("cert_dir"), err)
		}
		serve.Certificates = n.certs
	}
	if n.overlay.userspace() {
		serve.Relay = proxy.Goroutines // there are no descriptors of what goes through our own network stack
	}
	if !serve.Relay.Available() {
		return fmt.Errorf("%s: this system has no epoll: choose goroutine, or auto", cfg.Origin("relay"))
	}
	if cfg.StrictLimits && readOnly {
		return errStrictReadOnly
	}
	if cfg.StrictLimits {
		n.ledger = newLedger(n.life.Node, n.vigil.life, n.router)
		n.ledger.mesh = func() rights.Mesh { return n.mesh().rightsMesh() }
		n.ledger.send = func(peer string, note gossip.Note) { n.mesh().streams.SendNote(peer, note) }
		serve.Rights = n.ledger
	}
	n.server = proxy.New(serve, n.router, n.geo,
		n.log.With().Str("component", "proxy").Logger())

	if err := n.listen(ctx, cfg); err != nil {
		return err
	}
	if err := n.openNames(cfg); err != nil {
		return err
	}
	if err := n.elders.listen(n.older, &n.router.Slots); err != nil {
		return err
	}
	n.addrs = Addrs{Listen: n.front.Addr().String(), API: n.apiFront.Addr().String(), DNS: n.names.addr()}
	n.loops.opened(n.addrs.Listen)
	n.listeners = newListeners(n.life.Node, cfg.App, n.server, n.router, n.affinity, n.log)
	n.listeners.inherited, n.listeners.certs = n.passedOn, n.certs
	n.listeners.resized = func(count int) {
		n.serviceListeners.Store(int64(count))
		n.configure()
	}
	if !readOnly {
		if err := n.share(ctx, p, nil); err != nil {
			return err
		}
		p.picture.tell(ctx, time.Now()) // in place of what a process left that was killed
		n.addrs.Sync = p.mesh.front.Addr().String()
	}
	return nil
}

// announce tells the command line where the POP is.
func (n *Node) announce() error {
	err := writePop(n.cfg.DBPath, api.PopFile{Node: n.life.Node, PID: os.Getpid(),
		Listen: n.addrs.Listen, API: n.addrs.API, Gossip: n.addrs.Gossip, Sync: n.addrs.Sync, DNS: n.addrs.DNS})
	if err != nil && !n.store().ReadOnly() {
		return fmt.Errorf("write the address file: %w", err)
	}
	return nil
}

// keepBeside signs the lock and keeps the name, which only a read-only place excuses.
func (n *Node) keepBeside(cfg *config.Config, unlocked error) error {
	errs := []error{unlocked}
	if unlocked == nil {
		errs = append(errs, n.lock.sign(n.life.Node))
	}
	err := errors.Join(append(errs, n.life.keep(n.store().ReadOnly()))...)
	if err != nil && n.store().ReadOnly() {
		n.log.Warn().Err(err).Msg("nothing can be kept beside a read-only database: no lock, a new name at every start")
		return nil
	}
	return err
}
