package health

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// Duty says who checks what, for POPs that live.
type Duty struct {
	regions []geo.Region // that have POPs, by code
	pops    map[geo.Region][]mesh.POP
}

// NewDuty shares the work among these POPs.
func NewDuty(pops []mesh.POP) *Duty {
	d := &Duty{pops: map[geo.Region][]mesh.POP{}}
	// By name: every POP has to see the same region at the same place.
	for _, p := range slices.SortedFunc(slices.Values(pops), func(a, b mesh.POP) int { return cmp.Compare(a.Node, b.Node) }) {
		d.pops[p.Region] = append(d.pops[p.Region], p)
	}
	d.regions = slices.Sorted(maps.Keys(d.pops))
	return d
}

// Checkers are the POPs that check a backend: two of those of its region, by
// rendezvous hash, so that every POP comes to the same answer without asking and
// a POP's end moves only its own backends. Where the region, which is at the
// place given, has no POP, those of the nearest one that has.
func (d *Duty) Checkers(id string, region geo.Region, at geo.Vector) []string {
	var first, second string
	var most, more uint64
	for _, p := range d.pops[d.nearest(region, at)] {
		switch h := hash(p.Node, id); {
		case first == "" || h > most || h == most && p.Node < first:
			first, second, most, more = p.Node, first, h, most
		case second == "" || h > more || h == more && p.Node < second:
			second, more = p.Node, h
		}
	}
	// One more than one, so that a POP that has lost its way to it is found out.
	nodes := []string{first, second}
	return slices.DeleteFunc(nodes, func(n string) bool { return n == "" })
}

// nearest is the region of the POPs that are nearest to the region: itself
// where it has any. Regions at an unknown place are the farthest, the first by
// code of them.
func (d *Duty) nearest(region geo.Region, from geo.Vector) geo.Region {
	const unknown = 1e6 // km
	if len(d.pops[region]) > 0 {
		return region
	}
	best, far := geo.Region(""), math.Inf(1)
	for _, r := range d.regions {
		km := unknown
		if at := d.pops[r][0].Position; from.Known() && at.Known() {
			km = from.Distance(at)
		}
		if km < far {
			best, far = r, km
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
