package overlay

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// rig runs trees on a graph whose links have delays, message by message.
type rig struct {
	names  []string
	trees  map[string]*Trees
	delay  map[[2]string]int
	queue  messages
	now    int
	seen   map[string]map[string]bool // by POP, by write
	copies map[string]int             // by write: that arrived
}

type message struct {
	at, order      int
	from, to, kind string
	origin, write  string
}

type messages []message

func (m messages) Len() int { return len(m) }
func (m messages) Less(i, j int) bool {
	return m[i].at < m[j].at || m[i].at == m[j].at && m[i].order < m[j].order
}
func (m messages) Swap(i, j int) { m[i], m[j] = m[j], m[i] }
func (m *messages) Push(x any)   { *m = append(*m, x.(message)) }
func (m *messages) Pop() any {
	old := *m
	last := old[len(old)-1]
	*m = old[:len(old)-1]
	return last
}

func newRig(n int, rnd *rand.Rand) *rig {
	r := &rig{trees: map[string]*Trees{}, delay: map[[2]string]int{}, seen: map[string]map[string]bool{}, copies: map[string]int{}}
	w := made(n, rnd)
	r.names = w.names
	for _, name := range w.names {
		r.trees[name], r.seen[name] = NewTrees(name), map[string]bool{}
	}
	for a, links := range w.graph() {
		for b := range links {
			r.trees[a].Up(b)
			r.delay[[2]string{min(a, b), max(a, b)}] = 0
		}
	}
	for _, a := range w.names {
		for _, b := range w.names {
			if _, ok := r.delay[[2]string{a, b}]; ok {
				r.delay[[2]string{a, b}] = 1 + rnd.IntN(100)
			}
		}
	}
	return r
}

func (r *rig) send(m message) {
	if !r.trees[m.from].Linked(m.to) {
		return
	}
	m.at, m.order = r.now+r.delay[[2]string{min(m.from, m.to), max(m.from, m.to)}], r.order()
	heap.Push(&r.queue, m)
}

func (r *rig) order() int { return r.now*1_000_000 + r.queue.Len() }

func (r *rig) push(at, origin, write, from string) {
	r.seen[at][write] = true
	for _, to := range r.trees[at].Targets(nil, origin, from) {
		r.send(message{from: at, to: to, kind: "push", origin: origin, write: write})
	}
}

// run delivers everything.
func (r *rig) run() {
	for r.queue.Len() > 0 {
		m := heap.Pop(&r.queue).(message)
		r.now = m.at
		t := r.trees[m.to]
		if !t.Linked(m.from) {
			continue
		}
		answer := message{from: m.to, to: m.from, origin: m.origin}
		switch {
		case m.kind == "prune":
			t.Pruned(m.from, []string{m.origin})
		case m.kind == "graft":
			t.Grafted(m.from, []string{m.origin})
		case r.seen[m.to][m.write]:
			r.copies[m.write]++
			if t.Again(m.origin, m.from) {
				answer.kind = "prune"
				r.send(answer)
			}
		default:
			r.copies[m.write]++
			if t.First(m.origin, m.from) {
				answer.kind = "graft"
				r.send(answer)
			}
			r.push(m.to, m.origin, m.write, m.from)
		}
	}
}

// lacking is who did not get a write.
func (r *rig) lacking(write string) (names []string) {
	for _, name := range r.names {
		if r.trees[name] != nil && !r.seen[name][write] {
			names = append(names, name)
		}
	}
	return names
}

// cut takes a link away on both sides, and sends what that asks for.
func (r *rig) cut(a, b string) {
	for _, side := range [][2]string{{a, b}, {b, a}} {
		grafts := r.trees[side[0]].Down(side[1])
		for _, to := range r.trees[side[0]].Links() {
			for _, origin := range grafts[to] {
				r.send(message{from: side[0], to: to, kind: "graft", origin: origin})
			}
		}
	}
}

// TestOneCopy: the first write of an origin floods, and every later one crosses
// each POP once, whoever else writes at the same time.
func TestOneCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		r := newRig(rapid.IntRange(3, 60).Draw(t, "POPs"), rnd)
		for round := range 4 {
			for _, origin := range r.names[:min(5, len(r.names))] { // all at once
				r.push(origin, origin, fmt.Sprint(origin, round), "")
			}
			r.run()
			for _, origin := range r.names[:min(5, len(r.names))] {
				write := fmt.Sprint(origin, round)
				if who := r.lacking(write); len(who) > 0 {
					t.Fatalf("round %d: %v did not get it", round, who)
				}
				if n := r.copies[write]; round > 1 && n != len(r.names)-1 {
					t.Errorf("round %d: %d copies at %d POPs", round, n, len(r.names)-1)
				}
			}
		}
	})
}

