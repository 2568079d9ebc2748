// Package overlay decides who a POP of a large mesh holds streams with, and on
// which of them it passes on what it hears.
//
//	n := overlay.Choose("sa-1", peers)    // whom to hold a link with
//	t := overlay.NewTrees("sa-1")
//	t.Up("us-1")                          // the link stands
//	for _, to := range t.Targets(nil, origin, from) { push(to) }
//	graft := t.First(origin, from)        // the first copy came from there
//	prune := t.Again(origin, from)        // it was here already
//
// The links form one undirected graph: a ring over all POPs, in an order that
// has nothing to do with where they are, and from every POP some links to near
// ones and some to those in the middle of its distances.
//
// What is written at one POP crosses the graph along a tree of its own, as in
// Plumtree (Leitão, Pereira, Rodrigues: Epidemic Broadcast Trees, SRDS 2007),
// with a tree for every origin instead of one for all: the first write floods
// the graph, whoever gets a second copy prunes the link that it came by, and
// what is left are the links that were the quickest from there. A pruned link
// is lazy: its sides still tell each other what they have, and where that shows
// that a copy is missing, the link is grafted back.
//
// Invariants:
//   - Equal lists of POPs that are not down give a connected graph.
//   - A POP never prunes the last link that an origin's writes may come by.
//   - What is decided depends on the calls and their order alone.
//
// It computes only: it knows no clock, no chance and no stream, and is not safe
// for concurrent use.
package overlay

import "math"

// Degree is how many neighbours a POP of a mesh of n should have, about.
func Degree(n int) int {
	return max(3, int(math.Round(3*math.Log10(float64(max(n, 1))))))
}

// Most is how many links a POP of a mesh of n has at most by the will of others:
// beyond, it refuses those that it has not chosen itself.
func Most(n int) int { return 3 * Degree(n) }

// hash spreads names evenly (FNV-1a and the finalizer of MurmurHash3).
func hash(parts ...string) uint64 {
	h := uint64(14695981039346656037)
	for _, p := range parts {
		for i := range len(p) {
			h = (h ^ uint64(p[i])) * 1099511628211
		}
		h = (h ^ 0xff) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
