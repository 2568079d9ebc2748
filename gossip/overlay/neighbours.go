package overlay

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Peer is another POP of the mesh.
type Peer struct {
	Node string
	RTT  time.Duration // 0: not known, which counts as far
	Down bool          // does not answer: tried, and another chosen as well
}

// tries is how many POPs that are down are still tried, of each kind: they may be
// back, and after a partition their side must be found again. Further ones are
// left out, and the search goes on behind them.
const tries = 8

// Choose is the POPs to hold a link with, by name: both neighbours on the ring,
// and so many others that with those by whom this POP is chosen it has about
// Degree. Who is down is among them, and whoever stands in for it.
func Choose(self string, peers []Peer) []string {
	c := &choice{wanted: map[string]bool{}}
	for _, p := range peers {
		if p.Node == self {
			continue
		}
		d := candidate{Peer: p, place: place(p.Node), chance: hash(self, p.Node), far: math.MaxInt64}
		if p.RTT > 0 {
			d.far = p.RTT.Truncate(time.Millisecond) // within a metro chance decides
		}
		c.all = append(c.all, d)
	}
	c.ring(self)
	c.others()
	return slices.Sorted(maps.Keys(c.wanted))
}

type candidate struct {
	Peer
	place  uint64 // on the ring
	chance uint64 // another one for every POP (rendezvous hashing)
	far    time.Duration
}

// place has nothing to do with where a POP is.
func place(node string) uint64 { return hash("ring", node) }

type choice struct {
	all    []candidate
	wanted map[string]bool
}

// ring takes the next POP on either side.
func (c *choice) ring(self string) {
	slices.SortFunc(c.all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.place, b.place), cmp.Compare(a.Node, b.Node))
	})
	here := place(self)
	next, _ := slices.BinarySearchFunc(c.all, self, func(p candidate, self string) int {
		return cmp.Or(cmp.Compare(p.place, here), cmp.Compare(p.Node, self))
	})
	up := slices.Concat(c.all[next:], c.all[:next])
	c.walk(up)
	slices.Reverse(up)
	c.walk(up)
}

// walk goes along the ring up to the first that is not down, however far that
// is: only so is the ring whole among those that live.
func (c *choice) walk(list []candidate) {
	for i, p := range list {
		if !p.Down || i < tries {
			c.wanted[p.Node] = true
		}
		if !p.Down {
			return
		}
	}
}

// others takes from the near and the middle third. A link counts on both its
// sides, so half of what is lacking is chosen here.
func (c *choice) others() {
	picks := int(math.Round(float64(Degree(len(c.all)+1)-2) / 2))
	mid := picks * 2 / 5 // half near and a third in the middle are 3 : 2
	slices.SortFunc(c.all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.far, b.far), byChance(a, b))
	})
	third := len(c.all) / 3
	middle := slices.Clone(c.all[third : len(c.all)-third])
	slices.SortFunc(middle, byChance)
	lacking := c.take(mid, middle)
	c.take(picks-mid+lacking, c.all)
}

func byChance(a, b candidate) int {
	return cmp.Or(cmp.Compare(a.chance, b.chance), cmp.Compare(a.Node, b.Node))
}

// take goes along a list until so many are chosen that are not down, and says
// how many are still to be found. Who is chosen already does not count.
func (c *choice) take(n int, list []candidate) int {
	down := 0
	for _, p := range list {
		switch {
		case n <= 0:
			return 0
		case c.wanted[p.Node]:
		case !p.Down:
			c.wanted[p.Node] = true
			n--
		case down < tries:
			c.wanted[p.Node] = true
			down++
		}
	}
	return n
}
