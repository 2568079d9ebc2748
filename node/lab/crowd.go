package lab

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// A share is a claim about connections that are open at a time: with a few at a
// time every backend is idle, and chance decides. So a crowd comes to see it,
// one after the other, as the POPs tell each other their load four times a
// second, and stays.
const (
	crowd      = 40
	crowdEvery = 20 * time.Millisecond
	crowdStay  = 1500 * time.Millisecond
	tolerance  = 0.15 // connections are whole, and others come and go
)

// shares judges which part of its region's connections a backend gets. Where a
// crowd is not enough to tell, more come.
func (s *story) shares(ctx context.Context, b *backend, claim string, late error) {
	weight := func(id string) float64 {
		return float64(s.world.ledger.number(id, "weight") * s.world.ledger.number(id, "soft_limit"))
	}
	total := 0.0
	for _, id := range s.world.idsIn(b.region) {
		if s.world.backend(id).alive() {
			total += weight(id)
		}
	}
	want := weight(b.id) / total
	w := s.tally.watch(func(v *visit) bool { return v.crowd && v.served == b.region })
	share := 0.0
	for range 5 {
		s.gather(ctx, b.region)
		if all, by := w.to(b.id); all > 0 {
			share = float64(by) / float64(all)
		}
		if math.Abs(share-want) <= tolerance || ctx.Err() != nil {
			break
		}
	}
	n, failed := w.count()
	w.stop()
	if ctx.Err() == nil {
		s.verdict(claim, late == nil && failed == 0 && n >= crowd && math.Abs(share-want) <= tolerance,
			"%.0f %% of a crowd of %d in %s, %.0f %% by weights and limits%s", 100*share, n, b.region, 100*want, because(late))
	}
}

// gather has a crowd of a region's clients connect, by every POP that is not
// cut off, and waits until they have gone.
func (s *story) gather(ctx context.Context, region geo.Region) {
	var from []client
	for _, c := range s.traffic.from {
		if c.place.Region == region {
			from = append(from, c)
		}
	}
	pops := slices.DeleteFunc(s.world.allPOPs(), func(p *pop) bool { return s.world.links.isCut(p.name) })
	var g sync.WaitGroup
	for i := range crowd {
		c := from[i%len(from)]
		v := &visit{client: c, pop: pops[rand.IntN(len(pops))], crowd: true}
		addr := c.neighbour(s.traffic.resolver, byte(i+1))
		g.Go(func() { s.traffic.visit(ctx, v, addr, crowdStay) })
		if !pause(ctx, crowdEvery) {
			break
		}
	}
	g.Wait()
}
