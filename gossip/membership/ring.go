// Package membership knows who is in the mesh: serf on memberlist, for
// membership only.
//
//	ring, err := membership.New(membership.Config{
//		Node: "sa-1", Bind: netip.MustParseAddrPort("0.0.0.0:7946"),
//		Keys: keys, Join: []string{"us.example.net:7946"}, Snapshot: "members.snapshot",
//		Tags: map[string]string{"region": "sa", membership.NonceTag: nonce},
//	}, log)
//	go ring.Run(ctx)             // until ctx ends; a failure, not a departure, to the others
//	<-ring.Started()             // or Run has failed
//	for range ring.Changed() { peers = ring.Members() }
//	ring.Leave(ctx)              // before ending ctx: the others see "left" at once
//
// A node looks for its seeds for ever, with fresh name look-ups, and again
// when it has become alone or a seed is missing from the mesh, so that two
// halves that began apart find each other. A restarted node needs no seed: the
// snapshot remembers the others. Members that fail are tried every second.
//
// What arrives may be hostile: streams, dials and logs are bounded, and the two
// frames on which memberlist panics are kept out. Any agent that speaks serf's protocol and has a key
// is a member, whatever its tags. No record, event or query of ours travels
// here. It does not choose a name, keep keys or act on a conflict of names:
// Conflicts tells the caller.
package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
)

const (
	// eventSlots is more than serf's event goroutine can send between our last
	// look and its end: at each event it notices the shutdown with chance 1/2.
	eventSlots = 256

	// packetSize fits the smallest IPv6 packet (1280 bytes) with its headers,
	// so that tunnels need not cut it up.
	packetSize = 1232

	// maxAwareness bounds how much a node that doubts its own health slows its
	// probes: memberlist's 8 makes one that is cut off take minutes to see it.
	maxAwareness = 2

	// suspicionMax bounds how long a suspicion that nobody shares lasts.
	suspicionMax = 2

	// retransmit is how often each node passes a piece of news on, by log10 of
	// the nodes. With memberlist's 4 one node of five in some hundred partitions
	// missed who is back, until the next full exchange.
	retransmit = 6

	broadcastTimeout = 2 * time.Second
	leavePropagation = time.Second
	reapInterval     = 15 * time.Second
)

// Linger is the longest that timers of serf and memberlist outlive Run, unless
// Config.Timing makes probes slower than usual. They can do nothing any more;
// but a testing/synctest bubble does not end before them: sleep that long.
const Linger = 10 * time.Second

// What a caller may branch on.
var (
	ErrNotRunning    = errors.New("membership is not running")
	ErrUnknownMember = errors.New("no such member")
	ErrAlive         = errors.New("the member is alive")
	ErrUnencrypted   = errors.New("keys can be changed, but encryption not switched on or off, while running: restart")
)

// Ring is this node's view of the mesh. Its methods are safe for concurrent use.
type Ring struct {
	cfg     Config
	log     zerolog.Logger
	library *log.Logger // serf's and memberlist's
	seeds   []seed
	keyring *memberlist.Keyring // nil: unencrypted

	started   chan struct{}
	changed   chan struct{} // size 1: for the caller
	changes   atomic.Uint64 // counts events, so that Members knows its copy is old
	watch     chan struct{} // size 1: for the log and the snapshot
	joinNow   chan struct{} // size 1: for the joiner
	erased    chan struct{} // size 1: serf has a member less
	sightings chan sighting // size 16: found under memberlist's lock, which must not wait; more are dropped, they come again
	conflicts chan Conflict // size 4, the same

	members atomic.Pointer[view]
	tagging sync.Mutex // one SetTags at a time: serf does not lock its tags

	mu         sync.Mutex
	serf       *serf.Serf
	bound      netip.AddrPort
	advertised netip.AddrPort
	tags       map[string]string
	waiting    string
	begun      bool // Run was called
	leaving    bool
	ending     bool // no more calls
	calls      sync.WaitGroup
}

// New checks the configuration and names every problem. It opens nothing.
func New(cfg Config, logger zerolog.Logger) (*Ring, error) {
	if !cfg.Bind.IsValid() {
		cfg.Bind = netip.AddrPortFrom(netip.IPv4Unspecified(), DefaultPort)
	}
	seeds, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	cfg.Timing = cfg.Timing.withDefaults()
	r := &Ring{
		cfg: cfg, seeds: seeds,
		log:       logger.With().Str("component", "membership").Logger(),
		library:   log.New(newLogWriter(logger), "", 0),
		started:   make(chan struct{}),
		changed:   make(chan struct{}, 1),
		watch:     make(chan struct{}, 1),
		joinNow:   make(chan struct{}, 1),
		erased:    make(chan struct{}, 1),
		sightings: make(chan sighting, 16),
		conflicts: make(chan Conflict, 4),
		tags:      maps.Clone(cfg.Tags),
	}
	if len(cfg.Keys) > 0 {
		if r.keyring, err = memberlist.NewKeyring(cfg.Keys, cfg.Keys[0]); err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
	}
	return r, nil
}

