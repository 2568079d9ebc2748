package lab

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/geo/mmdb"
)

const (
	longestStay = 200 * time.Millisecond
	// detour: of so many connections one reaches another POP than the nearest,
	// as routes on the internet do not know geography.
	detour = 8
)

// traffic plays users from everywhere.
type traffic struct {
	world    *world
	from     []client
	resolver *mmdb.Resolver
	tally    *tally
	seed     uint64
}

// run plays users until ctx ends.
func (t *traffic) run(ctx context.Context, users int) {
	var g sync.WaitGroup
	for i := range users {
		g.Go(func() { t.user(ctx, i, rand.New(rand.NewPCG(t.seed, uint64(i)))) })
	}
	g.Wait()
}

// user connects again and again, each time from the next country.
func (t *traffic) user(ctx context.Context, i int, r *rand.Rand) {
	for ; ctx.Err() == nil; i++ {
		c := t.from[i%len(t.from)]
		v := &visit{client: c, pop: t.pop(c, r)}
		t.visit(ctx, v, c.neighbour(t.resolver, byte(r.IntN(200)+1)), time.Duration(r.Int64N(int64(longestStay))))
		if v.err != nil && !v.broke && !pause(ctx, 50*time.Millisecond) { // where all fails, fail slowly
			return
		}
	}
}

func (t *traffic) pop(c client, r *rand.Rand) *pop {
	if r.IntN(detour) == 0 {
		pops := t.world.allPOPs()
		return pops[r.IntN(len(pops))]
	}
	return t.world.nearest(c.place.At, r)
}

// visit makes one connection and counts what came of it, unless the lab's end
// cut it.
func (t *traffic) visit(ctx context.Context, v *visit, addr netip.Addr, stay time.Duration) {
	v.scene = t.world.truth.now()
	v.call(ctx, addr, stay)
	if ctx.Err() != nil {
		return
	}
	v.broke = v.err != nil && t.world.broke(*v, time.Now())
	if v.err == nil {
		v.astray = !slices.ContainsFunc(t.world.truth.since(v.scene), func(s scene) bool {
			return s.right(v.client.place.Region, v.pop.region, v.served)
		})
	}
	t.tally.add(v)
}