// TestMended: when links end, the next write arrives all the same, wherever
// the graph is still one, and the one after it in one copy.
func TestMended(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		r := newRig(rapid.IntRange(8, 60).Draw(t, "POPs"), rnd)
		origin := r.names[0]
		for i := range 3 {
			r.push(origin, origin, fmt.Sprint("before", i), "")
			r.run()
		}
		for _, name := range r.names {
			links := r.trees[name].Links()
			if a := links[rnd.IntN(len(links))]; rnd.IntN(3) == 0 && len(links) > 2 && len(r.trees[a].Links()) > 2 {
				r.cut(name, a)
			}
		}
		whole := r.reach(origin)
		r.run()
		for i := range 3 {
			write := fmt.Sprint("after", i)
			r.push(origin, origin, write, "")
			r.run()
			// A POP whose feeds all lie below it in the tree is found by what its
			// neighbours say they have: that is not here, so some may lack it.
			for again := true; again; {
				again = false
				for _, name := range r.lacking(write) {
					again = r.seek(name, origin, write) || again
				}
				r.run()
			}
		}
		if n := r.copies["after2"]; len(whole) > 1 && n > len(whole)-1 {
			t.Errorf("%d copies at %d POPs", n, len(whole))
		}
		for name := range whole {
			if !r.seen[name]["after0"] {
				t.Errorf("%s did not get the first write after the cuts", name)
			}
		}
	})
}

// seek is what a POP does that hears from a neighbour that it has the write.
func (r *rig) seek(name, origin, write string) bool {
	for _, p := range r.trees[name].Links() {
		if r.seen[p][write] && r.trees[name].Seek(p, []string{origin}) {
			r.send(message{from: name, to: p, kind: "graft", origin: origin})
			r.send(message{from: p, to: name, kind: "push", origin: origin, write: write})
			return true
		}
	}
	return false
}

// reach is who can be reached from there.
func (r *rig) reach(from string) map[string]bool {
	seen, queue := map[string]bool{from: true}, []string{from}
	for len(queue) > 0 {
		for _, p := range r.trees[queue[0]].Links() {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
		queue = queue[1:]
	}
	return seen
}

// TestLastLink: the only link that an origin's writes come by is not pruned.
func TestLastLink(t *testing.T) {
	tr := NewTrees("a")
	tr.Up("b")
	tr.Up("c")
	if !tr.Again("o", "b") {
		t.Error("a second copy, and no prune")
	}
	if tr.Again("o", "c") {
		t.Error("the last link is pruned")
	}
	if !tr.First("o", "b") {
		t.Error("a link that was pruned and is the quickest again is not grafted")
	}
	if !tr.Again("a", "b") || !tr.Again("a", "c") {
		t.Error("what was written here is taken back")
	}
	if got := tr.Down("b"); len(got) != 0 {
		t.Errorf("grafts %v, but c feeds it", got)
	}
}

// TestTargets: not back, not to where it was written, not where it was pruned.
func TestTargets(t *testing.T) {
	tr := NewTrees("a")
	for _, p := range []string{"e", "b", "d", "c"} {
		tr.Up(p)
	}
	tr.Pruned("d", []string{"e"})
	tr.Pruned("nobody", []string{"e"})
	if got := tr.Targets(nil, "e", "b"); !slices.Equal(got, []string{"c"}) {
		t.Errorf("%v, want c", got)
	}
	tr.Grafted("d", []string{"e"})
	if got := tr.Targets(nil, "e", ""); !slices.Equal(got, []string{"b", "c", "d"}) {
		t.Errorf("%v, want b, c, d", got)
	}
}

// TestManyOrigins: names that a peer makes up take bounded memory, and flood.
func TestManyOrigins(t *testing.T) {
	tr := NewTrees("a")
	tr.Up("b")
	tr.Up("c")
	for i := range maxOrigins + 100 {
		tr.Pruned("b", []string{fmt.Sprint(i)})
	}
	if n := len(tr.Origins()); n != maxOrigins {
		t.Errorf("%d origins are kept", n)
	}
	if got := tr.Targets(nil, fmt.Sprint(maxOrigins+50), ""); len(got) != 2 {
		t.Errorf("one too many goes to %v", got)
	}
	if tr.Again(fmt.Sprint(maxOrigins+50), "b") {
		t.Error("one too many is pruned")
	}
}
