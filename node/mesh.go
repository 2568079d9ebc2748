package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// Tags of a member. Serf carries at most 512 bytes of them.
const (
	tagRole     = "role"     // "edgeproxy": other agents in the ring have none of ours
	tagRegion   = "region"   // code
	tagSync     = "sync"     // port of the record streams
	tagVersion  = "version"  // of the program
	tagPosition = "position" // lat,lon, where the operator gave it
	tagListen   = "listen"   // where it takes clients: ip:port, or :port for every address
	tagPorts    = "ports"    // of the API and the DNS server, where they are reached from elsewhere
	tagKeys     = "keys"     // ids of the cluster keys that it accepts
	roleOurs    = "edgeproxy"
)

const (
	joinWait  = 5 * time.Second  // for the first exchange, with rows to serve
	aloneWait = 30 * time.Second // for it, with none
)

// replication is this POP's part in the mesh: who else is there, and the
// records that go to and fro.
type replication struct {
	node      string
	nonce     string
	cfg       *config.Config
	store     *sqlite.Store
	picture   *picture
	router    *route.Router
	vigil     *vigil
	ledger    *ledger // nil without strict limits
	overlay   *overlay
	watches   *watches
	listeners *listeners
	told      route.Reporter
	clock     func() time.Time // this machine's, as records have it
	log       zerolog.Logger
	base      zerolog.Logger // without a component
	keyFile   string         // of the keyring
	roster    *roster
	creds     *identity.Credentials
	version   string
	via       func(addr string) string // Options.Via
	ring      *membership.Ring         // from join on
	streams   *gossip.Mesh
	front     *net.TCPListener
	counts    *meshCounts
	pins      *pins
	registry  *registry
	loops     *loops
	listens   string   // where clients connect
	others    []string // where API and DNS server listen

	began     time.Time   // of membership
	timed     atomic.Bool // mesh time has been known
	empty     bool        // no rows at the start
	keyMu     sync.Mutex
	repairs   repairLog
	local     []crdt.Refusal         // rows that no other POP would take, as last logged; tidy's
	damaged   []crdt.Key             // records that the last check could not read; tidy's
	agreed    agreement              // of deletes that may be forgotten next; tidy's
	unsentWhy atomic.Pointer[string] // empty: what was written here is sent
	unwritten atomic.Bool            // and that is for the disk's sake
	routed    chan struct{}          // closed once all that one peer knew is in the routing picture
	taken     chan string            // size 1: where another live POP has our name
	retag     chan struct{}          // size 1: the tags name other keys than are accepted
}

// newReplication opens what the mesh needs, and starts nothing. Where it takes
// the place of another one, the membership goes on.
func newReplication(ctx context.Context, n *Node, p *part, before *replication) (*replication, error) {
	cfg, log := n.cfg, n.log.With().Str("component", "mesh").Logger()
	m := &replication{
		node: n.life.Node, version: n.opts.Version, via: n.opts.Via, clock: n.opts.Now, cfg: cfg, store: p.store, picture: p.picture, router: n.router, vigil: n.vigil, ledger: n.ledger, overlay: n.overlay, listeners: n.listeners, watches: n.watches, log: log, base: n.log,
		keyFile: cfg.DBPath + ".keys", pins: newPins(p.store, log), counts: newMeshCounts(), routed: make(chan struct{}), taken: make(chan string, 1), retag: make(chan struct{}, 1),
	}
	for _, what := range n.damage {
		m.repairs.add(what)
	}
	m.picture.keys = m.pins.read
	m.registry, m.loops, m.listens, m.others = newRegistry(n, m), n.loops, n.addrs.Listen, []string{n.addrs.API, n.addrs.DNS}
	addr, loadSeq := n.will.addr("sync_addr", cfg.SyncAddr), uint64(0)
	if before != nil {
		addr, loadSeq = before.front.Addr().String(), before.streams.LoadSeq()
		m.ring, m.began, m.taken = before.ring, before.began, before.taken
	}
	var random [4]byte
	rand.Read(random[:])
	m.nonce = fmt.Sprintf("%016x%x", n.life.incarnation+uint64(time.Since(n.started)), random) // of two lives the later has the greater

	key, made, err := identity.LoadNode(cfg.DBPath + ".key")
	if err != nil {
		return nil, err
	}
	if made {
		log.Info().Str("file", cfg.DBPath+".key").Msg("this POP's key made")
	}
	if err := m.openKeys(key); err != nil {
		return nil, err
	}
	if m.roster, err = openRoster(cfg.DBPath + ".peers"); err != nil {
		log.Warn().Err(err).Msg("starting without the POPs known before")
	}
	if err := m.replicate(ctx, n.life, p); err != nil {
		return nil, err
	}
	if m.front, err = listen(ctx, cfg, "sync_addr", m.bound(addr, "sync_addr"), cfg.Explicit("sync_addr"), log); err != nil {
		return nil, err
	}
	var tookNote func(string, gossip.Note) error
	if m.ledger != nil {
		tookNote = m.ledger.took
	}
	m.streams, err = gossip.New(gossip.Config{
		Node: m.node, Nonce: m.nonce, Credentials: m.creds, Store: m.store, Via: m.via,
		Tables:  m.store.Tables,
		Keyring: func() []byte { return m.creds.Keyring().Encode() }, MergeKeyring: m.mergeKeys,
		Admit: m.pins.admit, Applied: m.applied, Conflict: m.nameTaken,
		WholeLoad: m.wholeLoad, TookLoad: m.tookLoad, TookNote: tookNote, Now: m.clock, LoadSeq: loadSeq,
		FanoutLimit: cfg.FanoutLimit, Life: n.life.incarnation, Dial: m.overlay.dialPeer,
	}, log)
	return m, err
}

