package main

import (
	"container/heap"
	"fmt"
	"math"
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
	homely   = 0.9 // of the clients reach a POP of their region
)

// Sessions in seconds: Pareto 1.5 with a median of 10, whose mean is three
// times the shortest; or exponential with a median of 0.05.
var (
	shortest  = 10 / math.Pow(2, 1/1.5)
	meanShort = 0.05 / math.Ln2
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a mesh in virtual time.
type world struct {
	scenario
	rng     *rand.Rand
	now     time.Time
	regions []geo.Region
	rows    []mesh.Backend
	load    map[string]int64 // what is really open
	pops    []*pop
	events  events
	back    time.Time // when backend 0 came back

	opened, refused, refusedWithRoom, outside, delayed float64
	peak                                               float64
	samples                                            []float64
	returned                                           []float64
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

// event is something that happens at a time; those of the same time happen in
// the order in which they were made.
type event struct {
	at time.Time
	n  uint64
	do func()
}

type events struct {
	list []event
	n    uint64
}

func (e *events) Len() int { return len(e.list) }
func (e *events) Less(i, j int) bool {
	a, b := e.list[i], e.list[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.n < b.n
}
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(event)) }
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.events.n++
	heap.Push(&w.events, event{w.now.Add(d), w.events.n, do})
}

// run plays the scenario once.
func run(sc scenario, seed uint64) result {
	w := newWorld(sc, seed)
	if sc.strict {
		w.settleRights()
	}
	for range w.offered() {
		r := w.regions[w.rng.IntN(len(w.regions))]
		w.arrive(r, w.rest())
	}
	end := start.Add(sc.warmUp + sc.measured)
	for w.now.Before(end) {
		w.now = w.now.Add(tick)
		w.happen()
		w.arrivals()
		if w.measuring() && w.now.Sub(start)%(100*time.Millisecond) == 0 {
			w.sample()
		}
	}
	return w.result()
}

// happen has all events happen that are due.
func (w *world) happen() {
	for len(w.events.list) > 0 && !w.events.list[0].at.After(w.now) {
		heap.Pop(&w.events).(event).do()
	}
}

