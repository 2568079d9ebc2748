package lab

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// probe measures what the proxy adds and how long a write takes.
type probe struct {
	world   *world
	traffic *traffic
	rand    func(stream uint64) *rand.Rand

	mu      sync.Mutex
	added   sample
	spread  sample
	late    error // a write that did not arrive
	written int   // that arrived everywhere
}

const (
	addedEvery  = 50 * time.Millisecond
	spreadEvery = 150 * time.Millisecond
)

// addedLatency compares, pair by pair, a connection with an echo through the
// nearest POP with one straight to the backend that answered.
func (p *probe) addedLatency(ctx context.Context) {
	r := p.rand(1)
	for pause(ctx, addedEvery) {
		c := p.traffic.from[r.IntN(len(p.traffic.from))]
		v := &visit{client: c, pop: p.world.nearest(c.place.At, r)}
		began := time.Now()
		p.traffic.visit(ctx, v, c.addr, 0)
		through := time.Since(began)
		b := p.world.backend(v.backend)
		if ctx.Err() != nil || v.err != nil || b == nil {
			continue
		}
		began = time.Now()
		if straight(ctx, b) != nil {
			continue // it has died meanwhile
		}
		p.mu.Lock()
		p.added.add(through - time.Since(began))
		p.mu.Unlock()
	}
}

// straight does what visit.call does, without a POP.
func straight(ctx context.Context, b *backend) error {
	conn, err := dial(ctx, b.addr.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	v := &visit{}
	if err := v.listen(conn); err != nil {
		return err
	}
	return conn.echo(v.backend, "hello from the lab")
}

// propagation writes the beacon on one POP after the other and takes the time
// from the statement until the routing picture of each other has it.
func (p *probe) propagation(ctx context.Context) {
	r := p.rand(2)
	for n := int64(2); pause(ctx, spreadEvery); n++ {
		pops := slices.DeleteFunc(p.world.allPOPs(), func(q *pop) bool { return p.world.links.isCut(q.name) })
		if len(pops) < 2 {
			continue
		}
		if err := p.write(ctx, pops, r.IntN(len(pops)), n); err != nil && ctx.Err() == nil {
			p.mu.Lock()
			p.late = cmp.Or(p.late, err)
			p.mu.Unlock()
		}
	}
}

// write is one of them. A POP that is cut off meanwhile is not waited for.
func (p *probe) write(ctx context.Context, pops []*pop, at int, n int64) error {
	began := time.Now()
	if err := p.world.set(ctx, pops[at], beacon, "weight", n); err != nil {
		return err
	}
	waiting := slices.Delete(slices.Clone(pops), at, at+1)
	cut := false
	_, err := until(ctx, mostWait, func() bool {
		cut = cut || p.world.links.isCut(pops[at].name)
		waiting = slices.DeleteFunc(waiting, func(q *pop) bool {
			if cut || p.world.links.isCut(q.name) {
				return true
			}
			if q.sees(ctx, beacon).Weight < n {
				return false
			}
			p.mu.Lock()
			p.spread.add(time.Since(began))
			p.mu.Unlock()
			return true
		})
		return len(waiting) == 0
	})
	if err != nil {
		return fmt.Errorf("a write on %s has not reached %s: %w", pops[at].name, waiting[0].name, err)
	}
	p.mu.Lock()
	p.written++
	p.mu.Unlock()
	return nil
}

// finish waits until a write has been followed: on a slow machine the lab takes
// longer rather than judge by nothing.
func (p *probe) finish(ctx context.Context) {
	_, _ = until(ctx, mostWait, func() bool { // else the report says that there was none
		_, _, written, late := p.figures()
		return written > 0 || late != nil || len(p.world.allPOPs()) < 2
	})
}

// figures are what was measured so far.
func (p *probe) figures() (added, spread Quantiles, written int, late error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.added.quantiles(), p.spread.quantiles(), p.written, p.late
}
