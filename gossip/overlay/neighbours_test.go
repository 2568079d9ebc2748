package overlay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is POPs in a plane, and who of them does not answer.
type world struct {
	names []string
	at    map[string][2]int
	down  map[string]bool
}

func made(n int, rnd *rand.Rand) *world {
	w := &world{at: map[string][2]int{}, down: map[string]bool{}}
	for i := range n {
		name := fmt.Sprintf("pop-%d", i)
		w.names = append(w.names, name)
		metro := rnd.IntN(19) // POPs of one metro are as near as can be
		w.at[name] = [2]int{metro % 5 * 40, metro / 5 * 40}
	}
	return w
}

func (w *world) peers(self string) []Peer {
	var all []Peer
	for _, name := range w.names {
		dx, dy := w.at[self][0]-w.at[name][0], w.at[self][1]-w.at[name][1]
		rtt := time.Duration(max(dx, -dx)+max(dy, -dy)+1) * time.Millisecond
		all = append(all, Peer{Node: name, RTT: rtt, Down: w.down[name]})
	}
	return all
}

// graph is the links that stand when everybody has made its choice: who is
// chosen by others refuses them beyond Most.
func (w *world) graph() map[string]map[string]bool {
	g, chosen := map[string]map[string]bool{}, map[string][]string{}
	for _, name := range w.names {
		g[name] = map[string]bool{}
		if !w.down[name] {
			chosen[name] = Choose(name, w.peers(name))
		}
	}
	for _, mutual := range []bool{true, false} {
		for _, a := range w.names {
			for _, b := range chosen[a] {
				both := slices.Contains(chosen[b], a)
				if w.down[b] || both != mutual || !both && len(g[b]) >= Most(len(w.names)) {
					continue
				}
				g[a][b], g[b][a] = true, true
			}
		}
	}
	return g
}

// reached is how many POPs a write of the first that lives would reach.
func (w *world) reached(g map[string]map[string]bool) (n, alive int) {
	seen := map[string]bool{}
	var queue []string
	for _, name := range w.names {
		if !w.down[name] {
			alive++
			if queue == nil {
				queue, seen[name] = []string{name}, true
			}
		}
	}
	for len(queue) > 0 {
		next := queue[0]
		queue = queue[1:]
		for to := range g[next] {
			if !seen[to] {
				seen[to] = true
				queue = append(queue, to)
			}
		}
	}
	return len(seen), alive
}

// TestConnected: whoever is down, the links of the others are one graph, of
// about the degree that is asked for and of no more than is allowed.
func TestConnected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		w := made(rapid.IntRange(2, 150).Draw(t, "POPs"), rnd)
		for _, share := range []float64{0, rapid.Float64Range(0, 0.97).Draw(t, "down")} {
			for _, name := range w.names {
				w.down[name] = rnd.Float64() < share
			}
			g := w.graph()
			if n, alive := w.reached(g); n != alive && alive > 0 {
				t.Fatalf("%d of %d POPs are connected", n, alive)
			}
			for name, links := range g {
				if n := len(links); n > Most(len(w.names)) {
					t.Errorf("%s has %d links, of at most %d", name, n, Most(len(w.names)))
				}
			}
		}
	})
}

// TestDialsAreBounded: of POPs that are down a few are tried, were it a thousand.
func TestDialsAreBounded(t *testing.T) {
	w := made(1000, rand.New(rand.NewPCG(4, 1)))
	for _, name := range w.names[2:] {
		w.down[name] = true
	}
	down, up := 0, 0
	for _, name := range Choose(w.names[0], w.peers(w.names[0])) {
		if w.down[name] {
			down++
		} else {
			up++
		}
	}
	if up != 1 || down > 4*tries {
		t.Errorf("%d POPs that live, of 1, and %d that are down", up, down)
	}
}

// TestDegree: as many links as the formula has, for a mesh of any size.
func TestDegree(t *testing.T) {
	for _, c := range []struct{ n, want int }{{0, 3}, {1, 3}, {8, 3}, {33, 5}, {100, 6}, {1000, 9}, {10_000, 12}} {
		if got := Degree(c.n); got != c.want {
			t.Errorf("%d POPs: %d neighbours, want %d", c.n, got, c.want)
		}
	}
	for _, n := range []int{33, 100, 1000} {
		w := made(n, rand.New(rand.NewPCG(1, 1)))
		total, most := 0, 0
		for _, links := range w.graph() {
			total += len(links)
			most = max(most, len(links))
		}
		mean := float64(total) / float64(n)
		t.Logf("%d POPs: %.1f links, at most %d", n, mean, most)
		if want := float64(Degree(n)); mean < want-1.5 || mean > want+1.5 {
			t.Errorf("%d POPs: %.1f links on average, want about %v", n, mean, want)
		}
	}
}

// TestChooseIsStable: who is not concerned keeps its neighbours when one POP
// goes, but for a few.
func TestChooseIsStable(t *testing.T) {
	w := made(300, rand.New(rand.NewPCG(2, 1)))
	before := map[string][]string{}
	for _, name := range w.names {
		before[name] = Choose(name, w.peers(name))
	}
	gone := w.names[17]
	w.names = slices.Delete(w.names, 17, 18)
	changed := 0
	for _, name := range w.names {
		after := Choose(name, w.peers(name))
		for _, p := range before[name] {
			if p != gone && !slices.Contains(after, p) {
				changed++
			}
		}
	}
	if changed > 40 {
		t.Errorf("%d links were given up for one POP of 300", changed)
	}
}

// TestChooseNear: of the links that a POP chooses half lead to near POPs.
func TestChooseNear(t *testing.T) {
	w := made(500, rand.New(rand.NewPCG(3, 1)))
	near, all := 0, 0
	for _, name := range w.names {
		for _, p := range Choose(name, w.peers(name)) {
			all++
			if w.at[p] == w.at[name] {
				near++
			}
		}
	}
	if share := float64(near) / float64(all); share < 0.3 || share > 0.6 {
		t.Errorf("%.2f of the links that are chosen stay within the metro", share)
	}
}
