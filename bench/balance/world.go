package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

const (
	tick     = time.Millisecond
	dies     = 25 * time.Second
	returns  = 45 * time.Second
	surgeEnd = 55 * time.Second
	forgets  = 5 * time.Second
	ramp     = time.Second
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a mesh in virtual time.
type world struct {
	scenario
	clock
	tally
	rng      *rand.Rand
	sessions sessions
	regions  []geo.Region
	rows     []mesh.Backend
	load     map[string]int64 // what is really open
	pops     []*pop
	back     time.Time // when backend 0 came back
}

type pop struct {
	name    string
	region  geo.Region
	router  *route.Router
	life    uint64
	dead    bool
	waiting map[*connection]bool
	strict  *strict // nil: limits are not
}

type connection struct {
	pop    *pop
	life   uint64
	slot   *route.Slot
	id     string
	opened time.Time
	closed bool
}

// run plays the scenario once.
func run(sc scenario, seed uint64) result {
	w := newWorld(sc, seed)
	if sc.strict {
		w.settleRights()
	}
	w.settled()
	w.play(start.Add(sc.warmUp))
	w.tally = tally{} // what is measured begins here
	w.play(start.Add(sc.warmUp + sc.measured))
	return w.result()
}

// play has the world go on until the end.
func (w *world) play(end time.Time) {
	for w.now.Before(end) {
		w.pass(tick)
		w.arrivals()
		if w.now.Sub(start)%(100*time.Millisecond) == 0 {
			w.sample()
		}
	}
}

func newWorld(sc scenario, seed uint64) *world {
	w := &world{scenario: sc, clock: clock{now: start}, rng: rand.New(rand.NewPCG(seed, 7)), sessions: sc.sessions(), load: map[string]int64{}}
	n := 5
	if sc.backends < 15 {
		n = 3
	}
	for i := range n {
		w.regions = append(w.regions, geo.Region(fmt.Sprintf("r%d", i)))
	}
	for i := range sc.backends {
		b := mesh.Backend{
			ID: fmt.Sprintf("b%03d", i), Region: w.regions[i%n], Addr: netip.MustParseAddrPort("10.0.0.1:80"),
			Healthy: true, Weight: 1, SoftLimit: 100, HardLimit: 125,
		}
		if sc.weighted {
			b.Weight, b.SoftLimit = []int64{1, 2, 4}[i/n%3], []int64{50, 100, 200}[i/n/3%3]
			b.HardLimit = 2 * b.SoftLimit
		}
		w.rows = append(w.rows, b)
	}
	for i := range sc.pops {
		p := &pop{name: fmt.Sprintf("p%02d", i), region: w.regions[i%n]}
		w.pops = append(w.pops, p)
		w.born(p)
		w.after(time.Duration(w.rng.Float64()*float64(sc.staleness/2)), func() { w.report(p) })
	}
	w.mishaps()
	return w
}

// mishaps are the deaths that the scenario has, and the returns from them.
func (w *world) mishaps() {
	if w.backendDies {
		w.after(dies, func() {
			w.rows[0].Healthy = false
			w.closeAll(func(c *connection) bool { return c.id == w.rows[0].ID })
			w.update()
		})
		w.after(returns, func() { w.rows[0].Healthy, w.back = true, w.now; w.update() })
	}
	if w.popDies {
		dead := w.pops[0]
		w.after(dies, func() { dead.dead = true; w.closeAll(func(c *connection) bool { return c.pop == dead }) })
		w.after(dies+forgets, func() {
			for _, p := range w.pops {
				p.router.Forget(dead.name, w.now)
			}
		})
		w.after(returns, func() { dead.dead = false; w.born(dead) })
	}
}

// born gives the POP a life, in which it knows nothing.
func (w *world) born(p *pop) {
	p.life++
	p.router = route.NewRouter(route.NewAffinity(10*time.Minute, 0))
	p.waiting = map[*connection]bool{}
	if w.strict {
		p.router.Strict()
		w.bornStrict(p)
	}
	p.router.Update(w.snapshot(p), w.now)
}

func (w *world) snapshot(p *pop) *mesh.Snapshot {
	return &mesh.Snapshot{Self: mesh.POP{Node: p.name, Region: p.region}, Backends: slices.Clone(w.rows), Positions: map[geo.Region]geo.Vector{}}
}

func (w *world) update() {
	for _, p := range w.pops {
		p.router.Update(w.snapshot(p), w.now)
	}
}

// report sends what the POP has to all others, and again after half of the
// staleness; it is under way for half to all of it.
func (w *world) report(p *pop) {
	if !p.dead {
		rep := route.Report{POP: p.name, Incarnation: p.life, Seq: uint64(w.now.Sub(start)) + 1, At: w.now, Counts: map[string]int64{}, Rates: p.router.Rates(w.now)}
		for _, s := range p.router.Slots.Stats() {
			rep.Counts[s.ID] = s.Connections
		}
		for _, to := range w.pops {
			if to == p {
				continue
			}
			half := float64(w.staleness) / 2
			w.after(time.Duration(half+w.rng.Float64()*half), func() {
				if !to.dead {
					to.router.Learn(rep, w.now)
				}
			})
		}
	}
	w.after(w.staleness/2, func() { w.report(p) })
}

// serve opens the connection that was chosen.
func (w *world) serve(p *pop, q route.Query, choice route.Choice, lasts time.Duration) {
	if choice.Backend == nil {
		w.refused++
		if w.room("") {
			w.refusedWithRoom++
		}
		return
	}
	b := choice.Backend
	if r := q.Place.Region; b.Region != r && w.room(r) {
		w.outside++
	}
	p.router.Bind(q, choice, w.now)
	w.load[b.ID]++
	if b.HardLimit > 0 {
		w.peak = max(w.peak, float64(w.load[b.ID]-b.HardLimit)/float64(b.HardLimit))
	}
	c := &connection{pop: p, life: p.life, slot: choice.Slot, id: b.ID, opened: w.now}
	p.waiting[c] = true
	w.after(lasts, func() { w.close(c) })
}

func (w *world) close(c *connection) {
	if c.closed {
		return
	}
	c.closed = true
	w.load[c.id]--
	if c.life == c.pop.life {
		delete(c.pop.waiting, c)
		c.slot.Release(w.now.Sub(c.opened))
	}
}

func (w *world) closeAll(which func(*connection) bool) {
	for _, p := range w.pops {
		for c := range p.waiting {
			if which(c) {
				w.close(c)
			}
		}
	}
}

// room says whether a backend of the region, or of any, takes a connection.
func (w *world) room(r geo.Region) bool {
	return slices.ContainsFunc(w.rows, func(b mesh.Backend) bool {
		return (r == "" || b.Region == r) && b.Healthy && w.load[b.ID] < b.HardLimit
	})
}
