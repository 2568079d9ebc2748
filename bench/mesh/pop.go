package main

import (
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/overlay"
)

// The intervals are those of package gossip.
const (
	announce    = 100 * time.Millisecond // least time between two announcements of heads
	grace       = 200 * time.Millisecond // what was announced has so long to come by itself
	antiEntropy = 10 * time.Second
	stalled     = 2 * time.Second // another POP's answer is not waited for any longer
	dialing     = 3               // round trips until a new link stands
)

// kind is what a message is.
type kind byte

const (
	push kind = iota // a write, or in answer to a pull a stretch of them
	have             // heads
	pull             // heads of what is lacking
	prune
	graft
	beat
)

// stretch is some of an origin's writes, above from and up to to.
type stretch struct{ origin, from, to uint32 }

// message is one frame from a neighbour to a neighbour.
type message struct {
	kind     kind
	from, to *pop
	answer   bool
	stretch  stretch
	list     []stretch
}

// pop is one POP: what it has, and the overlay's own code. Its replica is the
// compact one: rows are not kept, only of which writes it has everything.
type pop struct {
	w     *world
	index uint32
	name  string
	metro metro
	up    bool
	since time.Duration
	quiet bool // writes no more

	trees  *overlay.Trees
	links  map[string]*line
	heads  []uint32 // by origin
	beats  []uint32
	news   map[uint32]bool // heads that were not announced
	asked  map[uint32]time.Duration
	timing bool // an announcement is planned

	bytes uint64
}

// line is this POP's end of a link.
type line struct {
	to    *pop
	known []uint32 // what the other is known to have
	delay time.Duration
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

// write is a change of this POP's own row.
func (p *pop) write() {
	p.heads[p.index]++
	seq := p.heads[p.index]
	p.w.wrote(p, seq)
	p.onward(stretch{p.index, seq - 1, seq}, nil)
	p.changed(p.index)
}

// onward passes a stretch on, as package gossip does: along the tree, and not to
// whoever is known to have it.
func (p *pop) onward(s stretch, from *pop) {
	for _, to := range p.targets(s.origin, from) {
		l := p.links[to]
		if l.known[s.origin] < s.to {
			l.known[s.origin] = s.to
			p.send(&message{kind: push, from: p, to: l.to, stretch: s})
		}
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
	case push:
		p.tookPush(l, m)
	case have:
		for _, s := range m.list {
			l.known[s.origin] = max(l.known[s.origin], s.to)
			p.lacks(l, s.origin)
		}
	case pull:
		for _, s := range m.list {
			if head := p.heads[s.origin]; head > s.from {
				l.known[s.origin] = max(l.known[s.origin], head)
				p.send(&message{kind: push, from: p, to: m.from, answer: true, stretch: stretch{s.origin, s.from, head}})
			}
		}
	case prune:
		p.trees.Pruned(m.from.name, []string{p.w.pops[m.stretch.origin].name})
	case graft:
		p.trees.Grafted(m.from.name, []string{p.w.pops[m.stretch.origin].name})
	case beat:
		p.tookBeat(m)
	}
}

func (p *pop) tookPush(l *line, m *message) {
	s, origin := m.stretch, p.w.pops[m.stretch.origin].name
	p.w.copies++
	l.known[s.origin] = max(l.known[s.origin], s.to)
	head := p.heads[s.origin]
	if !m.answer {
		p.note(m.from, s.origin, origin, head < s.to)
	}
	if head >= s.to {
		return
	}
	if s.from > head { // something before it is lacking
		p.lacks(l, s.origin)
		return
	}
	p.heads[s.origin] = s.to
	delete(p.asked, s.origin)
	p.w.arrived(p, s.origin, head, s.to)
	p.onward(s, m.from)
	p.changed(s.origin)
}

// note tells the overlay of a copy, and the neighbour what follows from it.
func (p *pop) note(from *pop, origin uint32, name string, first bool) {
	m := &message{from: p, to: from, stretch: stretch{origin: origin}}
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

// changed has a head announced to all neighbours that do not know it, soon.
func (p *pop) changed(origin uint32) {
	p.news[origin] = true
	if p.timing {
		return
	}
	p.timing = true
	p.w.clock.after(announce, func() {
		p.timing = false
		news := sorted(p.news)
		clear(p.news)
		if !p.up {
			return
		}
		for _, to := range p.trees.Links() {
			l := p.links[to]
			var list []stretch
			for _, o := range news {
				if l.known[o] < p.heads[o] {
					list = append(list, stretch{origin: o, to: p.heads[o]})
				}
			}
			if len(list) > 0 {
				p.send(&message{kind: have, from: p, to: l.to, list: list})
			}
		}
	})
}

// lacks asks a neighbour for what it has and this POP lacks, if that has not
// come after a while and nobody else was asked for it.
func (p *pop) lacks(l *line, origin uint32) {
	if p.heads[origin] >= l.known[origin] {
		return
	}
	p.w.clock.after(grace, func() {
		at, asked := p.asked[origin]
		if !p.up || p.links[l.to.name] != l || p.heads[origin] >= l.known[origin] || asked && p.w.clock.now-at < stalled {
			return
		}
		p.asked[origin] = p.w.clock.now
		p.w.pulls++
		if name := p.w.pops[origin].name; p.trees.Seek(l.to.name, []string{name}) {
			p.send(&message{kind: graft, from: p, to: l.to, stretch: stretch{origin: origin}})
		}
		p.send(&message{kind: pull, from: p, to: l.to, list: []stretch{{origin: origin, from: p.heads[origin]}}})
	})
}

// round tells two neighbours everything that this POP has.
func (p *pop) round() {
	if names := p.trees.Links(); p.up && len(names) > 0 {
		for range 2 {
			p.tellAll(p.links[names[p.w.clock.rnd.IntN(len(names))]])
		}
	}
	p.w.clock.after(p.w.clock.around(antiEntropy), p.round)
}

func (p *pop) tellAll(l *line) {
	m := &message{kind: have, from: p, to: l.to}
	for o, head := range p.heads {
		if head > 0 {
			m.list = append(m.list, stretch{origin: uint32(o), to: head})
		}
	}
	p.send(m)
}

// beat tells the whole mesh that this POP lives.
func (p *pop) beat(every time.Duration) {
	if p.up && !p.quiet {
		p.beats[p.index]++
		p.pass(p.beats[p.index], p.index, nil)
	}
	p.w.clock.after(every, func() { p.beat(every) })
}

func (p *pop) pass(seq, origin uint32, from *pop) {
	for _, to := range p.targets(origin, from) {
		p.send(&message{kind: beat, from: p, to: p.links[to].to, stretch: stretch{origin: origin, to: seq}})
	}
}

func (p *pop) tookBeat(m *message) {
	origin, first := m.stretch.origin, m.stretch.to > p.beats[m.stretch.origin]
	p.note(m.from, origin, p.w.pops[origin].name, first)
	if first {
		p.beats[origin] = m.stretch.to
		p.pass(m.stretch.to, origin, m.from)
	}
}
