package node

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

const (
	// lapseEvery is how often it is looked who expires, and whether heartbeats
	// are to be written.
	lapseEvery = 250 * time.Millisecond
	// beatsEvery is the least time between two writes of heartbeats that change
	// nothing but when the last one was.
	beatsEvery = time.Second
	// mostBeats is how many rows go into one transaction.
	mostBeats = 1000
)

// registry is this POP's share in keeping the backends that registered
// themselves: it takes their heartbeats, writes them now and then, and computes
// who is not heard of any more.
type registry struct {
	m     *replication
	ttl   func() time.Duration // that registrations and heartbeats are given from now on
	count *registryCounts
	log   zerolog.Logger
	lapse lapse // judge's

	writing sync.Mutex // one write of heartbeats at a time; taken before mu

	mu      sync.Mutex
	beats   map[string]beat // the last one heard here of each
	written time.Time       // when heartbeats last were, by the steady clock
	gone    []silent        // to be deleted
	orphans map[string]time.Time
	unsaid  string    // why heartbeats are not written, as last logged
	keeping time.Time // since when keep is at work, by the steady clock; zero: it rests
}

// beat is a heartbeat that was heard here.
type beat struct {
	at      time.Time // mesh time
	failing string
	dirty   bool // its row does not have it
}

// registryCounts is of the whole process.
type registryCounts struct{ registrations, heartbeats, unknown, deleted atomic.Uint64 }

func newRegistry(n *Node, m *replication) *registry {
	return &registry{
		m: m, count: &n.registered, log: n.log.With().Str("component", "registry").Logger(),
		ttl:   func() time.Duration { return time.Duration(n.latest.Load().HeartbeatTTL) * time.Second },
		lapse: lapse{self: n.life.Node}, beats: map[string]beat{}, orphans: map[string]time.Time{},
	}
}

// run judges and writes until ctx ends. The two are apart: a database that is
// locked must not look like a process that stood still.
func (r *registry) run(ctx context.Context) {
	var both sync.WaitGroup
	defer both.Wait()
	for _, step := range []func(context.Context){r.judge, r.keep} {
		both.Go(func() {
			ticker := time.NewTicker(lapseEvery)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					step(ctx)
				}
			}
		})
	}
}

// now is mesh time.
func (r *registry) now() time.Time { return time.UnixMilli(r.m.now()) }

// judge tells the picture who has expired, where that changed.
func (r *registry) judge(context.Context) {
	snap, wall := r.m.router.Snapshot(), time.Now()
	s := sight{steady: wall, expected: r.m.roster.has, deaf: r.deaf(), lag: r.m.streams.Lag() + r.m.picture.lag()}
	if !r.m.untimed() && len(r.m.waiting()) == 0 {
		s.now = r.now()
	}
	s.heard = func(pop string) (time.Time, bool) {
		at, ok := r.m.vigil.heard(pop)
		return s.now.Add(-wall.Sub(at)), ok
	}
	s.whole = !slices.ContainsFunc(r.m.roster.names(), func(pop string) bool {
		at, ok := r.m.vigil.heard(pop)
		return !ok || wall.Sub(at) > longAway
	})
	r.mu.Lock()
	maps.DeleteFunc(r.beats, func(id string, b beat) bool {
		_, there := registrationOf(snap, id)
		return !there
	})
	heard := maps.Clone(r.beats)
	r.mu.Unlock()
	s.beat = func(id string) time.Time { return heard[id].at }
	expired, gone := r.lapse.look(s, snap)
	r.mu.Lock()
	r.gone = gone
	r.mu.Unlock()
	for _, id := range r.m.picture.setExpired(expired) {
		if reg, ok := registrationOf(snap, id); ok {
			r.log.Warn().Str("backend", id).Dur("ttl_ms", reg.TTL).Str("pop", reg.POP).Msg("no heartbeat for too long: out of routing")
		}
	}
}

// deaf says whether this POP misses what the others write: it cannot be stored,
// or is likely not to be when it comes.
func (r *registry) deaf() bool {
	r.mu.Lock()
	unsaid := r.unsaid
	r.mu.Unlock()
	return unsaid != "" || r.m.streams.Unable() != ""
}

