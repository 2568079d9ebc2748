package main

import (
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// frameBytes is package gossip's: what is longer comes in several frames, and
// is not passed on but pulled.
const frameBytes = 64 << 10

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
			var heads []head
			for _, o := range news {
				if l.known[o] < p.heads[o] {
					heads = append(heads, head{o, p.heads[o]})
				}
			}
			if len(heads) > 0 {
				p.send(&message{kind: have, from: p, to: l.to, heads: heads})
			}
		}
	})
}

// round tells two neighbours everything that this POP has, and looks at what
// they have beyond it.
func (p *pop) round() {
	if names := p.trees.Links(); p.up && len(names) > 0 {
		for range 2 {
			l := p.links[names[p.w.clock.rnd.IntN(len(names))]]
			p.tellAll(l)
			p.look(l)
		}
	}
	p.w.clock.after(p.w.clock.around(antiEntropy), p.round)
}

func (p *pop) tellAll(l *line) {
	m := &message{kind: have, from: p, to: l.to}
	for o, to := range p.heads {
		if to > 0 {
			m.heads = append(m.heads, head{uint32(o), to})
		}
	}
	p.send(m)
}

// look asks a neighbour for what it has and this POP lacks, if that has not
// come after a while, one question at a time.
func (p *pop) look(l *line) {
	if l.timing || len(p.lacking(l)) == 0 {
		return
	}
	l.timing = true
	p.w.clock.after(grace, func() {
		l.timing = false
		lacking := p.lacking(l)
		switch {
		case !p.up || p.links[l.to.name] != l || len(lacking) == 0:
			return
		case l.asked > 0 && p.w.clock.now-l.asked < stalled, p.elsewhere(l, lacking):
			p.look(l)
			return
		}
		l.asked = p.w.clock.now
		p.w.pulls++
		if p.trees.Seek(l.to.name, p.w.names(lacking)) {
			p.send(&message{kind: graft, from: p, to: l.to, origins: lacking})
		}
		p.send(&message{kind: pull, from: p, to: l.to, all: slices.Clone(p.heads)})
	})
}

// lacking are the origins of which the neighbour has more.
func (p *pop) lacking(l *line) (origins []uint32) {
	for o, known := range l.known {
		if p.heads[o] < known {
			origins = append(origins, uint32(o))
		}
	}
	return origins
}

// elsewhere says whether another neighbour is sending all of that.
func (p *pop) elsewhere(l *line, lacking []uint32) bool {
	for _, name := range p.trees.Links() {
		o := p.links[name]
		if o == l || o.asked == 0 || p.w.clock.now-o.asked >= stalled {
			continue
		}
		if !slices.ContainsFunc(lacking, func(i uint32) bool { return o.known[i] < l.known[i] }) {
			return true
		}
	}
	return false
}

// answer sends what another POP lacks.
func (p *pop) answer(l *line, m *message) {
	have := crdt.Heads{}
	for o, to := range m.all {
		if l.known[o] = max(l.known[o], to); to > 0 {
			have[p.w.pops[o].origin()] = uint64(to)
		}
	}
	d, _ := p.replica.Since(have, 1<<30)
	for _, r := range d.Ranges {
		o := p.w.index[r.Origin]
		l.known[o] = max(l.known[o], uint32(r.To))
	}
	p.send(&message{kind: pulled, from: p, to: m.from, delta: d, length: uint64(len(d.Append(nil)))})
}

func (p *pop) origin() crdt.Origin { return crdt.Origin{Node: p.name, Epoch: 1} }

// narrowed is package gossip's: of a delta these ranges, and the records that
// they are about.
func narrowed(d crdt.Delta, ranges []crdt.Range) crdt.Delta {
	if len(ranges) == len(d.Ranges) {
		return d
	}
	part := crdt.Delta{Ranges: ranges}
	for _, rec := range d.Records {
		in := false
		rec.Owners(func(st crdt.Stamp) bool {
			in = slices.ContainsFunc(ranges, func(r crdt.Range) bool {
				return r.Origin == st.Origin && st.Seq > r.From && st.Seq <= r.To
			})
			return !in
		})
		if in {
			part.Records = append(part.Records, rec)
		}
	}
	return part
}
