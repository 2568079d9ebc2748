package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/internal/progress"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// picture keeps the routing picture equal to the database: it reads the tables
// when they change and publishes what makes sense of them. What cannot be read
// leaves the last good picture in place.
type picture struct {
	store   *sqlite.Store
	self    mesh.POP
	publish func(*mesh.Snapshot, time.Time)
	log     zerolog.Logger
	poked   chan struct{} // size 1: rows came from another POP, or its position
	looking progress.Loop
	looks   progress.Span
	// fold takes over what was written to the file by others; nil without a
	// mesh. It says whether there was something.
	fold func(context.Context) (bool, error)
	// keys are told at every read: which key belongs to which POP.
	keys func(rows [][]any)
	// overlay is told at every read who says what of the overlay.
	overlay func(pops, peers [][]any)
	// cut leaves out of a new snapshot the backends that are POPs; nil: none are.
	cut func(*mesh.Snapshot) *mesh.Snapshot
	// lone is told at every read which registrations have no backend; nil without a mesh.
	lone func(map[string]string)
	// telemetry is what is known of the POPs now, for the tables in the file;
	// nil where it is not written.
	telemetry func(time.Time) sqlite.Telemetry
	untold    string // why it is not in the file, as last logged

	mu        sync.Mutex                // one read and publication at a time
	positions map[geo.Region]geo.Vector // by configuration
	members   map[geo.Region]geo.Vector // by the POPs of the regions, who know better
	problems  []mesh.Problem            // as last logged
	failure   error                     // why the picture may be out of date; nil: it is not
	reads     uint64
	expired   map[string]bool // registered backends of which nothing has been heard for too long

	asked  atomic.Uint64 // calls of catchUp
	served uint64        // those of them that the last read was for; guarded by mu
}

// self is this POP as the configuration describes it.
func self(cfg *config.Config, node string) mesh.POP {
	p := mesh.POP{Node: node, Region: geo.Region(cfg.Region)}
	if cfg.Position != nil {
		p.Position = geo.Position{Lat: cfg.Position[0], Lon: cfg.Position[1]}.Vector()
	} else if at, ok := positions(cfg)[p.Region]; ok {
		p.Position = at
	} else if at, ok := geo.RegionPosition(p.Region); ok {
		p.Position = at.Vector()
	}
	return p
}

// positions are the regions' positions that the operator gives.
func positions(cfg *config.Config) map[geo.Region]geo.Vector {
	m := make(map[geo.Region]geo.Vector, len(cfg.Regions))
	for r, at := range cfg.Regions {
		m[geo.Region(r)] = geo.Position{Lat: at[0], Lon: at[1]}.Vector()
	}
	return m
}

// refresh reads the tables and publishes them.
func (p *picture) refresh(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshLocked(ctx)
}

// catchUp is refresh for whoever has just written: where many do, one read
// serves all that had committed before it began.
func (p *picture) catchUp(ctx context.Context) error {
	ticket := p.asked.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.served >= ticket {
		return nil
	}
	return p.refreshLocked(ctx)
}

func (p *picture) refreshLocked(ctx context.Context) error {
	asked := p.asked.Load()
	img, err := p.store.Read(ctx)
	if err != nil {
		return err
	}
	p.reads, p.served = p.reads+1, asked
	if p.keys != nil {
		p.keys(img.PopKeys)
	}
	if p.overlay != nil {
		p.overlay(img.WGPops, img.WGPeers)
	}
	at := maps.Clone(p.positions)
	maps.Copy(at, p.members)
	rows := rowsOf(img)
	rows.Expired = p.expired
	snap := mesh.NewSnapshot(p.self, rows, at)
	if p.cut != nil {
		snap = p.cut(snap)
	}
	if p.lone != nil {
		p.lone(loneRegistrations(img))
	}
	p.publish(snap, time.Now())
	if !slices.Equal(snap.Problems, p.problems) {
		p.problems = snap.Problems
		for _, problem := range snap.Problems {
			what := "row left out: "
			if problem.Part {
				what = "field left out: "
			}
			p.log.Warn().Str("table", problem.Table).Str("row", problem.ID).Str("field", problem.Field).
				Msg(what + strings.ToValidUTF8(problem.Message, "\uFFFD"))
		}
	}
	return nil
}

func rowsOf(img *sqlite.Image) mesh.Rows {
	return mesh.Rows{Backends: img.Backends, Options: img.BackendOptions, Services: img.Services, Registrations: img.Registrations, PopStatus: img.PopStatus}
}

// lag is how far the picture may be behind what is stored: a look waits for a
// disk that takes long.
func (p *picture) lag() time.Duration { return 2 * p.looks.Takes(time.Now()) }

// setPositions changes where the regions are, from the next refresh on.
func (p *picture) setPositions(m map[geo.Region]geo.Vector) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.positions = m
}

// setMembers changes where the regions' POPs say they are.
func (p *picture) setMembers(m map[geo.Region]geo.Vector) {
	p.mu.Lock()
	changed := !maps.Equal(p.members, m)
	p.members = m
	p.mu.Unlock()
	if changed {
		p.poke()
	}
}

// setExpired changes which registered backends are out of routing, and says
// which of them were not before.
func (p *picture) setExpired(ids map[string]bool) (added []string) {
	p.mu.Lock()
	changed := !maps.Equal(p.expired, ids)
	for id := range ids {
		if !p.expired[id] {
			added = append(added, id)
		}
	}
	p.expired = ids
	p.mu.Unlock()
	if changed {
		p.poke()
	}
	return added
}