// registrationOf is that of a backend in the snapshot.
func registrationOf(snap *mesh.Snapshot, id string) (*mesh.Registration, bool) {
	b, ok := snap.Backend(id)
	if !ok || b.Registration == nil {
		return nil, false
	}
	return b.Registration, true
}

// Heartbeat implements api.Registry.
func (n *Node) Heartbeat(ctx context.Context, id string, said api.Heartbeat) (api.Heartbeat, error) {
	m, err := n.part()
	if err != nil {
		return api.Heartbeat{}, err
	}
	return m.registry.heartbeat(ctx, id, said)
}

// heartbeat answers from memory, unless what it says changes routing: that is
// written, and in the picture, before the answer.
func (r *registry) heartbeat(ctx context.Context, id string, said api.Heartbeat) (api.Heartbeat, error) {
	b, ok := r.m.router.Snapshot().Backend(id)
	if !ok || b.Registration == nil {
		if err := r.m.notYet(); err != nil {
			return api.Heartbeat{}, err
		}
		r.count.unknown.Add(1)
		return api.Heartbeat{}, fmt.Errorf("%w: no backend is registered as %s: register it (anew)", api.ErrNotFound, id)
	}
	r.count.heartbeats.Add(1)
	now := r.now()
	if lag := b.Registration.Heartbeat.Sub(now); lag >= 0 && lag <= clockStep {
		now = b.Registration.Heartbeat.Add(time.Millisecond) // by the clock of the POP that took the one before
	}
	r.mu.Lock()
	was, heard := r.beats[id]
	if !heard {
		was.failing = b.Registration.Failing
	}
	r.beats[id] = beat{now, said.Failing, true}
	err := r.muteLocked(b.Registration.TTL)
	r.mu.Unlock()
	if b.Expired && r.m.picture.revive(id) {
		r.m.picture.poke() // it is heard, whether that can be written or not
	}
	if err != nil {
		return api.Heartbeat{}, err
	}
	// Also where the one before said so, but could not be written.
	if b.Expired || said.Failing != was.failing || said.Failing != b.Registration.Failing {
		if err := r.write(ctx, func(b beat) bool { return !b.at.After(now) }); err != nil {
			return api.Heartbeat{}, err
		}
		if _, still := registrationOf(r.m.router.Snapshot(), id); !still {
			return api.Heartbeat{}, fmt.Errorf("%w: no backend is registered as %s any more: register it anew", api.ErrNotFound, id)
		}
	}
	return api.Heartbeat{Failing: said.Failing, TTL: int64(r.ttl() / time.Second)}, nil
}

// keep writes the heartbeats whose rows lag, and deletes what is to be deleted.
func (r *registry) keep(ctx context.Context) {
	r.keeps(time.Now())
	defer r.keeps(time.Time{})
	if r.lag() {
		r.said(ctx, r.write(ctx, nil))
	}
	r.delete(ctx)
	r.deleteOrphans(ctx)
}

func (r *registry) keeps(since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keeping = since
}

// said logs once why heartbeats are not written.
func (r *registry) said(ctx context.Context, err error) {
	text := ""
	if err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	r.mu.Lock()
	known := r.unsaid == text
	r.unsaid = text
	r.mu.Unlock()
	if text != "" && !known {
		r.log.Warn().Err(err).Msg("heartbeats are not written yet: the other POPs do not know of them")
	}
}

// muteLocked says why this POP cannot tell the others of heartbeats, as with a
// full disk; nil: it can. Who brings one has to find another POP then: the
// others would take the backend to be silent.
func (r *registry) muteLocked(ttl time.Duration) error {
	why := r.unsaid
	if why == "" {
		why = r.m.unsentFor()
	}
	switch {
	case why != "":
		return fmt.Errorf("%w: heard, but the other POPs cannot be told (%s); tell another POP", api.ErrUnavailable, why)
	case !r.keeping.IsZero() && time.Since(r.keeping) > max(ttl/4, time.Second):
		return fmt.Errorf("%w: heard, but the database takes too long to tell the other POPs; tell another POP", api.ErrUnavailable)
	}
	return nil
}

