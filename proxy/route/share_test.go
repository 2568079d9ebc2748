package route

import (
	"fmt"
	"testing"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// TestShares: connections that stay spread in proportion to soft_limit times weight.
func TestShares(t *testing.T) {
	r := newRouter(snapshot("sa",
		backend("a", "sa", weight(1), soft(10)),
		backend("b", "sa", weight(3), soft(10)),
		backend("c", "sa", weight(2), soft(30)),
		backend("zero", "sa", weight(0), soft(0)), // counts as 1 and 1
	))
	for i := range 1010 {
		if r.Pick(from("BR"), nil, noon, uint64(i)*0x9e3779b97f4a7c15).Backend == nil {
			t.Fatal("none")
		}
	}
	for id, want := range map[string]int64{"a": 100, "b": 300, "c": 600, "zero": 10} {
		if got := r.own(id); got < want-1 || got > want+1 {
			t.Errorf("%s has %d connections, want %d", id, got, want)
		}
	}
}

// TestFewestConnectionsWin, measured by what each can take.
func TestFewestConnectionsWin(t *testing.T) {
	for _, c := range []struct {
		a, b   mesh.Backend
		na, nb int64
		want   string
	}{
		{backend("a", "sa"), backend("b", "sa"), 1, 0, "b"},
		{backend("a", "sa", weight(2)), backend("b", "sa"), 1, 1, "a"},
		{backend("a", "sa", soft(100)), backend("b", "sa"), 3, 2, "a"},
		{backend("a", "sa", weight(2)), backend("b", "sa"), 3, 1, "b"},
		{backend("a", "sa", soft(0)), backend("b", "sa", soft(2)), 1, 1, "b"},
		{backend("a", "sa", weight(0)), backend("b", "sa", weight(2)), 1, 1, "b"},
		{backend("a", "sa", soft(mesh.MaxNumber), weight(mesh.MaxNumber)), backend("b", "sa"), 1_000_000, 1, "a"},
		{backend("a", "sa", soft(1)), backend("b", "sa"), 100, 4999, "b"}, // beyond the soft limit, by a hair
	} {
		r := newRouter(snapshot("sa", c.a, c.b))
		r.load("a", c.na)
		r.load("b", c.nb)
		for random := range uint64(20) {
			if got := r.Explain(from("BR"), noon, random).Chosen; got != c.want {
				t.Errorf("a %d of %v, b %d of %v: %s, want %s", c.na, c.a.Capacity(), c.nb, c.b.Capacity(), got, c.want)
				break
			}
		}
	}
}

// spread picks n times and gives every place back; it counts who got how many.
func spread(r *Router, q Query, n int) map[string]int {
	seen := map[string]int{}
	random := uint64(42)
	for range n {
		random = mix(random)
		c := r.Pick(q, nil, noon, random)
		seen[c.Backend.ID]++
		c.Slot.Release(0)
	}
	return seen
}

// chiSquare of counts that should be alike. For 20 of them, 19 degrees of
// freedom, it passes 60 once in 258,000 tries of a fair die.
func chiSquare(seen map[string]int, kinds, n int) float64 {
	want := float64(n) / float64(kinds)
	sum := float64(kinds-len(seen)) * want
	for _, got := range seen {
		sum += (float64(got) - want) * (float64(got) - want) / want
	}
	return sum
}

func TestTiesAreSpreadEvenly(t *testing.T) {
	const n = 20_000
	var same, thirds, others []mesh.Backend
	for i := range 20 {
		same = append(same, backend(fmt.Sprint("b", i), "sa"))
		// 1 of 1 is as loaded as 49 of 49: an inverse multiplied would not say so.
		thirds = append(thirds, backend(fmt.Sprint("b", i), "sa", soft(int64(1+i*12)), weight(int64(1+i%3))))
		others = append(others, backend(fmt.Sprint("b", i), geo.Region(fmt.Sprint("r", i%5)))) // of no known place
	}
	for name, c := range map[string]struct {
		backends []mesh.Backend
		load     func(b mesh.Backend) int64
	}{
		"idle":                {same, func(mesh.Backend) int64 { return 0 }},
		"equally loaded":      {same, func(mesh.Backend) int64 { return 7 }},
		"equal shares":        {thirds, func(b mesh.Backend) int64 { return b.SoftLimit * b.Weight }},
		"over several groups": {others, func(mesh.Backend) int64 { return 3 }},
	} {
		r := newRouter(snapshot("sa", c.backends...))
		for _, b := range c.backends {
			r.load(b.ID, c.load(b))
		}
		seen := spread(r, from("BR"), n)
		if x := chiSquare(seen, 20, n); x > 60 {
			t.Errorf("%s: chi-square %.1f, %v", name, x, seen)
		}
	}
}