func newWorld(sc scenario, seed uint64) *world {
	w := &world{scenario: sc, rng: rand.New(rand.NewPCG(seed, 7)), now: start, load: map[string]int64{}}
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
	if sc.backendDies {
		w.after(dies, func() {
			w.rows[0].Healthy = false
			w.closeAll(func(c *connection) bool { return c.id == w.rows[0].ID })
			w.update()
		})
		w.after(returns, func() { w.rows[0].Healthy, w.back = true, w.now; w.update() })
	}
	if sc.popDies {
		dead := w.pops[0]
		w.after(dies, func() { dead.dead = true; w.closeAll(func(c *connection) bool { return c.pop == dead }) })
		w.after(dies+forgets, func() {
			for _, p := range w.pops {
				p.router.Forget(dead.name, w.now)
			}
		})
		w.after(returns, func() { dead.dead = false; w.born(dead) })
	}
	return w
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

func (w *world) measuring() bool { return w.now.Sub(start) > w.warmUp }

// arrivals are the connections of one tick.
func (w *world) arrivals() {
	mean := 3 * shortest
	if w.short {
		mean = meanShort
	}
	each := float64(w.offered()) / mean / float64(len(w.regions)) * tick.Seconds()
	for i, r := range w.regions {
		rate := each
		if t := w.now.Sub(start); i == 0 && w.surge > 0 && t >= dies && t < surgeEnd {
			rate *= 1 + (w.surge-1)*min(1, (t-dies).Seconds()/ramp.Seconds())
		}
		for n := poisson(w.rng, rate); n > 0; n-- {
			w.arrive(r, w.duration())
		}
	}
}

func poisson(rng *rand.Rand, mean float64) (n int) {
	for p, least := rng.Float64(), math.Exp(-mean); p > least; n++ {
		p *= rng.Float64()
	}
	return n
}

func (w *world) arrive(r geo.Region, lasts time.Duration) {
	p := w.reach(r)
	q := route.Query{Place: geo.Place{Country: "XX", Region: r}, Client: w.client()}
	if w.measuring() {
		w.opened++
	}
	if !w.strict {
		w.serve(p, q, p.router.Pick(q, nil, w.now, w.rng.Uint64()), lasts)
		return
	}
	w.pick(p, &client{q: q, lasts: lasts, until: w.now.Add(patience)})
}

// serve opens the connection that was chosen.
func (w *world) serve(p *pop, q route.Query, choice route.Choice, lasts time.Duration) {
	count, r := w.measuring(), q.Place.Region
	if choice.Backend == nil {
		if count {
			w.refused++
			if w.room("") {
				w.refusedWithRoom++
			}
		}
		return
	}
	b := choice.Backend
	if count && b.Region != r && w.room(r) {
		w.outside++
	}
	p.router.Bind(q, choice, w.now)
	w.load[b.ID]++
	if count && b.HardLimit > 0 {
		w.peak = max(w.peak, float64(w.load[b.ID]-b.HardLimit)/float64(b.HardLimit))
	}
	c := &connection{pop: p, life: p.life, slot: choice.Slot, id: b.ID, opened: w.now}
	p.waiting[c] = true
	w.after(lasts, func() { w.close(c) })
}

// reach is the POP that a client of the region reaches.
func (w *world) reach(r geo.Region) *pop {
	home := w.rng.Float64() < homely
	for {
		p := w.pops[w.rng.IntN(len(w.pops))]
		if !p.dead && (!home || p.region == r) {
			return p
		}
	}
}

func (w *world) client() netip.Addr {
	n := w.rng.Uint32() | 1<<31
	if w.sticky && w.rng.IntN(2) == 0 {
		n = w.rng.Uint32N(2000)
	}
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func (w *world) duration() time.Duration {
	if w.short {
		return seconds(w.rng.ExpFloat64() * meanShort)
	}
	return seconds(shortest / math.Pow(1-w.rng.Float64(), 1/1.5))
}

// rest is how long a connection lasts that is met at any time: with as many of
// them as are offered, the mesh is in its steady state from the start, which a
// Pareto distribution of 1.5 would take hours to reach.
func (w *world) rest() time.Duration {
	if w.short {
		return w.duration()
	}
	if u := w.rng.Float64(); u < 1.0/3 {
		return seconds(3 * u * shortest)
	}
	u := 1 - w.rng.Float64()
	return seconds(shortest / u / u)
}

func seconds(s float64) time.Duration { return time.Duration(min(s, 1e6) * 1e9) }

// offered is how many connections there would be at once without limits.
func (w *world) offered() int {
	soft := 0.0
	for _, b := range w.rows {
		soft += float64(b.SoftLimit)
	}
	return int(w.scenario.load * soft)
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

func (w *world) sample() {
	for _, r := range w.regions {
		worst, load, capacity := 0.0, 0.0, 0.0
		for i, b := range w.rows {
			c := b.Capacity()
			if i == 0 && !w.back.IsZero() {
				c *= min(1, max(0.1, w.now.Sub(w.back).Seconds()/10)) // slow start
			}
			if b.Region != r || !b.Healthy {
				continue
			}
			n := float64(w.load[b.ID])
			worst, load, capacity = max(worst, n/c), load+n, capacity+c
		}
		if load > 0 {
			w.samples = append(w.samples, worst/(load/capacity))
		}
		if r == w.regions[0] && !w.back.IsZero() {
			w.returned = append(w.returned, float64(w.load[w.rows[0].ID])/w.rows[0].Capacity()/(load/capacity))
		}
	}
}

func (w *world) result() result {
	slices.Sort(w.samples)
	r := result{
		imbalance: w.samples[len(w.samples)*99/100], peak: max(0, w.peak), outside: w.outside / w.opened,
		refused: w.refused / w.opened, refusedWithRoom: w.refusedWithRoom / w.opened, delayed: w.delayed / w.opened,
	}
	if len(w.returned) > 0 {
		slices.Sort(w.returned)
		r.returned = w.returned[len(w.returned)*99/100]
	}
	return r
}