// lag says whether it is time to write heartbeats. After a failure any will do
// to find out whether they can be written again, and where there is none, nothing
// is unsaid.
func (r *registry) lag() bool {
	snap, now := r.m.router.Snapshot(), r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	rested := time.Since(r.written) >= beatsEvery
	for id, b := range r.beats {
		reg, ok := registrationOf(snap, id)
		if ok && b.dirty && r.dueLocked(b, reg, now) && (rested || now.Sub(reg.Heartbeat) >= reg.TTL/2) {
			return true
		}
	}
	return r.unsaid != ""
}

// dueLocked says whether a heartbeat is to be written: not every one is, where
// they come much more often than the TTL asks for.
func (r *registry) dueLocked(b beat, reg *mesh.Registration, now time.Time) bool {
	return r.unsaid != "" || reg.POP != r.m.node || reg.TTL != r.ttl() || reg.Failing != b.failing ||
		b.at.Sub(reg.Heartbeat) >= reg.TTL/6 || now.Sub(reg.Heartbeat) >= reg.TTL/2 || reg.Heartbeat.Sub(now) > clockStep
}

// stale says that another POP has taken a later heartbeat. One that is dated in
// the future is not taken for that.
func (b beat) stale(reg *mesh.Registration, now time.Time) bool {
	return reg.Heartbeat.After(b.at) && reg.Heartbeat.Sub(now) <= clockStep
}

// write writes the heartbeats that are due and have not been, and has them in
// the picture when it returns. pick chooses whom it waits for: where somebody
// else has written those meanwhile, nothing is left to do. nil: no picture is waited for.
func (r *registry) write(ctx context.Context, pick func(beat) bool) error {
	if err := r.writeRows(ctx, pick); err != nil || pick == nil {
		return err // the watcher sees the change
	}
	return r.show(ctx)
}

// show has in the picture what is written.
func (r *registry) show(ctx context.Context) error {
	if err := r.m.picture.catchUp(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
	}
	return nil
}

// writeRows is one write at a time; what is read for it comes after, for all
// who have written meanwhile.
func (r *registry) writeRows(ctx context.Context, pick func(beat) bool) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	for {
		list, ids := r.dirty(pick)
		if len(ids) == 0 {
			return nil
		}
		if err := r.m.store.Write(ctx, func(tx *sqlite.Tx) error { return r.put(tx, ids, list) }); err != nil {
			return fmt.Errorf("%w: %w", api.ErrUnavailable, err)
		}
		r.mu.Lock()
		r.written = time.Now()
		for id, b := range list {
			if r.beats[id] == b {
				b.dirty = false
				r.beats[id] = b
			}
		}
		r.mu.Unlock()
		if len(ids) < mostBeats {
			return nil // what came meanwhile is the next one's
		}
	}
}

// dirty are heartbeats to write, as many as fit into a transaction.
func (r *registry) dirty(pick func(beat) bool) (list map[string]beat, ids []string) {
	snap, now := r.m.router.Snapshot(), r.now()
	list = map[string]beat{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, b := range r.beats {
		reg, ok := registrationOf(snap, id)
		if ok && b.dirty && len(list) < mostBeats && (r.dueLocked(b, reg, now) || pick != nil && pick(b)) {
			list[id] = b
		}
	}
	return list, slices.Sorted(maps.Keys(list))
}

// put writes heartbeats of those that are still there: a heartbeat brings no
// row back that somebody has deleted, and an old one does not undo a later one.
func (r *registry) put(tx *sqlite.Tx, ids []string, list map[string]beat) error {
	for _, id := range ids {
		row, registered, err := tx.Get(sqlite.Registrations, id)
		if err != nil {
			return err
		}
		_, there, err := tx.Get(sqlite.Backends, id)
		if err != nil {
			return err
		}
		if !registered || !there {
			continue
		}
		if _, reg, err := mesh.ParseRegistration(row); err == nil && list[id].stale(&reg, r.now()) {
			continue
		}
		if err := tx.Put(sqlite.Registrations, id, r.columns(list[id])); err != nil {
			return err
		}
	}
	return nil
}

// columns are those that a heartbeat sets.
func (r *registry) columns(b beat) map[string]any {
	return map[string]any{
		"pop": r.m.node, "heartbeat_ms": b.at.UnixMilli(), "ttl_secs": int64(r.ttl() / time.Second), "failing": null(b.failing),
	}
}
