package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/edgeproxy/edgeproxy/wg/device"
	"github.com/rs/zerolog"
)

const (
	overlayEvery = time.Second      // members and handshakes are looked at
	overlayAgain = 10 * time.Second // a device that does not open is tried
	// overlayLease is how old a POP's last word may be for it to carry the
	// packets of others: its place is another's long before membership is sure.
	overlayLease = 4 * time.Second
	// overlayLost is the same where the record stream to it has ended, as all do
	// of a process that was killed.
	overlayLost = 1500 * time.Millisecond
)

// overlay is this POP's WireGuard: a device that is what the plan made of the
// rows and the members says, and this POP's own row. It outlives what can be
// replaced of the POP. A device that does not work leaves the POP serving.
type overlay struct {
	node     string
	cfg      *config.Config
	networks wg.Networks
	layout   wg.Layout
	router   *route.Router
	part     func() *replication // nil where the database is read-only
	log      zerolog.Logger
	keys     overlayKeys
	direct   net.Dialer // of record streams
	rows     atomic.Pointer[overlayRows]
	poked    chan struct{}                     // size 1: rows or members changed
	want     atomic.Pointer[wg.POP]            // this POP's row as it should be, of no name where it should be gone; nil: it is as it should be
	wanted   chan struct{}                     // size 1: want has changed
	unsaid   atomic.Pointer[string]            // why want is not written
	dialing  atomic.Pointer[device.Device]     // what connections in this process go through; nil: it does not work now
	within   atomic.Bool                       // the overlay is in this process: the kernel knows no way there, or a wrong one
	reach    atomic.Pointer[[]netip.Prefix]    // networks behind plain devices
	peerAt   atomic.Pointer[map[string]string] // of record streams: where they go through the overlay, by where they would go without

	rotating sync.Mutex // one change of the key at a time

	mu       sync.Mutex
	device   *device.Device // nil while it does not work
	mode     device.Mode    // of the device, also while it is gone
	broken   string         // why it does not work
	closed   bool
	retry    time.Time
	noSix    string         // why it has no IPv6; empty: it has
	addrs    []netip.Prefix // that the device has
	plan     wg.Plan        // that it follows
	roster   wg.Roster
	problems []wg.Problem
	looked   time.Time           // at the device's peers
	silent   map[wg.Key]*silence // POPs with which no handshake comes about
	changed  map[string]wg.Key   // keys that POPs are changing to and were heard with
	echoes   map[string]*echo    // by name
	endSync  func()              // of the record streams' listener in the device

	syncOf *replication   // whose listener that is
	syncAt []netip.Prefix // and at which addresses
}

// newOverlay opens nothing.
func newOverlay(cfg *config.Config, node string, router *route.Router, log zerolog.Logger) (*overlay, error) {
	networks, err := wg.ParseNetworks(cfg.WGNetworks)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cfg.Origin("wg_networks"), err)
	}
	o := &overlay{
		node: node, cfg: cfg, networks: networks, router: router, log: log.With().Str("component", "overlay").Logger(),
		layout: wg.Layout{Topology: wg.Topology(cfg.WGTopology), Hubs: cfg.WGHubs, Networks: networks},
		direct: net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}},
		poked:  make(chan struct{}, 1), wanted: make(chan struct{}, 1), changed: map[string]wg.Key{}, silent: map[wg.Key]*silence{}, echoes: map[string]*echo{},
	}
	o.rows.Store(&overlayRows{})
	o.within.Store(cfg.WG == string(device.Netstack))
	o.keys.path = cfg.DBPath + ".wg"
	return o, nil
}

func (o *overlay) off() bool { return o.cfg.WG == "off" }

// read takes over what the tables hold.
func (o *overlay) read(pops, peers [][]any) {
	if last := o.rows.Load(); last.same(pops, peers) {
		return // the tables are read at every change of any
	}
	o.rows.Store(readOverlay(pops, peers))
	o.poke()
}

// poke has the overlay looked at soon.
func (o *overlay) poke() {
	select {
	case o.poked <- struct{}{}:
	default:
	}
}

