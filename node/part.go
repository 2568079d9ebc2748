package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// part is what of a POP can be replaced while it serves: the database that is
// open, the picture made of it, and the records that go to and fro. The proxy,
// the router with the last good picture, the checks and the membership go on.
type part struct {
	store   *sqlite.Store
	picture *picture
	mesh    *replication // nil where the database is read-only

	end   context.CancelFunc
	ended chan struct{} // closed once all that it started has returned
	over  atomic.Bool   // another one is in its place: nothing that it still does counts
}

// errOver is for what a part that was replaced still tries.
var errOver = errors.New("this part of the POP was replaced")

// endWithin is how long a part may take to end. One that is stuck never does.
const endWithin = 5 * time.Second

func (a *admin) picture() *picture    { return a.live.Load().picture }
func (a *admin) store() *sqlite.Store { return a.live.Load().store }

// mesh is this POP's share in the mesh; nil where the database is read-only.
func (n *Node) mesh() *replication { return n.live.Load().mesh }

// paint makes the part's picture, and routes by it.
func (n *Node) paint(ctx context.Context, p *part) error {
	p.picture = &picture{
		poked: make(chan struct{}, 1), store: p.store, self: n.here, positions: *n.positions.Load(),
		publish: func(snap *mesh.Snapshot, now time.Time) {
			if !p.over.Load() {
				n.router.Update(snap, now)
				n.vigil.poke()
				n.listeners.poke()
				n.vigil.retell(n.watches.picture(snap, now), now)
			}
		},
		cut: n.loops.cut,
		log: n.log.With().Str("component", "db").Logger(), overlay: func(pops, peers [][]any) {
			if !p.over.Load() {
				n.overlay.read(pops, peers)
			}
		},
	}
	return p.picture.refresh(ctx)
}

// share opens the part's share in the mesh, as its first or in the place of another.
func (n *Node) share(ctx context.Context, p *part, before *replication) (err error) {
	if p.mesh, err = newReplication(ctx, n, p, before); err != nil {
		return err
	}
	p.picture.fold = p.mesh.fold
	p.picture.telemetry = p.mesh.telemetry
	p.picture.lone = p.mesh.registry.saw
	return nil
}

// run has the part work until ctx ends or the part is replaced.
func (p *part) run(ctx context.Context, reload time.Duration) {
	ctx, p.end = context.WithCancel(ctx)
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		var all sync.WaitGroup
		all.Go(func() { p.picture.watch(ctx, reload) })
		if p.mesh != nil {
			all.Go(func() { p.mesh.run(ctx) })
		}
		all.Wait()
	}()
}

// wait says whether the part ends soon, after it was told to.
func (p *part) wait() bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(endWithin):
		return false
	}
}

// replace has a part of its own in the place of one that is stuck, of which
// nothing more can be asked: not even to let go of what it holds. Its locks stay
// locked, and its goroutines with them, until the process ends; a transaction in
// which it is stuck keeps the file locked, and then this fails.
func (n *Node) replace(ctx context.Context, old *part) error {
	if !old.over.Swap(true) { // else an earlier try has done this
		old.end()
		if old.mesh != nil {
			_ = old.mesh.front.Close()
		}
		old.wait()
		go old.store.Close() // whenever that may be
	}
	store, err := n.openStore(ctx)
	if err != nil {
		return err
	}
	p := &part{store: store}
	if err = n.paint(ctx, p); err == nil && old.mesh != nil {
		err = n.share(ctx, p, old.mesh)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("open %s anew: %w", n.cfg.DBPath, err), p.close())
	}
	p.run(ctx, n.cfg.DBReload)
	n.live.Store(p)
	return nil
}

// close ends what the part has open, in an orderly way.
func (p *part) close() error {
	var errs []error
	if p.mesh != nil {
		errs = append(errs, p.mesh.close())
	}
	return errors.Join(append(errs, p.store.Close())...)
}
