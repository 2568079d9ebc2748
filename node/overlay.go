package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
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

func (o *overlay) fail(err error) {
	if o.broken != err.Error() {
		o.log.Error().Err(err).Msg("overlay does not work: serving without it")
	}
	o.broken = err.Error()
}

// open makes the device, of the first kind that works. The rest of the POP asks
// for it before it serves: which kind it is says how connections are relayed.
func (o *overlay) open(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.openLocked(now)
}

func (o *overlay) openLocked(now time.Time) {
	if o.off() || o.closed || o.device != nil || now.Before(o.retry) {
		return
	}
	o.retry = now.Add(overlayAgain)
	if err := o.keys.open(); err != nil {
		o.fail(err)
		return
	}
	modes := []device.Mode{device.Mode(o.cfg.WG)}
	if o.cfg.WG == "auto" {
		modes = []device.Mode{device.Kernel, device.TUN, device.Netstack}
	}
	if o.mode != "" {
		modes = []device.Mode{o.mode} // connections are relayed as it needs
	}
	var failures []string
	for _, mode := range modes {
		cfg := device.Config{
			Mode: mode, Interface: o.cfg.WGInterface, Port: uint16(o.cfg.WGPort), PrivateKey: o.keys.private(),
			Addresses: o.addresses(), MTU: o.cfg.WGMTU, Node: o.node,
		}
		o.noSix = ""
		d, err := device.Open(cfg, o.log)
		if errors.Is(err, device.ErrNoIPv6) { // half of an overlay is better than none
			o.noSix = err.Error()
			o.log.Warn().Err(err).Msg("overlay without IPv6")
			cfg.Addresses = o.possible(cfg.Addresses)
			d, err = device.Open(cfg, o.log)
		}
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s: %v", mode, err))
			if elsewhere(err) {
				continue
			}
			break
		}
		if len(failures) > 0 {
			o.log.Info().Str("mode", string(mode)).Strs("instead_of", failures).Msg("overlay")
		}
		o.device, o.mode, o.broken, o.addrs, o.plan = d, mode, "", cfg.Addresses, wg.Plan{}
		o.reach.Store(nil)
		if mode == device.Netstack {
			o.within.Store(true)
			o.dialing.Store(d)
		}
		o.log.Info().Str("mode", string(mode)).Str("interface", o.cfg.WGInterface).Uint16("port", d.Port()).Msg("overlay up")
		if m := o.part(); m != nil && m.ring != nil {
			m.retagSoon() // the key may be new
		}
		return
	}
	o.fail(errors.New(strings.Join(failures, "; ")))
}

// elsewhere says whether another kind of device may do. Where the interface, the
// port or an address is another's, a device beside it would only hide that.
func elsewhere(err error) bool {
	for _, lacks := range []error{device.ErrNoKernel, device.ErrNoTUN, device.ErrRights, device.ErrUnsupported} {
		if errors.Is(err, lacks) {
			return true
		}
	}
	return false
}

// addresses are this POP's by its row; before there is one, the one that
// follows from its name.
func (o *overlay) addresses() []netip.Prefix {
	own, _ := o.rows.Load().own(o.node)
	own.Name, own.Six = o.node, o.networks.POPSix(o.node)
	if !own.Four.IsValid() || !o.networks.Contains(own.Four) {
		own.Four = netip.Addr{}
	}
	return o.layout.Plan(o.node, wg.Roster{POPs: []wg.POP{own}}).Addresses
}