// run keeps device and row as they should be, until ctx ends; then the device is gone.
func (o *overlay) run(ctx context.Context) {
	defer o.close()
	var echoing sync.WaitGroup
	defer echoing.Wait()
	if !o.off() {
		echoing.Go(func() { o.echo(ctx) })
	}
	ticker := time.NewTicker(overlayEvery)
	defer ticker.Stop()
	for {
		if o.off() {
			o.withdraw()
		} else {
			o.reconcile(ctx, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-o.poked:
		case <-ticker.C:
		}
	}
}

// reconcile does once what follows from the rows, the members and the clock.
func (o *overlay) reconcile(ctx context.Context, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.device != nil {
		select {
		case err := <-o.device.Failed():
			o.dropLocked()
			o.fail(err)
			o.retry = now.Add(overlayEvery)
		default:
		}
	}
	o.openLocked(now)
	m := o.part()
	if o.device == nil || m == nil {
		if m == nil && o.device != nil {
			o.fail(errors.New("the database is read-only, so this POP takes no part in a mesh"))
		}
		if own, there := o.rows.Load().own(o.node); there && own.Endpoint.IsValid() {
			own.Endpoint = netip.AddrPort{} // nobody should take it for a hub meanwhile
			o.ask(&own)
		}
		return
	}
	if err := o.follow(ctx, m, now); err != nil && ctx.Err() == nil {
		if o.broken != err.Error() {
			o.log.Error().Err(err).Msg("overlay is not as planned, tried on")
		}
		o.broken = err.Error()
		return
	}
	o.broken = ""
}

// follow makes the device what the plan says now.
func (o *overlay) follow(ctx context.Context, m *replication, now time.Time) error {
	rows := o.rows.Load()
	members := m.ring.Members()
	o.heardNewKeys(rows)
	pops := o.seen(rows, members, m.streams.Peers(), now)
	roster, problems := wg.Settle(pops, rows.devices, o.networks, o.incumbents())
	problems = append(slices.Clone(rows.problems), problems...)
	for _, p := range roster.POPs {
		if p.Topology != "" && p.Topology != o.layout.Topology {
			problems = append(problems, wg.Problem{Name: p.Name, Message: fmt.Sprintf("plans by %s, this POP by %s: give all of them the same --wg-topology", p.Topology, o.layout.Topology)})
		}
	}
	o.complain(problems)
	o.speak(m, rows, roster, members)
	o.roster, o.problems = roster, problems
	plan := o.layout.Plan(o.node, roster)
	o.streamsThrough(roster, members)
	if len(plan.Addresses) == 0 {
		return errors.New("this POP has no address in the overlay: neither IPv6 on this machine nor a free IPv4 address")
	}
	return o.apply(ctx, m, plan, now)
}

// apply changes the device from the plan that it follows. Peers come first: one
// that is revoked goes, whatever else does not work.
func (o *overlay) apply(ctx context.Context, m *replication, plan wg.Plan, now time.Time) error {
	changes := wg.Diff(o.plan, plan)
	if err := o.device.Configure(changes); err != nil {
		return err
	}
	for _, c := range changes {
		o.log.Debug().Str("peer", c.Name).Stringer("key", c.Key).Bool("removed", c.Remove).Str("allowed_ips", fmt.Sprint(c.AllowedIPs)).Msg("overlay peer")
	}
	o.plan.Peers = plan.Peers
	var errs []error // each is tried again, and keeps nothing else back
	if addrs := o.possible(plan.Addresses); !slices.Equal(addrs, o.addrs) {
		err := o.device.SetAddresses(addrs)
		if errs = append(errs, err); err == nil {
			o.addrs = addrs
			o.log.Info().Str("addresses", fmt.Sprint(addrs)).Msg("overlay addresses")
		}
	}
	if plan.Forwards != o.plan.Forwards {
		err := o.device.SetForwarding(plan.Forwards)
		if errs = append(errs, err); err == nil {
			o.plan.Forwards = plan.Forwards
		}
	}
	if !slices.Equal(plan.Routes, o.plan.Routes) {
		err := o.device.SetRoutes(plan.Routes)
		if errs = append(errs, err); err == nil {
			o.plan.Routes = plan.Routes
		}
		o.reach.Store(&plan.Routes)
	}
	o.listenSync(ctx, m)
	return errors.Join(append(errs, o.mend(now))...)
}
