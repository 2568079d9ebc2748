package gossip

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/overlay"
	"github.com/edgeproxy/edgeproxy/internal/progress"
	"github.com/rs/zerolog"
)

// Mesh is this POP's end of all streams.
type Mesh struct {
	cfg     Config
	log     zerolog.Logger
	applier applier
	stats   counters

	// For a watchdog: the loops that store what comes, and that keep up with
	// peers and heads.
	Applying, Exchanging progress.Loop

	loads   atomic.Uint64          // sent
	unable  atomic.Pointer[string] // why the store took nothing; nil: it does
	storing progress.Span          // what peers sent

	running    atomic.Bool
	changed    chan struct{} // 1: for Run, that peers or heads are to be looked at
	refreshing chan struct{} // 1: held while the store's heads are read
	ended      chan struct{} // closed when Run has returned
	synced     chan struct{}
	syncedOnce sync.Once
	publishing sync.Mutex    // keeps the order of writes in all queues; taken before mu
	telling    sync.Mutex    // keeps the order of beats; taken before mu
	beating    chan struct{} // 1: for beatAll

	mu        sync.Mutex
	peers     map[string]*peer
	own       crdt.Heads // what the store had when last asked, and what was published since
	version   uint64     // of own
	horizon   crdt.Heads
	meanwhile []crdt.Range // published while the store was asked
	asking    bool
	stale     bool // own may be behind the store
	marks     marks
	steady    steadyClock
	strangers peer // stands for those who are none: limits what they can make us log

	// Of a mesh of more than Config.FanoutLimit POPs.
	large    bool
	count    int       // POPs listed, this one too
	rechoose bool      // something changed that neighbours are chosen by,
	chooseAt time.Time // or is to then
	trees    *overlay.Trees
	voice    voice        // this POP's own
	pending  *pendingLoad // to be in its next beat
	census   censusFrame
	censusAt time.Time // when to ask for the next
}

// New makes a Mesh that does nothing until Run and Serve.
func New(cfg Config, log zerolog.Logger) (*Mesh, error) {
	cfg.defaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Mesh{
		cfg: cfg, log: log,
		applier: applier{wake: make(chan struct{}, 1)},
		changed: make(chan struct{}, 1), refreshing: make(chan struct{}, 1),
		ended: make(chan struct{}), synced: make(chan struct{}),
		peers: map[string]*peer{}, own: crdt.Heads{}, horizon: crdt.Heads{},
		beating: make(chan struct{}, 1), count: 1, trees: overlay.NewTrees(cfg.Node),
		steady: newSteadyClock(cfg.Now().UnixMicro()),
	}
	m.loads.Store(cfg.LoadSeq)
	return m, nil
}

// Run dials peers, stores what comes, compares and repairs, until ctx ends. It
// waits for all that it has started; once per Mesh.
func (m *Mesh) Run(ctx context.Context) error {
	if m.running.Swap(true) {
		return errors.New("gossip: run twice")
	}
	defer close(m.ended)
	if err := m.refresh(ctx); err != nil && ctx.Err() == nil {
		m.log.Error().Err(err).Msg("heads not read, tried again")
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.applyAll(ctx) })
	wg.Go(func() { m.every(ctx, m.cfg.AntiEntropy, m.antiEntropy) })
	wg.Go(func() { m.every(ctx, m.cfg.Digest, m.digest) })
	wg.Go(func() { m.every(ctx, m.cfg.Stray, m.stray) })
	wg.Go(func() { m.beatAll(ctx) })
	for {
		var look <-chan time.Time
		m.Exchanging.Begin()
		if m.isStale() {
			_ = m.refresh(ctx) // else the next anti-entropy does
		}
		if next := m.reconcile(ctx, &wg); !next.IsZero() {
			look = time.After(time.Until(next))
		}
		m.Exchanging.End()
		select {
		case <-ctx.Done():
			return nil
		case <-look:
		case <-m.changed:
		}
	}
}

// every runs f at intervals between half and one and a half of d.
func (m *Mesh) every(ctx context.Context, d time.Duration, f func(context.Context)) {
	for pause(ctx, time.Duration(float64(d)*(0.5+m.cfg.Rand()))) {
		f(ctx)
	}
}

// pause says whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Publish sends what was written here: sealed and committed, in the order of
// its numbers. Of what was sealed alone peers learn by our heads. It never blocks.
func (m *Mesh) Publish(d crdt.Delta) {
	if len(d.Records) == 0 && len(d.Ranges) == 0 {
		return
	}
	m.publishing.Lock()
	defer m.publishing.Unlock()
	m.mu.Lock()
	for _, r := range d.Ranges {
		m.marks.add(r, time.Now())
		if m.own.Cover(r) {
			m.version++
		} else if m.own[r.Origin] < r.To {
			m.stale = true
			notify(m.changed)
		}
	}
	if m.asking {
		m.meanwhile = append(m.meanwhile, d.Ranges...)
	}
	var targets []*stream
	if !d.Alone {
		targets = m.targetsLocked()
	}
	m.mu.Unlock()
	for _, s := range targets {
		s.put(d)
	}
}

// refresh asks the store what it has, which is less than before when its file
// was replaced by an older one.
func (m *Mesh) refresh(ctx context.Context) error {
	select {
	case m.refreshing <- struct{}{}:
		defer func() { <-m.refreshing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	m.asking, m.stale, m.meanwhile = true, false, nil
	m.mu.Unlock()
	heads, err := m.cfg.Store.Heads(ctx)
	var horizon crdt.Heads
	if err == nil {
		horizon, err = m.cfg.Store.Horizon(ctx)
	}
	if heads == nil {
		heads = crdt.Heads{}
	}
	m.mu.Lock()
	m.asking = false
	moved := false
	if err == nil {
		for _, r := range m.meanwhile {
			heads.Cover(r)
		}
		moved = !maps.Equal(m.own, heads)
		lost := !heads.Covers(m.own)
		m.own, m.horizon = heads, horizon
		m.version++
		if lost {
			m.marks.lost(heads)
			m.pullLostLocked()
		}
	}
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("read the store's heads: %w", err)
	}
	if moved {
		for _, s := range m.streams() {
			notify(s.wake)
		}
	}
	return nil
}

// pullLostLocked asks the peers for what an older file in the place of ours
// lacks: they have announced it long ago and will not again.
func (m *Mesh) pullLostLocked() {
	for _, p := range m.peers {
		if p.stream != nil && !m.own.Covers(p.heads) {
			p.stream.wantLocked(time.Now().Add(m.cfg.Grace))
		}
	}
}

// Heads is what the store is known to have. It does not wait for the store.
func (m *Mesh) Heads() crdt.Heads {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own.Clone()
}

// Replaced tells that the store may have less than it had: another file is in
// the place of the one before.
func (m *Mesh) Replaced() { m.markStale() }

// Compare compares all rows with those of one peer that should have the same,
// now rather than within Config.Digest: something is known to be wrong here.
func (m *Mesh) Compare(ctx context.Context) { m.digest(ctx) }

func (m *Mesh) isStale() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stale
}

// KeyringChanged announces Config.Keyring to every peer.
func (m *Mesh) KeyringChanged() {
	if m.cfg.Keyring == nil {
		return
	}
	document := m.cfg.Keyring()
	for _, s := range m.streams() {
		s.sendKeyring(document)
	}
}

// Synced is closed once all that one peer had when it connected is stored here.
func (m *Mesh) Synced() <-chan struct{} { return m.synced }

func (m *Mesh) nowSynced() { m.syncedOnce.Do(func() { close(m.synced) }) }

// notify does not wait: one notice stands for all before it.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
