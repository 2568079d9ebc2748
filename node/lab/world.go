package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// world is the mesh and its backends: what the story changes and the clients use.
type world struct {
	links *links

	// Both start something that lives as long as the lab, whoever asks.
	launch func(i int, join string) (*pop, error)
	serve  func(*backend) error

	truth  truth
	ledger ledger

	mu       sync.Mutex
	pops     []*pop
	backends []*backend
	deaths   []*death
	pending  []change
}

// change is one that POPs that are cut off have not seen yet.
type change struct {
	ids  []string
	seen func(p *pop, id string) bool
}

// death is when a backend died: between the two; to is zero while it does.
type death struct {
	id       string
	from, to time.Time
}

// newWorld makes one that lives until ctx ends; fail is told what ends early.
func newWorld(ctx context.Context, cfg Config, dir string, running *sync.WaitGroup, fail func(error)) *world {
	l := newLinks(running)
	plan := popPlan{dir: dir, key: newClusterKey(), links: l, log: cfg.Log}
	return &world{
		links:  l,
		launch: func(i int, join string) (*pop, error) { return plan.start(ctx, running, i, join, fail) },
		serve:  func(b *backend) error { return b.start(ctx, running) },
		truth:  truth{backends: map[string]*fact{}}, ledger: ledger{rows: map[string]map[string]any{}},
	}
}

// build starts POPs and backends and returns when all POPs are ready.
func (w *world) build(ctx context.Context, pops, backends int) error {
	first, err := w.launch(0, "")
	if err != nil {
		return err
	}
	w.addPOP(first)
	var ids []string
	for i := range backends {
		places := min(pops, len(regions))
		region := regions[i%places]
		id := fmt.Sprintf("%s-node-%d", region, i/places+1)
		if err := w.addBackend(ctx, first, id, region); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := w.addBeacon(ctx, first); err != nil {
		return err
	}
	errs := make([]error, pops-1)
	var starting sync.WaitGroup
	for i := range errs {
		starting.Go(func() { errs[i] = w.addReady(ctx, i+1, first.gossip) })
	}
	starting.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slices.SortFunc(w.pops, func(a, b *pop) int { return a.index - b.index })
	return w.settle(ctx, ids, isUp(ctx))
}

// addReady starts the i-th POP and adds it once it has what the mesh knows.
func (w *world) addReady(ctx context.Context, i int, join string) error {
	p, err := w.launch(i, join)
	if err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil {
		return errors.Join(err, p.db.Close())
	}
	w.addPOP(p)
	return nil
}

// join adds the next POP by way of another, and backends to its region where
// there are none.
func (w *world) join(ctx context.Context, by *pop, backends int) (*pop, error) {
	i := len(w.allPOPs())
	if i >= mostPOPs {
		return nil, fmt.Errorf("there are %d POPs: that is enough for one machine", i)
	}
	if err := w.addReady(ctx, i, by.gossip); err != nil {
		return nil, err
	}
	p := w.allPOPs()[i]
	if len(w.idsIn(p.region)) > 0 {
		return p, nil
	}
	var ids []string
	for n := range backends {
		id := fmt.Sprintf("%s-node-%d", p.region, n+1)
		if err := w.addBackend(ctx, p, id, p.region); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return p, w.settle(ctx, ids, isUp(ctx))
}

func isUp(ctx context.Context) func(*pop, string) bool {
	return func(p *pop, id string) bool { return p.sees(ctx, id).State == "up" }
}

func (w *world) addPOP(p *pop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pops = append(w.pops, p)
}

// addBackend runs one and tells a POP of it, as the seed's SQL does.
func (w *world) addBackend(ctx context.Context, at *pop, id string, region geo.Region) error {
	b, err := newBackend(w.serve, id, region)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.backends = append(w.backends, b)
	w.mu.Unlock()
	weight := int64(1)
	if id == string(region)+"-node-1" {
		weight = 2
	}
	w.truth.add(id, region)
	return w.insert(ctx, at, id, app, region, int64(b.addr.Port), 1, weight)
}

// settle waits until every POP that is not cut off sees the backends so. Where
// none is cut off, what may be expected of clients follows.
func (w *world) settle(ctx context.Context, ids []string, seen func(p *pop, id string) bool) error {
	_, err := until(ctx, mostWait, func() bool { return w.allSee(ids, seen, false) })
	switch {
	case err != nil:
		return err
	case w.allSee(ids, seen, true):
		w.truth.settle(ids)
	default:
		w.mu.Lock()
		w.pending = append(w.pending, change{ids, seen})
		w.mu.Unlock()
	}
	return nil
}

// settlePending does so for what POPs that were cut off have missed.
func (w *world) settlePending(ctx context.Context) error {
	w.mu.Lock()
	pending := w.pending
	w.pending = nil
	w.mu.Unlock()
	for _, c := range pending {
		if err := w.settle(ctx, c.ids, c.seen); err != nil {
			return err
		}
	}
	return nil
}

// allSee says whether every POP sees the backends so; those that are cut off
// count where all is true.
func (w *world) allSee(ids []string, seen func(p *pop, id string) bool, all bool) bool {
	for _, p := range w.allPOPs() {
		if !all && w.links.isCut(p.name) {
			continue
		}
		if slices.ContainsFunc(ids, func(id string) bool { return !seen(p, id) }) {
			return false
		}
	}
	return true
}

func (w *world) allPOPs() []*pop {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pops)
}

func (w *world) allBackends() []*backend {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.backends)
}

func (w *world) pop(name string) *pop {
	for _, p := range w.allPOPs() {
		if p.name == name || p.name == "pop-"+name {
			return p
		}
	}
	return nil
}

func (w *world) backend(id string) *backend {
	for _, b := range w.allBackends() {
		if b.id == id {
			return b
		}
	}
	return nil
}

func (w *world) idsIn(region geo.Region) (ids []string) {
	for _, b := range w.allBackends() {
		if b.region == region {
			ids = append(ids, b.id)
		}
	}
	return ids
}

// nearest is where anycast would take a client; POPs at one place share.
func (w *world) nearest(at geo.Vector, r *rand.Rand) *pop {
	pops := w.allPOPs()
	best := pops[0]
	ties := 1
	for _, p := range pops[1:] {
		switch d, most := p.at.Distance(at), best.at.Distance(at); {
		case d < most:
			best, ties = p, 1
		case d == most:
			if ties++; r.IntN(ties) == 0 {
				best = p
			}
		}
	}
	return best
}

// kill ends a backend and notes when.
func (w *world) kill(b *backend) {
	d := &death{id: b.id, from: time.Now()} // known before the first connection breaks
	w.mu.Lock()
	w.deaths = append(w.deaths, d)
	w.mu.Unlock()
	b.kill()
	w.mu.Lock()
	d.to = time.Now()
	w.mu.Unlock()
	w.truth.change([]string{b.id}, func(f *fact) { f.dead = true })
	w.truth.settle([]string{b.id}) // the dead serve nobody, whatever POPs think
}

// broke says that a connection that has failed had begun before a backend died
// and ended after: it broke with its backend, which no proxy can hide.
func (w *world) broke(v visit, ended time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.deaths, func(d *death) bool {
		return (v.backend == "" || v.backend == d.id) && (d.to.IsZero() || v.began.Before(d.to)) && ended.After(d.from)
	})
}

// close closes what other programs would have open. POPs and backends end
// with their context.
func (w *world) close() error {
	var errs []error
	for _, p := range w.allPOPs() {
		errs = append(errs, p.db.Close())
	}
	return errors.Join(errs...)
}
