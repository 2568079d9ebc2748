package main

import (
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/overlay"
)

// The intervals are those of package gossip.
const (
	announce    = 100 * time.Millisecond // least time between two announcements of heads
	grace       = 200 * time.Millisecond // what was announced has so long to come by itself
	antiEntropy = 10 * time.Second
	stalled     = 2 * time.Second // an answer is not waited for any longer
	dialing     = 3               // round trips until a new link stands
)

// kind is what a message is.
type kind byte

const (
	push   kind = iota // a delta
	have               // heads
	pull               // all heads: send me the rest
	pulled             // the rest
	prune
	graft
	beat
)

// message is one frame from a neighbour to a neighbour.
type message struct {
	kind     kind
	from, to *pop
	delta    crdt.Delta // of push and pulled,
	length   uint64     // encoded
	heads    []head     // of have
	all      []uint32   // of pull: every head
	origins  []uint32   // of prune and graft
	beat     head
}

// head is up to where something is known of an origin, or which beat it is.
type head struct{ origin, to uint32 }

// pop is one POP: its replica, and the overlay's own code.
type pop struct {
	w     *world
	index uint32
	name  string
	metro metro
	up    bool
	since time.Duration
	quiet bool // writes no more

	replica *crdt.Replica
	writes  int
	heads   []uint32 // the replica's, by origin
	trees   *overlay.Trees
	links   map[string]*line
	beats   []uint32
	news    map[uint32]bool // heads that were not announced
	timing  bool            // an announcement is planned

	bytes uint64
}

// line is this POP's end of a link.
type line struct {
	to     *pop
	known  []uint32 // what the other is known to have
	delay  time.Duration
	timing bool          // a look at what is lacking is planned
	asked  time.Duration // when it was asked for the rest, until the answer; 0: it was not
}

// send puts a message on the line, which may lose it.
func (p *pop) send(m *message) {
	l := p.links[m.to.name]
	if l == nil {
		return
	}
	n := m.size()
	p.bytes += n
	p.w.bytes[m.kind] += n
	if p.w.loss > 0 && p.w.clock.rnd.Float64() < p.w.loss {
		return
	}
	p.w.clock.deliver(l.delay, m)
}

// sharedEvery is how often a POP writes a row that all POPs write.
const sharedEvery = 4

// write is a change of a row: mostly of this POP's own.
func (p *pop) write() {
	p.writes++
	id := p.name
	if p.writes%sharedEvery == 0 {
		id = "shared"
	}
	d := row(p.replica, id, p.w.now(), p.writes)
	p.heads[p.index]++
	p.w.wrote(p, p.heads[p.index])
	p.onward(d, uint64(len(d.Append(nil))), nil)
	p.changed(p.index)
}

// onward passes a delta on, as package gossip does: each range along its
// origin's tree, not to whoever is known to have it, and with the rows that it is
// about.
func (p *pop) onward(d crdt.Delta, length uint64, from *pop) {
	ranges := map[string][]crdt.Range{}
	var order []string
	for _, r := range d.Ranges {
		o := p.w.index[r.Origin]
		for _, to := range p.targets(o, from) {
			l := p.links[to]
			if l.known[o] < uint32(r.To) {
				l.known[o] = uint32(r.To)
				if ranges[to] == nil {
					order = append(order, to)
				}
				ranges[to] = append(ranges[to], r)
			}
		}
	}
	for _, to := range order {
		m := &message{kind: push, from: p, to: p.links[to].to, delta: d, length: length}
		if len(ranges[to]) < len(d.Ranges) {
			m.delta = narrowed(d, ranges[to])
			m.length = uint64(len(m.delta.Append(nil)))
		}
		p.send(m)
	}
}

func (p *pop) targets(origin uint32, from *pop) []string {
	name := ""
	if from != nil {
		name = from.name
	}
	p.w.buffer = p.trees.Targets(p.w.buffer[:0], p.w.pops[origin].name, name)
	return p.w.buffer
}

// took is a message that has arrived.
func (p *pop) took(m *message) {
	l := p.links[m.from.name]
	if l == nil || !p.up {
		return
	}
	switch m.kind {
	case push, pulled:
		p.tookDelta(l, m)
	case have:
		for _, h := range m.heads {
			l.known[h.origin] = max(l.known[h.origin], h.to)
		}
		p.look(l)
	case pull:
		p.answer(l, m)
	case prune:
		p.trees.Pruned(m.from.name, p.w.names(m.origins))
	case graft:
		p.trees.Grafted(m.from.name, p.w.names(m.origins))
	case beat:
		p.tookBeat(m)
	}
}

func (p *pop) tookDelta(l *line, m *message) {
	if m.kind == pulled {
		l.asked = 0
	}
	var fresh []crdt.Range
	for _, r := range m.delta.Ranges {
		o := p.w.index[r.Origin]
		p.w.copied(r)
		l.known[o] = max(l.known[o], uint32(r.To))
		if m.kind == push {
			p.note(m.from, o, uint64(p.heads[o]) < r.To)
		}
		if uint64(p.heads[o]) < r.To {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) > 0 {
		p.replica.Apply(m.delta)
	}
	var moved []crdt.Range
	for _, r := range fresh {
		o := p.w.index[r.Origin]
		if before := p.heads[o]; uint32(r.From) <= before { // else there is a hole below it
			p.heads[o] = uint32(r.To)
			p.w.arrived(p, o, before, uint32(r.To))
			p.changed(o)
			moved = append(moved, r)
		}
	}
	if len(moved) > 0 && m.length <= frameBytes {
		d, length := narrowed(m.delta, moved), m.length
		if len(moved) < len(m.delta.Ranges) {
			length = uint64(len(d.Append(nil)))
		}
		p.onward(d, length, m.from)
	}
	if m.kind == pulled || len(moved) < len(fresh) {
		p.look(l)
	}
}

// note tells the overlay of a copy, and the neighbour what follows from it.
func (p *pop) note(from *pop, origin uint32, first bool) {
	m := &message{from: p, to: from, origins: []uint32{origin}}
	name := p.w.pops[origin].name
	switch {
	case first && p.trees.First(name, from.name):
		m.kind = graft
	case !first && p.trees.Again(name, from.name):
		m.kind = prune
	default:
		return
	}
	p.send(m)
}

// beat tells the whole mesh that this POP lives.
func (p *pop) beat(every time.Duration) {
	if p.up && !p.quiet {
		p.beats[p.index]++
		p.pass(head{p.index, p.beats[p.index]}, nil)
	}
	p.w.clock.after(every, func() { p.beat(every) })
}

func (p *pop) pass(h head, from *pop) {
	for _, to := range p.targets(h.origin, from) {
		p.send(&message{kind: beat, from: p, to: p.links[to].to, beat: h})
	}
}

func (p *pop) tookBeat(m *message) {
	h := m.beat
	first := h.to > p.beats[h.origin]
	p.note(m.from, h.origin, first)
	if first {
		p.beats[h.origin] = h.to
		p.pass(h, m.from)
	}
}