// possible is what of the addresses the device can have.
func (o *overlay) possible(addrs []netip.Prefix) []netip.Prefix {
	if o.noSix == "" {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// six is this POP's IPv6 address; none where the machine has no IPv6.
func (o *overlay) six() netip.Addr {
	if o.noSix != "" {
		return netip.Addr{}
	}
	return o.networks.POPSix(o.node)
}

// userspace says whether backends in the overlay are reached through a stack in
// this process only.
func (o *overlay) userspace() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mode == device.Netstack || o.mode == "" && (o.cfg.WG == "auto" || o.cfg.WG == string(device.Netstack))
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

// close takes the device down for good: another process may have it now.
func (o *overlay) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.dropLocked()
}

// dropLocked closes the device.
func (o *overlay) dropLocked() {
	if o.endSync != nil {
		o.endSync()
		o.endSync, o.syncOf = nil, nil
	}
	if o.device != nil {
		o.dialing.Store(nil)
		if err := o.device.Close(); err != nil {
			o.log.Warn().Err(err).Msg("overlay not taken down whole")
		}
		o.device = nil
	}
}

// withdraw has this POP's row removed, of a time when the overlay was on.
func (o *overlay) withdraw() {
	if _, there := o.rows.Load().own(o.node); there {
		o.ask(&wg.POP{})
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
	o.plan.Addresses = plan.Addresses
	o.listenSync(ctx, m)
	return errors.Join(append(errs, o.mend(now))...)
}

// incumbents are who held which key before. This POP has its own, whoever else
// may have claimed it while it was off.
func (o *overlay) incumbents() wg.Roster {
	own := wg.POP{Name: o.node}
	own.Key, own.Next = o.keys.public()
	before := wg.Roster{POPs: []wg.POP{own}, Devices: o.roster.Devices}
	for _, p := range o.roster.POPs {
		if p.Name != o.node && p.Key != own.Key && p.Next != own.Key {
			before.POPs = append(before.POPs, p)
		}
	}
	return before
}

// settled is the roster as it was last settled, for what is asked of it.
func (o *overlay) settled() wg.Roster {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.roster
}

// complain logs problems that are new.
func (o *overlay) complain(problems []wg.Problem) {
	for _, p := range problems {
		if !slices.Contains(o.problems, p) {
			o.log.Warn().Str("peer", p.Name).Str("what", p.Message).Msg("overlay claim refused")
		}
	}
}

// heardNewKeys notes which POPs use the key that they said they would change to:
// their traffic goes there from then on, before their row says so.
func (o *overlay) heardNewKeys(rows *overlayRows) {
	if !slices.ContainsFunc(rows.pops, func(p wg.POP) bool { return p.Next != (wg.Key{}) }) {
		clear(o.changed)
		return
	}
	peers, err := o.device.Peers()
	if err != nil {
		return
	}
	for _, p := range rows.pops {
		if slices.ContainsFunc(peers, func(s wg.Status) bool { return s.Key == p.Next && !s.Handshake.IsZero() }) {
			o.changed[p.Name] = p.Next
		}
	}
}

// seen is the rows with what is known of the POPs beside them. One that has
// left the mesh is not among them; of one that has no row yet counts what its
// tags say, without which the record streams could not go through the overlay.
func (o *overlay) seen(rows *overlayRows, members []membership.Member, streams []gossip.PeerStatus, now time.Time) (pops []wg.POP) {
	heard, lease := map[string]time.Time{}, map[string]time.Duration{}
	for _, r := range o.router.Reported(now) {
		heard[r.POP] = r.At
	}
	for _, s := range streams {
		if !s.Connected {
			lease[s.Node] = overlayLost
		}
	}
	status := map[string]string{}
	for _, x := range members {
		status[x.Name] = x.Status
		if _, has := rows.own(x.Name); !has && !x.Self {
			if p, ok := o.tagged(x); ok {
				pops = append(pops, p)
			}
		}
	}
	pops = append(pops, rows.pops...)
	if o.cfg.SyncOver == "overlay" {
		o.changedKeys(pops, members)
	}
	if _, has := rows.own(o.node); !has { // it is on its way
		own := wg.POP{Name: o.node, Region: o.cfg.Region, Topology: o.layout.Topology, Endpoint: o.endpoint(members), Claimed: math.MaxInt64}
		own.Key, own.Next = o.keys.public()
		own.Six = o.six()
		pops = append(pops, own)
	}
	pops = slices.DeleteFunc(pops, func(p wg.POP) bool { return status[p.Name] == membership.StatusLeft })
	for i := range pops {
		p := &pops[i]
		at, known := heard[p.Name]
		p.Alive = p.Name == o.node || status[p.Name] == membership.StatusAlive && (!known || now.Sub(at) < cmp.Or(lease[p.Name], overlayLease))
		p.Changed = p.Next != (wg.Key{}) && o.changed[p.Name] == p.Next
	}
	return pops
}

// speak has this POP's row written where it is not what it should be.
func (o *overlay) speak(m *replication, rows *overlayRows, roster wg.Roster, members []membership.Member) {
	now, next := o.keys.public()
	old, there := rows.own(o.node)
	own := old
	own.Name, own.Region, own.Key, own.Next = o.node, o.cfg.Region, now, next
	own.Six, own.Topology, own.Endpoint = o.six(), o.layout.Topology, o.endpoint(members)
	own.Alive, own.Changed = false, false
	if len(m.waiting()) == 0 { // else it does not know yet what others have
		held := slices.ContainsFunc(roster.POPs, func(p wg.POP) bool { return p.Name == o.node && p.Four.IsValid() })
		if !held {
			own.Four = o.networks.POPFour(o.node, rows.taken(o.node))
		}
	}
	if own.Claimed == 0 {
		if m.untimed() {
			return // a claim with a wrong date would hold against earlier ones
		}
		own.Claimed = m.now()
	}
	if there && own == old {
		o.ask(nil)
		return
	}
	o.ask(&own)
}

// endpoint is where the others send to: the setting's, else the address that
// this POP has for them in the ring.
func (o *overlay) endpoint(members []membership.Member) netip.AddrPort {
	switch {
	case o.cfg.WGEndpoint == "none":
		return netip.AddrPort{}
	case o.cfg.WGEndpoint != "":
		at, _ := netip.ParseAddrPort(o.cfg.WGEndpoint) // package config has checked it
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	for _, x := range members {
		if x.Self && x.Addr.IsValid() {
			return netip.AddrPortFrom(x.Addr.Addr(), o.device.Port())
		}
	}
	return netip.AddrPort{}
}

// Reaches says whether an address is reached through DialContext only: it is in
// the overlay, and the overlay is in this process. It is asked for every connection.
func (o *overlay) Reaches(a netip.Addr) bool {
	if !o.within.Load() {
		return false
	}
	if o.networks.Contains(a) {
		return true
	}
	if routes := o.reach.Load(); routes != nil {
		for _, r := range *routes {
			if r.Contains(a) {
				return true
			}
		}
	}
	return false
}

// DialContext connects through the overlay in this process.
func (o *overlay) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := o.dialing.Load()
	if d == nil {
		return nil, errors.New("the overlay does not work now")
	}
	return d.DialContext(ctx, network, addr)
}