// replicate makes the database a replica under this POP's name.
func (m *replication) replicate(ctx context.Context, life *life, p *part) error {
	save := func(next sqlite.Life) error {
		if p.over.Load() {
			return errOver
		}
		return life.save(next)
	}
	begun, err := m.store.Replicate(ctx, sqlite.Replication{Life: life.Life, Save: save, Now: m.now, Span: m.span, Heard: m.heard, Untimed: m.untimed})
	if err != nil {
		return err
	}
	m.logBegun(begun)
	err = m.picture.refresh(ctx) // with what was brought back, and the other POPs' keys
	m.empty = len(m.router.Snapshot().Backends) == 0
	return err
}

// expectsPeers says whether there should be other POPs.
func (m *replication) expectsPeers() bool { return len(m.cfg.Join) > 0 || len(m.roster.list()) > 0 }

// run takes part in the mesh until ctx ends. A part that cannot go on does not
// end the others, nor the proxy: it serves with what it knows.
func (m *replication) run(ctx context.Context) {
	m.streams.SetPeers(m.roster.list())
	var g sync.WaitGroup
	for _, part := range []func(context.Context) error{
		m.streams.Run, func(ctx context.Context) error { return m.streams.Serve(ctx, m.front) },
	} {
		g.Go(func() {
			if err := part(ctx); err != nil {
				m.log.Error().Err(err).Msg("out of the mesh: serving with what is known")
			}
		})
	}
	g.Go(func() { m.follow(ctx) })
	g.Go(func() { m.routeFirst(ctx) })
	g.Go(func() { m.tidy(ctx) })
	g.Go(func() { m.report(ctx) })
	g.Go(func() { m.pins.run(ctx) })
	g.Go(func() { m.overlay.write(ctx, m) })
	g.Go(func() { m.registry.run(ctx) })
	g.Go(func() { m.tellFaults(ctx) })
	g.Wait()
}

// routeFirst has what the first peer knew in the routing picture before the POP
// says that it is ready: rows that are only stored serve nobody.
func (m *replication) routeFirst(ctx context.Context) {
	select {
	case <-m.streams.Synced():
	case <-ctx.Done():
		return
	}
	for m.picture.refresh(ctx) != nil {
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return
		}
	}
	close(m.routed)
}

// follow tells the streams, the roster and the routing picture who is there.
func (m *replication) follow(ctx context.Context) {
	for {
		members := m.ring.Members()
		if err := m.roster.update(members, time.Now()); err != nil {
			m.log.Error().Err(err).Msg("the POPs known cannot be kept")
		}
		m.streams.SetPeers(asSeen(m.roster.list(), members))
		m.picture.setMembers(positionsOf(members))
		m.vigil.setMembers(others(members))
		m.overlay.poke()
		m.watches.members(m.members(), time.Now())
		if m.loops.setMembers(members, m.overlay.rows.Load().pops) {
			m.picture.poke()
		}
		for _, member := range members {
			if member.Status == membership.StatusLeft {
				m.router.Forget(member.Name, time.Now())
				m.vigil.forget(member.Name, time.Now())
			}
		}
		select {
		case <-ctx.Done():
			return
		case c := <-m.ring.Conflicts():
			if other := c.Tags[membership.NonceTag]; other != m.nonce {
				m.nameTaken(gossip.Conflict{Node: c.Name, Addr: c.Addr.String(), Later: other < m.nonce})
			}
		case <-m.retag:
			if err := m.ring.SetTags(m.tags()); err != nil {
				m.log.Error().Err(err).Msg("the new cluster keys cannot be announced")
			}
		case <-m.ring.Changed():
		case <-time.After(10 * time.Second):
		}
	}
}

