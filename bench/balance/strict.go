package main

import (
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/proxy/route/rights"
)

const (
	patience = time.Second            // of a client that waits for a right
	oneWay   = 50 * time.Millisecond  // between two POPs, ± 25 ms
	looks    = 250 * time.Millisecond // how often a POP looks at what it needs
)

// strict is a POP's part in strict limits.
type strict struct {
	book  *rights.Book
	queue []*client // who waits
}

// client is one that has been accepted.
type client struct {
	q       route.Query
	lasts   time.Duration
	until   time.Time
	delayed bool
	lacks   string
	urgent  bool
}

func (w *world) bornStrict(p *pop) {
	first := p.strict == nil
	p.strict = &strict{book: rights.New(p.name, p.life)}
	if first {
		w.after(time.Duration(w.rng.Float64()*float64(looks)), func() { w.look(p) })
	}
}

// settleRights lets the POPs find out who grants what, before anybody comes.
func (w *world) settleRights() {
	for end := w.now.Add(5 * time.Second); w.now.Before(end); {
		w.pass(tick)
	}
}

func (w *world) look(p *pop) {
	if !p.dead {
		var roster []string
		alive := map[string]uint64{}
		for _, o := range w.pops {
			if o != p {
				roster = append(roster, o.name)
			}
			if o != p && !o.dead {
				alive[o.name] = o.life
			}
		}
		p.strict.book.SetMesh(rights.Mesh{Roster: roster, Alive: alive, Met: true})
		var demands []rights.Demand
		for _, n := range p.router.Needs(w.now) {
			demands = append(demands, p.demand(n))
		}
		w.post(p, p.strict.book.Tick(w.now, demands))
	}
	w.after(looks, func() { w.look(p) })
}

func (p *pop) demand(n route.Need) rights.Demand {
	d := rights.Demand{Backend: n.Backend, Limit: n.Limit, Spare: n.Spare, Places: n.Slot.Rights()}
	d.Waiting, d.Urgent = p.waitingFor(n.Backend)
	return d
}

func (p *pop) waitingFor(backend string) (n int64, urgent bool) {
	for _, c := range p.strict.queue {
		if c.lacks == backend {
			n++
			urgent = urgent || c.urgent
		}
	}
	return n, urgent
}

func (w *world) post(p *pop, out []rights.Message) {
	for _, m := range out {
		i := slices.IndexFunc(w.pops, func(o *pop) bool { return o.name == m.To })
		to, life := w.pops[i], w.pops[i].life
		w.after(oneWay/2+time.Duration(w.rng.Float64()*float64(oneWay)), func() {
			if to.dead || to.life != life {
				return
			}
			w.post(to, to.strict.book.Receive(w.now, p.name, m))
			if m.Grant != nil {
				w.again(to, m.Grant.Backend)
			}
		})
	}
}

// again has those pick who wait for the backend.
func (w *world) again(p *pop, backend string) {
	var due []*client
	p.strict.queue = slices.DeleteFunc(p.strict.queue, func(c *client) bool {
		if c.lacks == backend {
			due = append(due, c)
		}
		return c.lacks == backend
	})
	for _, c := range due {
		w.pick(p, c)
	}
}

// pick serves a client, or has it wait for a right.
func (w *world) pick(p *pop, c *client) {
	c.q.Waits = w.now.Before(c.until)
	choice := p.router.Pick(c.q, nil, w.now, w.rng.Uint64())
	if choice.Lacks == "" {
		w.serve(p, c.q, choice, c.lasts)
		return
	}
	first := !c.delayed
	if first {
		w.delayed++
	}
	c.delayed, c.lacks, c.urgent = true, choice.Lacks, choice.Urgent
	p.strict.queue = append(p.strict.queue, c)
	waiting, urgent := p.waitingFor(c.lacks)
	w.post(p, p.strict.book.Ask(w.now, c.lacks, waiting, urgent))
	if first {
		w.after(patience, func() {
			if i := slices.Index(p.strict.queue, c); i >= 0 {
				p.strict.queue = slices.Delete(p.strict.queue, i, i+1)
				w.pick(p, c)
			}
		})
	}
}
