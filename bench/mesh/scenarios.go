package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// scenario is a mesh, what it writes, and what happens to it.
type scenario struct {
	name    string
	pops    int
	every   time.Duration // each POP changes a row so often
	lasting time.Duration // while it is measured
	loss    float64       // share of the frames that vanish, on streams that lose nothing in fact
	late    int           // POPs that join while it is measured
	happens func(w *world)
	mends   bool // delays have no target: some POPs cannot be reached for a while
}

var scenarios = []scenario{
	{name: "100 POPs", pops: 100, every: 10 * time.Second, lasting: time.Minute},
	{name: "100 POPs, 2 % of frames lost", pops: 100, every: 10 * time.Second, lasting: time.Minute, loss: 0.02, mends: true},
	{name: "100 POPs, 10 die", pops: 100, every: 10 * time.Second, lasting: time.Minute, happens: tenthDies, mends: true},
	{name: "100 POPs, 10 join", pops: 100, every: 10 * time.Second, lasting: time.Minute, late: 10},
	{name: "100 POPs, cut in two for 20 s", pops: 100, every: 10 * time.Second, lasting: time.Minute, happens: cut, mends: true},
	{name: "1000 POPs", pops: 1000, every: 10 * time.Second, lasting: 20 * time.Second},
	{name: "1000 POPs, 2 % of frames lost", pops: 1000, every: 40 * time.Second, lasting: 15 * time.Second, loss: 0.02, mends: true},
	{name: "1000 POPs, 100 die", pops: 1000, every: 40 * time.Second, lasting: 15 * time.Second, happens: tenthDies, mends: true},
	{name: "1000 POPs, 100 join", pops: 1000, every: 40 * time.Second, lasting: 15 * time.Second, late: 100},
	{name: "1000 POPs, cut in two for 20 s", pops: 1000, every: 40 * time.Second, lasting: 30 * time.Second, happens: cut, mends: true},
}

// warm is how long a mesh runs before it is measured: every POP has been heard
// some times by then, so that there are trees.
func (sc scenario) warm() time.Duration {
	if sc.pops > 500 {
		return 12 * time.Second
	}
	return 30 * time.Second
}

// run says what came of it, and meanwhile how far it is.
func (sc scenario) run(seed uint64, progress func(done float64)) result {
	w := newWorld(sc.pops, seed, sc.loss)
	const settling = time.Minute // for what is still on its way at the end
	whole := time.Second + sc.warm() + sc.lasting + settling
	w.second = func() { progress(float64(w.clock.now) / float64(whole)) }
	w.start(w.pops[:sc.pops-sc.late], sc.every)
	w.relink()
	w.run(time.Second + sc.warm())
	w.counting, w.copies, w.pulls = true, 0, 0
	for _, p := range w.pops {
		p.bytes = 0
	}
	if sc.happens != nil {
		sc.happens(w)
	}
	if sc.late > 0 {
		w.clock.after(5*time.Second, func() {
			w.start(w.pops[sc.pops-sc.late:], sc.every)
			w.relink()
		})
	}
	w.run(sc.lasting)
	r := w.result(sc)
	w.counting = false
	for _, p := range w.pops {
		p.quiet = true
	}
	w.run(settling)
	r.left = w.left()
	return r
}

// tenthDies has every tenth POP die; the others notice a second later.
func tenthDies(w *world) {
	w.clock.after(5*time.Second, func() {
		for i, p := range w.pops {
			if i%10 == 3 {
				p.up = false
				w.forget(p)
			}
		}
	})
	w.clock.after(6*time.Second, w.relink)
}

// cut parts the mesh by hemisphere; streams end some seconds later.
func cut(w *world) {
	w.clock.after(5*time.Second, func() { w.side = func(p *pop) bool { return p.metro.at.Lon > 20 } })
	w.clock.after(8*time.Second, w.relink)
	w.clock.after(25*time.Second, func() {
		w.side = nil
		w.relink()
	})
}

// result is what was measured.
type result struct {
	writes            int
	p50, p99, longest time.Duration
	copies            float64 // of a write at a POP
	pulls             int
	rate              float64 // bytes sent per POP and second, on average
	left              int     // POPs that lack something at the end
}

func (w *world) result(sc scenario) (r result) {
	r.writes, r.pulls = len(w.written), w.pulls
	slices.Sort(w.delays)
	if n := len(w.delays); n > 0 {
		r.p50, r.p99, r.longest = w.delays[n/2], w.delays[n*99/100], w.delays[n-1]
		r.copies = float64(w.copies) / float64(n)
	}
	up := 0
	for _, p := range w.pops {
		r.rate += float64(p.bytes) / sc.lasting.Seconds()
		if p.up {
			up++
		}
	}
	r.rate /= float64(up)
	return r
}

// left is how many POPs that live hold other records than the first of them, or
// lack a write that is known anywhere.
func (w *world) left() (n int) {
	most := make([]uint32, len(w.pops))
	var states []crdt.Sum
	for _, p := range w.pops {
		if p.up {
			for o, to := range p.heads {
				most[o] = max(most[o], to)
			}
		}
	}
	for _, p := range w.pops {
		if !p.up {
			continue
		}
		mine := p.replica.States()
		if states == nil {
			states = mine
		}
		if !slices.Equal(states, mine) || !slices.Equal(p.heads, most) || !p.agrees() {
			n++
		}
	}
	return n
}

// agrees says whether the replica's heads are what was counted along.
func (p *pop) agrees() bool {
	heads := p.replica.Heads()
	for o, to := range p.heads {
		if heads[p.w.pops[o].origin()] != uint64(to) {
			return false
		}
	}
	return true
}

// missed says which target was.
func (r result) missed(sc scenario) string {
	switch {
	case r.left > 0:
		return fmt.Sprintf("MISSED: %d POPs lack something", r.left)
	case r.rate > 150e3:
		return "MISSED: over 150 kB/s"
	case sc.mends:
		return ""
	case r.p99 > longest()+50*time.Millisecond:
		return "MISSED: p99 over the longest round trip and 50 ms"
	case r.copies > 1.3:
		return "MISSED: over 1.3 copies"
	}
	return ""
}