// asSeen says how far the peers are and who does not answer, as far as
// membership knows.
func asSeen(peers []gossip.Peer, members []membership.Member) []gossip.Peer {
	seen := make(map[string]membership.Member, len(members))
	for _, m := range members {
		seen[m.Name] = m
	}
	for i := range peers {
		p := &peers[i]
		m := seen[p.Node]
		p.Down = m.Status == membership.StatusFailed
		if m.HasRTT {
			p.RTT = m.RTT
		}
	}
	return peers
}

// fold seals what was written here and sends it. The result says whether
// there was something.
func (m *replication) fold(ctx context.Context) (bool, error) {
	if begun, is := m.store.Rebegun(); is {
		m.logBegun(begun)
		if begun.TriggersRestored {
			m.repairs.add("triggers were missing or changed: put back")
		}
		m.streams.Replaced()
	}
	some := false
	for {
		d, err := m.store.Fold(ctx)
		if len(d.Ranges) == 0 || err != nil {
			m.unsent(ctx, err)
			return some, err
		}
		some = true
		m.streams.Publish(d)
	}
}

// unsent notes why what was written here is not sent, and nil that it is.
func (m *replication) unsent(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	text := ""
	if err != nil {
		text = "changes made here are kept, but not sent yet: " + err.Error()
	}
	m.unwritten.Store(err != nil && !errors.Is(err, sqlite.ErrUntimed))
	switch old := m.unsentWhy.Swap(&text); {
	case text == "" && (old == nil || *old == ""), old != nil && *old == text:
	case text == "":
		m.log.Info().Msg("changes made here are sent again")
	case errors.Is(err, sqlite.ErrUntimed):
		m.log.Info().Err(err).Msg("changes made here are kept, but not sent yet")
	default:
		m.log.Error().Err(err).Msg("changes made here are kept, but not sent yet")
	}
}

// unsentFor says what is wrong with the database, so that what was written here
// is not sent.
func (m *replication) unsentFor() string {
	if why := m.unsentWhy.Load(); why != nil && m.unwritten.Load() {
		return *why
	}
	return ""
}

// applied is told of every delta that a peer sent. What was refused is in the
// log already, as much of it as fits: a peer may send nothing else.
func (m *replication) applied(_ string, a crdt.Applied) {
	m.counts.applied(a, m.now())
	if len(a.Changed) > 0 {
		m.picture.poke()
	}
}

// notReady says what keeps the POP from being as good as any other: its disk,
// which takes no records, so that it falls behind, and at first the exchange
// that it waits for.
func (m *replication) notReady() (reasons []string) {
	if why := m.streams.Unable(); why != "" {
		reasons = append(reasons, "what other POPs write is not stored: "+why)
	}
	if why := m.unsentFor(); why != "" {
		reasons = append(reasons, why)
	}
	return append(reasons, m.waiting()...)
}

// waiting is for the first exchange with any other, for a while.
func (m *replication) waiting() []string {
	if !m.expectsPeers() {
		return nil
	}
	wait := joinWait
	if m.empty {
		wait = aloneWait
	}
	select {
	case <-m.routed:
		return nil
	default:
	}
	if time.Since(m.began) > wait {
		return nil
	}
	if waiting := m.ring.Waiting(); waiting != "" {
		return []string{"waiting for the first exchange with another POP: " + waiting}
	}
	return []string{"waiting for the first exchange with another POP"}
}

// nameTaken is told that two live POPs have one name. If it is ours and the
// other one was first, this is a copy of it, or somebody gave two POPs one name.
func (m *replication) nameTaken(c gossip.Conflict) {
	if c.Node != m.node || !c.Later {
		m.log.Warn().Str("peer", c.Node).Str("addr", c.Addr).Msg("two live POPs have one name: the second one is refused")
		return
	}
	select {
	case m.taken <- c.Addr:
	default:
	}
}

// close ends the replica's life in the file in an orderly way.
func (m *replication) close() error {
	_ = m.front.Close() // closed already after an orderly end
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = m.store.WriteTelemetry(ctx, sqlite.Telemetry{}, time.Now()) // what is left, the next start removes
	return m.store.End(ctx)
}
