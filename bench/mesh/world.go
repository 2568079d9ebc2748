package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/overlay"
)

// world is all POPs, the network between them, and what is measured.
type world struct {
	clock  clock
	pops   []*pop
	byName map[string]*pop
	index  map[crdt.Origin]uint32
	loss   float64
	side   func(*pop) bool // of a partition; nil: there is none
	buffer []string

	second   func() // called after each of virtual time
	counting bool
	written  map[head]time.Duration // of writes that count: when
	delays   []time.Duration
	copies   int
	pulls    int
	bytes    [beat + 1]uint64
}

func newWorld(n int, seed uint64, loss float64) *world {
	w := &world{loss: loss, byName: map[string]*pop{}, index: map[crdt.Origin]uint32{}, written: map[head]time.Duration{}}
	w.clock.rnd = rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		name := fmt.Sprintf("%s-%d", metros[i%len(metros)].code, i)
		p := &pop{
			w: w, index: uint32(i), name: name, metro: metros[i%len(metros)],
			trees: overlay.NewTrees(name), links: map[string]*line{}, heads: make([]uint32, n), beats: make([]uint32, n),
			news: map[uint32]bool{},
		}
		p.replica = crdt.NewReplica(p.origin())
		w.pops, w.byName[name], w.index[p.origin()] = append(w.pops, p), p, uint32(i)
	}
	return w
}

// now is virtual time in ms since 1970.
func (w *world) now() int64 { return epoch + w.clock.now.Milliseconds() }

func (w *world) names(origins []uint32) []string {
	names := make([]string, 0, len(origins))
	for _, o := range origins {
		names = append(names, w.pops[o].name)
	}
	return names
}

func sorted(set map[uint32]bool) []uint32 { return slices.Sorted(maps.Keys(set)) }

// reaches says whether two POPs can talk.
func (w *world) reaches(a, b *pop) bool {
	return a.up && b.up && (w.side == nil || w.side(a) == w.side(b))
}

// relink has every POP choose its neighbours, with who does not answer, and
// makes and ends links; new ones stand some round trips later.
func (w *world) relink() {
	wanted := map[[2]*pop]bool{}
	for _, p := range w.pops {
		if !p.up {
			continue
		}
		peers := make([]overlay.Peer, 0, len(w.pops))
		for _, q := range w.pops {
			if q != p && (q.up || q.heads[q.index] > 0) { // who never was there is on no list
				peers = append(peers, overlay.Peer{Node: q.name, RTT: 2 * oneWay(p.metro, q.metro), Down: !w.reaches(p, q)})
			}
		}
		for _, name := range overlay.Choose(p.name, peers) {
			if q := w.byName[name]; w.reaches(p, q) {
				wanted[[2]*pop{w.pops[min(p.index, q.index)], w.pops[max(p.index, q.index)]}] = true
			}
		}
	}
	for _, p := range w.pops {
		for _, name := range slices.Sorted(maps.Keys(p.links)) {
			q := w.byName[name]
			if !wanted[[2]*pop{w.pops[min(p.index, q.index)], w.pops[max(p.index, q.index)]}] {
				w.unlink(p, q)
				w.unlink(q, p)
			}
		}
	}
	pairs := slices.SortedFunc(maps.Keys(wanted), func(a, b [2]*pop) int {
		return int(a[0].index*100_000+a[1].index) - int(b[0].index*100_000+b[1].index)
	})
	for _, pair := range pairs {
		p, q := pair[0], pair[1]
		if p.links[q.name] == nil {
			w.clock.after(2*dialing*oneWay(p.metro, q.metro), func() { w.link(p, q) })
		}
	}
}

func (w *world) link(p, q *pop) {
	if !w.reaches(p, q) || p.links[q.name] != nil {
		return
	}
	for _, ends := range [][2]*pop{{p, q}, {q, p}} {
		ends[0].links[ends[1].name] = &line{to: ends[1], known: make([]uint32, len(w.pops)), delay: oneWay(p.metro, q.metro)}
		ends[0].trees.Up(ends[1].name)
	}
	p.tellAll(p.links[q.name]) // the hellos
	q.tellAll(q.links[p.name])
}

func (w *world) unlink(p, q *pop) {
	delete(p.links, q.name)
	grafts := p.trees.Down(q.name)
	for _, to := range slices.Sorted(maps.Keys(grafts)) {
		m := &message{kind: graft, from: p, to: p.links[to].to}
		for _, name := range grafts[to] {
			m.origins = append(m.origins, w.byName[name].index)
		}
		p.send(m)
	}
}

// forget ends all links with a POP that has died.
func (w *world) forget(p *pop) {
	for _, name := range slices.Sorted(maps.Keys(p.links)) {
		w.unlink(w.byName[name], p)
		delete(p.links, name)
		p.trees.Down(name)
	}
}

// start has POPs come up, which write, beat and compare from then on.
func (w *world) start(pops []*pop, every time.Duration) {
	for _, p := range pops {
		p.up, p.since = true, w.clock.now
		row(p.replica, p.name, w.now(), 0)
		p.heads[p.index]++
		w.clock.after(w.clock.around(antiEntropy), p.round)
		w.clock.after(w.clock.around(every), func() { w.keepWriting(p, every) })
		if pace := w.beatEvery(); pace > 0 {
			w.clock.after(w.clock.around(pace), func() { p.beat(pace) })
		}
	}
}

// beatEvery is package gossip's.
func (w *world) beatEvery() time.Duration {
	return min(max(time.Duration(len(w.pops))*4*time.Millisecond, 250*time.Millisecond), 4*time.Second)
}

func (w *world) keepWriting(p *pop, every time.Duration) {
	if p.up && !p.quiet {
		p.write()
	}
	w.clock.after(w.clock.around(every), func() { w.keepWriting(p, every) })
}

// run lets so much time pass.
func (w *world) run(d time.Duration) {
	end := w.clock.now + d
	told := w.clock.now.Truncate(time.Second)
	for len(w.clock.queue) > 0 && w.clock.queue[0].at <= end {
		e := w.clock.queue.pop()
		if w.clock.now = e.at; w.clock.now >= told+time.Second {
			told = w.clock.now.Truncate(time.Second)
			w.second()
		}
		if e.msg != nil {
			e.msg.to.took(e.msg)
		} else {
			e.do()
		}
	}
	w.clock.now = end
}

// wrote is that a write is to arrive everywhere.
func (w *world) wrote(p *pop, seq uint32) {
	if w.counting {
		w.written[head{p.index, seq}] = w.clock.now
	}
}

// copied is that writes have come to a POP, whether or not it had them.
func (w *world) copied(r crdt.Range) {
	for seq := r.From + 1; seq <= r.To; seq++ {
		if _, ok := w.written[head{w.index[r.Origin], uint32(seq)}]; ok {
			w.copies++
		}
	}
}

// arrived is that a POP has some writes now.
func (w *world) arrived(p *pop, origin, from, to uint32) {
	for seq := from + 1; seq <= to; seq++ {
		if at, ok := w.written[head{origin, seq}]; ok && at >= p.since {
			w.delays = append(w.delays, w.clock.now-at)
		}
	}
}
