package health

import (
	"cmp"
	"slices"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// checkers is how many POPs check a backend: one more than one, so that a POP
// that has lost its way to it is found out.
const checkers = 2

// Checkers are the POPs that check a backend: two of those of its region, by
// rendezvous hash, so that every POP comes to the same answer without asking and
// a POP's end moves only its own backends. Where the region, which is at the
// place given, has no POP, those of the nearest one that has.
func Checkers(id string, region geo.Region, at geo.Vector, pops []mesh.POP) []string {
	near := nearest(region, at, pops)
	type ranked struct {
		node string
		hash uint64
	}
	best := make([]ranked, 0, checkers+1)
	for _, p := range pops {
		if p.Region != near {
			continue
		}
		best = append(best, ranked{p.Node, hash(p.Node, id)})
		slices.SortFunc(best, func(a, b ranked) int { return cmp.Or(cmp.Compare(b.hash, a.hash), cmp.Compare(a.node, b.node)) })
		best = best[:min(len(best), checkers)]
	}
	nodes := make([]string, len(best))
	for i, r := range best {
		nodes[i] = r.node
	}
	return nodes
}

// nearest is the region of the POPs that are nearest to the region: itself
// where it has any. Regions at an unknown place are the farthest, the first by
// code of them.
func nearest(region geo.Region, from geo.Vector, pops []mesh.POP) geo.Region {
	const unknown = 1e6 // km
	best, far := geo.Region(""), 0.0
	for _, p := range pops {
		if p.Region == region {
			return region
		}
		km := float64(unknown)
		if from.Known() && p.Position.Known() {
			km = from.Distance(p.Position)
		}
		if best == "" || km < far || km == far && p.Region < best {
			best, far = p.Region, km
		}
	}
	return best
}

// hash is FNV-1a of the two names (Fowler, Noll, Vo), mixed once more: FNV
// alone ranks names that differ at their end alike for all ids.
func hash(node, id string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{node, "\x00", id} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