// Run takes part in the mesh until ctx ends: then to the others this node has
// failed, unless Leave came first. It returns nil after ctx, or why it could
// not begin. Everything it started has then ended, but for timers of serf and
// memberlist that can no longer send; see Linger. A Ring runs once.
func (r *Ring) Run(ctx context.Context) error {
	r.mu.Lock()
	begun := r.begun
	r.begun = true
	r.mu.Unlock()
	if begun {
		return errors.New("run: a ring runs once: make a new one")
	}
	var tell sync.Once
	started := func() { tell.Do(func() { close(r.started) }) }
	defer started()

	gate, err := r.listen()
	if err != nil {
		return err
	}
	events := make(chan serf.Event, eventSlots)
	cfg := r.serfConfig(gate, events)
	s, err := serf.Create(cfg)
	if err != nil {
		return errors.Join(fmt.Errorf("start membership: %w", err), gate.Shutdown())
	}
	r.mu.Lock()
	r.serf = s
	r.mu.Unlock()
	gate.open()
	started()
	r.log.Info().Stringer("addr", r.Addr()).Stringer("advertise", r.Advertised()).Bool("encrypted", r.keyring != nil).Msg("membership started")

	served := make(chan struct{}) // closed: no more events can come
	var drain errgroup.Group
	drain.Go(func() error { r.drain(events, served); return nil })
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.join(gctx, s, gate); return nil })
	g.Go(func() error { r.observe(gctx); return nil })
	g.Go(func() error { r.settleConflicts(gctx, s); return nil })
	g.Go(func() error { r.relist(gctx, s, cfg.MemberlistConfig.Events); return nil })
	<-ctx.Done()

	r.mu.Lock()
	r.ending = true
	r.mu.Unlock()
	r.calls.Wait() // memberlist panics where it is left after it was shut down
	err = s.Shutdown()
	_ = g.Wait()
	close(served)
	_ = drain.Wait()
	if err != nil {
		return fmt.Errorf("stop membership: %w", err)
	}
	return nil
}

// listen opens the sockets, or takes the transport it was given, and settles
// the addresses.
func (r *Ring) listen() (*gate, error) {
	transport := r.cfg.Transport
	bound := r.cfg.Bind
	if transport == nil {
		s, err := listen(r.cfg.Bind, r.cfg.Via)
		if err != nil {
			return nil, err
		}
		transport, bound = s, s.addr()
	} else if ip, port, err := transport.FinalAdvertiseAddr("", 0); err == nil {
		a, _ := netip.AddrFromSlice(ip)
		bound = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	advertised := r.cfg.Advertise
	if !advertised.Addr().IsValid() {
		advertised = netip.AddrPortFrom(guessAdvertise(bound.Addr()), advertised.Port())
	}
	if advertised.Port() == 0 {
		advertised = netip.AddrPortFrom(advertised.Addr(), bound.Port())
	}
	r.mu.Lock()
	r.bound, r.advertised = bound, advertised
	r.mu.Unlock()
	return newGate(transport, r.keyring != nil, r.cfg.Timing.Dial), nil
}

func (r *Ring) serfConfig(gate *gate, events chan serf.Event) *serf.Config {
	t, adv := r.cfg.Timing, r.Advertised()
	m := memberlist.DefaultLANConfig()
	m.Transport = gate
	m.BindPort = int(r.Addr().Port())
	m.AdvertiseAddr, m.AdvertisePort = adv.Addr().String(), int(adv.Port())
	m.Keyring = r.keyring
	m.Logger, m.LogOutput = r.library, nil
	m.EnableCompression = false // costs CPU, saves little once encrypted, and was a way in for bombs
	m.UDPBufferSize = packetSize
	m.ProbeInterval, m.ProbeTimeout = t.ProbeInterval, t.ProbeTimeout
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = t.Suspicion, suspicionMax
	m.AwarenessMaxMultiplier = maxAwareness
	m.GossipInterval, m.PushPullInterval = t.Gossip, t.PushPull
	m.RetransmitMult = retransmit
	m.DeadNodeReclaimTime = 1 // ns: a failed node may come back with another address, at once

	c := serf.DefaultConfig()
	c.MemberlistConfig = m
	c.NodeName, c.Tags = r.cfg.Node, r.currentTags()
	c.Logger, c.LogOutput = r.library, nil
	c.EventCh = events
	c.Merge = &mergeGuard{ring: r}
	c.EnableNameConflictResolution = false // it would shut one of the two down
	c.ReapInterval = reapInterval
	c.ReconnectInterval = t.Reconnect
	c.ReconnectTimeout, c.TombstoneTimeout = t.Retention, t.Retention
	c.BroadcastTimeout, c.LeavePropagateDelay = broadcastTimeout, leavePropagation
	return c
}

// drain keeps serf's events from piling up: where they do, serf stands still.
// Those of other agents' users and queries end here.
func (r *Ring) drain(events <-chan serf.Event, served <-chan struct{}) {
	for {
		select {
		case e := <-events:
			if _, ok := e.(serf.MemberEvent); !ok {
				continue
			}
			r.changes.Add(1)
			for _, c := range []chan struct{}{r.changed, r.watch, r.joinNow} {
				signal(c)
			}
			if e.EventType() == serf.EventMemberReap {
				signal(r.erased)
			}
		case <-served:
			return
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Started is closed once the sockets are bound and others may join, or Run has failed.
func (r *Ring) Started() <-chan struct{} { return r.started }

// Addr is the address that gossip is bound to; its port is known after Started.
func (r *Ring) Addr() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bound
}

// Advertised is the address that others dial; known after Started.
func (r *Ring) Advertised() netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.advertised
}

// Waiting says whom this node is looking for and why it has not found them;
// empty once another live member is known, or where there is nobody to look for.
func (r *Ring) Waiting() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

func (r *Ring) currentTags() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.tags)
}