// revive has a backend in routing from the next read on: it was heard of. It
// says whether it was out.
func (p *picture) revive(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.expired[id] {
		return false
	}
	p.expired = maps.Clone(p.expired)
	delete(p.expired, id)
	return true
}

// loneRegistrations are those without a backend, with the POP that took the last heartbeat.
func loneRegistrations(img *sqlite.Image) map[string]string {
	if len(img.Registrations) == 0 {
		return nil
	}
	there := make(map[any]bool, len(img.Backends))
	for _, row := range img.Backends {
		if id, ok := row[0].(string); ok {
			there[id] = true
		}
	}
	lone := map[string]string{}
	for _, row := range img.Registrations {
		if id, ok := row[0].(string); ok && !there[id] {
			lone[id], _ = row[1].(string)
		}
	}
	return lone
}

// poke has the tables read soon.
func (p *picture) poke() {
	select {
	case p.poked <- struct{}{}:
	default:
	}
}

// fail records why the picture may be out of date, and nil that it is not any
// more, and says whether that is so since now.
func (p *picture) fail(err error) (back bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	back = err == nil && p.failure != nil
	switch {
	case back:
		p.log.Info().Msg("routing database is readable again")
	case err != nil && (p.failure == nil || p.failure.Error() != err.Error()):
		p.log.Error().Err(err).Msg("routing database: serving the last good picture")
	}
	p.failure = err
	return back
}

// notices is by what the kernel tells of changes; nil: it does not.
func (p *picture) notices() (notices <-chan struct{}, stop func()) {
	notices, stop, err := p.store.Notices()
	if err != nil {
		p.log.Debug().Err(err).Msg("not told of changes: looking for them often")
		return nil, func() {}
	}
	return notices, stop
}

// err says why the picture may be out of date.
func (p *picture) err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

// watch refreshes on every change of the database, until ctx ends. Every reload
// interval it reads the file anew, as a safety net, for changes that nothing told of.
func (p *picture) watch(ctx context.Context, reload time.Duration) {
	w := watcher{picture: p, reload: reload, read: time.Now()}
	notices, stop := p.notices()
	defer func() { stop() }()
	pace := newPace()
	timer := time.NewTimer(pollEvery)
	defer timer.Stop()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case <-p.poked:
			w.wanted = true
			now = time.Now()
		case _, more := <-notices:
			if !more {
				notices = nil
			}
			now = time.Now()
			if rest := pace.noticed(now); rest > 0 {
				timer.Reset(rest)
				continue
			}
		case now = <-timer.C:
		}
		p.looking.Begin()
		p.looks.Begin(time.Now())
		err := w.look(ctx, now)
		p.looks.End(time.Now())
		p.looking.End()
		if ctx.Err() != nil {
			return
		}
		if back := p.fail(err); back { // perhaps in another directory of that name
			stop()
			notices, stop = p.notices()
		}
		end := outcome{failed: err != nil, left: w.wanted || w.owed, notices: notices != nil}
		timer.Reset(pace.looked(time.Now(), end))
	}
}

// watcher is what watch remembers from one look to the next.
type watcher struct {
	*picture
	reload time.Duration
	read   time.Time     // when the tables were last read
	next   time.Time     // when they may be read again: reading takes a fifth of a core at most
	rest   time.Duration // between two times that the file is read anew: a twentieth
	wanted bool          // they have changed since
	owed   bool          // what others wrote has not been taken over yet
	again  time.Time     // not before then, after fold has failed
	told   time.Time     // when telemetry was last written
}

// look asks once whether something changed, and does what follows from it.
func (w *watcher) look(ctx context.Context, now time.Time) error {
	ctx = progress.With(ctx, &w.looking)
	changed, err := w.store.Poll(ctx)
	due := now.Sub(w.read) >= max(w.reload, w.rest)
	if due && err == nil {
		begun := time.Now()
		_, err = w.store.Verify(ctx) // where it differs, the next Poll opens it anew
		w.rest = 20 * time.Since(begun)
	}
	if due && err != nil {
		w.store.Reopen() // the file may be sound and only our connection broken
	}
	w.wanted = w.wanted || changed || due || w.err() != nil
	w.owed = w.owed || changed
	if err == nil && w.owed && w.fold != nil && !now.Before(w.again) {
		err = w.foldAll(ctx, now)
	}
	progress.Step(ctx)
	// After a failure at once: ready again means that the picture is current.
	if err == nil && w.wanted && (due || w.err() != nil || !time.Now().Before(w.next)) {
		begun := time.Now()
		w.read = now
		if err = w.refresh(ctx); err == nil {
			w.wanted = false
		}
		w.next = time.Now().Add(min(4*time.Since(begun), time.Second))
	}
	if err != nil {
		return err
	}
	progress.Step(ctx)
	if now.Sub(w.told) >= tellEvery {
		w.told = now
		w.tell(ctx, now)
	}
	progress.Step(ctx)
	return w.store.Settle(ctx, changed, now)
}

// foldAll takes over what others wrote. Where that fails the tables can still
// be read, and routed by; fold itself says what is wrong.
func (w *watcher) foldAll(ctx context.Context, now time.Time) error {
	for {
		some, err := w.fold(ctx)
		if errors.Is(err, sqlite.ErrUntimed) {
			return nil // it ends with the first word from another POP
		}
		if err != nil {
			w.again = now.Add(retryEvery)
			return nil
		}
		if !some {
			w.owed = false
			return nil
		}
		// What fold writes is a change to Poll, too, and not one to read the
		// tables for. Whoever wrote in between is found by folding again.
		if _, err := w.store.Poll(ctx); err != nil {
			return err
		}
	}
}

func (p *picture) readCount() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reads
}
