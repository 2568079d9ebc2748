package rights

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPartitions: the mesh falls apart and comes together again, with clients
// everywhere who take whatever they can get, deaths at the worst moments, and
// mail that arrives long after it was sent. There are never more connections
// than the limit.
func TestPartitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(2, 5).Draw(t, "POPs"), rapid.SampledFrom([]int64{1, 10, 100}).Draw(t, "limit"))
		w.calm(time.Second)
		var late []letter
		for range rapid.IntRange(1, 12).Draw(t, "phases") {
			groups := map[string]int{}
			for _, x := range w.nodes {
				groups[x.name] = rapid.IntRange(0, 2).Draw(t, "group of "+x.name)
				w.fate(t, x)
			}
			w.note("groups %v", groups)
			loss := rapid.SampledFrom([]int{0, 0, 30, 60}).Draw(t, "loss in %")
			for range rapid.SampledFrom([]int{1, 3, 10, 60, 100}).Draw(t, "quarters of a second") {
				late = append(late, w.apart(t, groups, loss)...)
				w.check(t)
			}
			if n := len(late); n > 0 && rapid.Bool().Draw(t, "late mail arrives") {
				w.mail = append(w.mail, late[rapid.IntRange(0, n-1).Draw(t, "which"):]...)
				late = nil
			}
		}
	})
}

// fate is what becomes of a POP between two phases.
func (w *world) fate(t *rapid.T, x *node) {
	switch what := rapid.IntRange(0, 11).Draw(t, "fate of "+x.name); {
	case what < 2 && x.book != nil:
		w.note("%s dies", x.name)
		w.kill(x)
	case what < 5 && x.book == nil:
		w.note("%s starts", x.name)
		w.start(x)
	case what == 5:
		for x.close() {
		}
	case what < 8:
		x.asks, x.spare = rapid.Int64Range(0, w.limit).Draw(t, "asks"), rapid.Int64Range(0, w.limit).Draw(t, "spare")
	}
}

// apart is a quarter of a second in which mail goes within groups only, and
// everybody opens what he can. It returns what did not arrive.
func (w *world) apart(t *rapid.T, groups map[string]int, loss int) (lost []letter) {
	all := w.seen(&node{})
	random := rapid.Uint64().Draw(t, "random")
	w.now = w.now.Add(250 * time.Millisecond)
	for _, x := range w.nodes {
		x.alive = maps.Clone(all)
		maps.DeleteFunc(x.alive, func(name string, _ uint64) bool { return name == x.name || groups[name] != groups[x.name] })
		w.tick(x)
	}
	for range 10 { // round trips
		mail := slices.Clone(w.mail)
		w.mail = nil
		for _, l := range mail {
			random = random*6364136223846793005 + 1442695040888963407
			if groups[l.from] != groups[l.To] || int(random>>33)%100 < loss {
				lost = append(lost, l)
				continue
			}
			w.deliver(l)
		}
		for _, x := range w.nodes {
			for x.book != nil && x.asks > 0 && x.open() {
			}
		}
	}
	return lost
}
