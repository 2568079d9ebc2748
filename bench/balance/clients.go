package main

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

const homely = 0.9 // of the clients reach a POP of their region

// offered is how many connections there would be at once without limits.
func (w *world) offered() int {
	soft := 0.0
	for _, b := range w.rows {
		soft += float64(b.SoftLimit)
	}
	return int(w.scenario.load * soft)
}

// settled has as many clients there as there are at any time.
func (w *world) settled() {
	for range w.offered() {
		r := w.regions[w.rng.IntN(len(w.regions))]
		w.arrive(r, seconds(w.sessions.rest(w.rng)))
	}
}

// arrivals are the connections of one tick.
func (w *world) arrivals() {
	each := float64(w.offered()) / w.sessions.mean() / float64(len(w.regions)) * tick.Seconds()
	for i, r := range w.regions {
		rate := each
		if t := w.now.Sub(start); i == 0 && w.surge > 0 && t >= dies && t < surgeEnd {
			rate *= 1 + (w.surge-1)*min(1, (t-dies).Seconds()/ramp.Seconds())
		}
		for n := poisson(w.rng, rate); n > 0; n-- {
			w.arrive(r, seconds(w.sessions.length(w.rng)))
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
	q := route.Query{Place: geo.Place{Country: "XX", Region: r}, Client: w.address()}
	w.opened++
	if !w.strict {
		w.serve(p, q, p.router.Pick(q, nil, w.now, w.rng.Uint64()), lasts)
		return
	}
	w.pick(p, &client{q: q, lasts: lasts, until: w.now.Add(patience)})
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

// address is a client's. Where clients are sticky, half come from 2000 addresses.
func (w *world) address() netip.Addr {
	n := w.rng.Uint32() | 1<<31
	if w.sticky && w.rng.IntN(2) == 0 {
		n = w.rng.Uint32N(2000)
	}
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}
