package rights

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// places is one POP's connections with the backend.
type places struct {
	own, spare, ended int64
	hold, some        bool
}

func (p *places) Spare() int64      { return p.spare }
func (p *places) AddRights(n int64) { p.spare += n }
func (p *places) Hold(on bool)      { p.hold = on }
func (p *places) Offer(some bool)   { p.some = some }

func (p *places) GiveBack(n int64) int64 {
	n = max(0, min(n, p.spare))
	p.spare -= n
	return n
}

func (p *places) Ended() int64 {
	n := p.ended
	p.ended = 0
	return n
}

// open takes a place if there is a right to it.
func (p *places) open() bool {
	if p.spare <= 0 {
		return false
	}
	p.own, p.spare = p.own+1, p.spare-1
	return true
}

// openAnyway is a connection from before there were rights.
func (p *places) openAnyway() { p.own, p.spare = p.own+1, p.spare-1 }

func (p *places) close() bool {
	if p.own == 0 {
		return false
	}
	p.own--
	if p.hold {
		p.ended++
	} else {
		p.spare++
	}
	return true
}

// node is one POP, whose process may be dead.
type node struct {
	name   string
	life   uint64
	book   *Book // nil: dead
	limit  int64
	spare  int64
	asks   int64
	roster []string
	alive  map[string]uint64 // nil: whoever is
	*places
}

type letter struct {
	from string
	Message
}

// world is a mesh with one backend, with time and mail in the test's hands.
type world struct {
	now   time.Time
	limit int64
	nodes []*node
	mail  []letter
	lives uint64
	log   []string
}

const theBackend = "b"

func newWorld(n int, limit int64) *world {
	w := &world{now: time.Unix(1e9, 0), limit: limit}
	for i := range n {
		w.nodes = append(w.nodes, &node{name: fmt.Sprintf("p%d", i), limit: limit, spare: 1})
	}
	for _, x := range w.nodes {
		w.start(x)
	}
	return w
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, w.now.Format("04:05.000 ")+fmt.Sprintf(format, args...))
}

// start begins another life of a POP. Everybody has it on the roster.
func (w *world) start(x *node) {
	w.lives++
	x.life, x.places = w.lives, &places{}
	x.book = New(x.name, x.life)
	x.roster = nil
	for _, o := range w.nodes {
		if o == x {
			continue
		}
		if o.book != nil || slices.ContainsFunc(w.nodes, func(k *node) bool { return k.book != nil && slices.Contains(k.roster, o.name) }) {
			x.roster = append(x.roster, o.name)
		}
		if o.book != nil && !slices.Contains(o.roster, x.name) {
			o.roster = append(o.roster, x.name)
		}
	}
}

func (w *world) kill(x *node) { x.book, x.places = nil, &places{} }

// forget takes a dead POP off all rosters.
func (w *world) forget(x *node) {
	for _, o := range w.nodes {
		o.roster = slices.DeleteFunc(slices.Clone(o.roster), func(name string) bool { return name == x.name })
	}
}

// node is nil where there is none of that name.
func (w *world) node(name string) *node {
	for _, x := range w.nodes {
		if x.name == name {
			return x
		}
	}
	return nil
}

func (w *world) seen(x *node) map[string]uint64 {
	if x.alive != nil {
		return x.alive
	}
	all := map[string]uint64{}
	for _, o := range w.nodes {
		if o != x && o.book != nil {
			all[o.name] = o.life
		}
	}
	return all
}

func (x *node) demand() Demand {
	return Demand{Backend: theBackend, Limit: x.limit, Spare: x.spare, Waiting: x.asks, Urgent: x.asks > 0, Places: x.places}
}

func (w *world) tick(x *node) {
	if x.book == nil {
		return
	}
	x.book.SetMesh(Mesh{Roster: x.roster, Alive: w.seen(x), Met: true})
	w.post(x, x.book.Tick(w.now, []Demand{x.demand()}))
}

func (w *world) post(x *node, out []Message) {
	for _, m := range out {
		w.mail = append(w.mail, letter{x.name, m})
	}
}

func (w *world) deliver(l letter) {
	if x := w.node(l.To); x != nil && x.book != nil {
		w.post(x, x.book.Receive(w.now, l.from, l.Message))
	}
}

// calm lets everything arrive for a while, in order.
func (w *world) calm(lasts time.Duration) {
	for end := w.now.Add(lasts); w.now.Before(end); w.now = w.now.Add(250 * time.Millisecond) {
		for _, x := range w.nodes {
			w.tick(x)
		}
		for n := 0; len(w.mail) > 0; n++ {
			if n > 10000 {
				panic("they never stop talking: " + w.state())
			}
			l := w.mail[0]
			w.mail = w.mail[1:]
			w.deliver(l)
		}
	}
}

// sums are the connections and the rights over all POPs that live.
func (w *world) sums() (connections, rights int64) {
	for _, x := range w.nodes {
		if x.book != nil {
			connections += x.own
			rights += x.own + max(0, x.places.spare)
		}
	}
	return connections, rights
}

// check fails where there are more than there may be.
func (w *world) check(t interface{ Fatalf(string, ...any) }) {
	if c, r := w.sums(); c > w.limit || r > w.limit {
		t.Fatalf("%d connections, %d with rights, at most %d are allowed\n%s\n%s", c, r, w.limit, w.state(), strings.Join(w.log, "\n"))
	}
}

func (w *world) state() string {
	var b strings.Builder
	for _, x := range w.nodes {
		fmt.Fprintf(&b, "%s life %d roster %v", x.name, x.life, x.roster)
		if x.book == nil {
			b.WriteString(" dead\n")
			continue
		}
		fmt.Fprintf(&b, " own %d spare %d", x.own, x.places.spare)
		if a := x.book.accounts[theBackend]; a != nil {
			fmt.Fprintf(&b, " term %v rights %d kept %v", a.term, a.rights, a.kept)
			if o := a.office; o != nil {
				fmt.Fprintf(&b, " home, seated %v, written %d of %v", o.seated, o.written, o.ledger)
				for name, h := range o.holders {
					fmt.Fprintf(&b, " %s:%d(want %d)", name, h.granted, h.want)
				}
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// homes are the POPs that grant.
func (w *world) homes() (names []string) {
	for _, x := range w.nodes {
		if x.book != nil && x.book.accounts[theBackend].office != nil && x.book.accounts[theBackend].office.seated {
			names = append(names, x.name)
		}
	}
	return names
}

// fill has a POP take whatever it can get.
func (w *world) fill(x *node) (opened int64) {
	for range 40 {
		for x.open() {
			opened++
		}
		x.asks = 1
		w.calm(time.Second)
	}
	x.asks = 0
	return opened
}

func (w *world) expect(t testing.TB, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d, want %d\n%s", what, got, want, w.state())
	}
}
