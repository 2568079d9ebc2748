package overlay

import (
	"maps"
	"slices"
)

// maxOrigins bounds the memory that names take. The writes of any beyond flood.
const maxOrigins = 1 << 16

// Trees is for every origin which links its writes are passed on by.
type Trees struct {
	self  string
	ids   map[string]int // of origins, in the order in which they were met
	names []string
	links map[string]*link
	order []string // of links, by name
}

// link is a neighbour. A link is eager for an origin on which nothing is noted.
type link struct {
	mute  bits // it was asked not to push these to us
	muted bits // it asked us not to
}

// NewTrees knows no links yet.
func NewTrees(self string) *Trees {
	return &Trees{self: self, ids: map[string]int{}, links: map[string]*link{}}
}

// Up adds a link, eager for every origin.
func (t *Trees) Up(peer string) {
	if t.links[peer] == nil {
		t.order = append(t.order, peer)
		slices.Sort(t.order)
	}
	t.links[peer] = &link{}
}

// Down takes a link away. What came by it alone is to be asked for elsewhere:
// these origins are to be grafted there.
func (t *Trees) Down(peer string) map[string][]string {
	lost := t.links[peer]
	if lost == nil {
		return nil
	}
	delete(t.links, peer)
	t.order = slices.DeleteFunc(t.order, func(p string) bool { return p == peer })
	grafts := map[string][]string{}
	for id, origin := range t.names {
		if lost.mute.has(id) || origin == t.self || t.fed(id) {
			continue
		}
		for _, p := range t.order {
			t.links[p].mute.clear(id)
			grafts[p] = append(grafts[p], origin)
		}
	}
	return grafts
}

// fed says whether there is a link by which the origin's writes may come.
func (t *Trees) fed(id int) bool {
	for _, l := range t.links {
		if !l.mute.has(id) {
			return true
		}
	}
	return false
}

// Linked says whether there is a link to the peer.
func (t *Trees) Linked(peer string) bool { return t.links[peer] != nil }

// Links is the peers that there are links to, by name. It is not to be changed.
func (t *Trees) Links() []string { return t.order }

// Targets adds to dst where a write of the origin is pushed that came from
// there, "" where it was written here.
func (t *Trees) Targets(dst []string, origin, from string) []string {
	id := t.id(origin)
	for _, p := range t.order {
		if p != from && p != origin && !t.links[p].muted.has(id) {
			dst = append(dst, p)
		}
	}
	return dst
}

// First notes that the first copy of a write came by that link. It says whether
// the link is to be grafted: it was asked not to push, and is the quickest now.
func (t *Trees) First(origin, from string) (graft bool) {
	l, id := t.links[from], t.id(origin)
	if l == nil || !l.mute.has(id) {
		return false
	}
	l.mute.clear(id)
	return true
}

// Again notes that a copy of what was here already came by that link. It says
// whether the link is to be pruned: not where it is the only one.
func (t *Trees) Again(origin, from string) (prune bool) {
	l, id := t.links[from], t.id(origin)
	if l == nil || id < 0 {
		return false
	}
	if l.mute.has(id) {
		return true // it has not heard it yet, or forgotten it
	}
	l.mute.set(id)
	if origin != t.self && !t.fed(id) {
		l.mute.clear(id)
		return false
	}
	return true
}

// Seek notes that these origins' writes are asked for on a link, all of which
// are to be grafted there.
func (t *Trees) Seek(peer string, origins []string) bool {
	l := t.links[peer]
	if l == nil {
		return false
	}
	for _, o := range origins {
		l.mute.clear(t.id(o))
	}
	return true
}

// Pruned notes that a peer wants no more pushes of these origins' writes.
func (t *Trees) Pruned(peer string, origins []string) {
	if l := t.links[peer]; l != nil {
		for _, o := range origins {
			l.muted.set(t.id(o))
		}
	}
}

// Grafted notes that a peer wants them again.
func (t *Trees) Grafted(peer string, origins []string) {
	if l := t.links[peer]; l != nil {
		for _, o := range origins {
			l.muted.clear(t.id(o))
		}
	}
}

// Origins is every origin that was met, by name.
func (t *Trees) Origins() []string { return slices.Sorted(maps.Keys(t.ids)) }

// id is the origin's number, -1 for one too many.
func (t *Trees) id(origin string) int {
	id, ok := t.ids[origin]
	if !ok {
		if len(t.names) >= maxOrigins {
			return -1
		}
		id = len(t.names)
		t.ids[origin] = id
		t.names = append(t.names, origin)
	}
	return id
}

// bits are a set of small numbers.
type bits []uint64

func (b bits) has(i int) bool { return i >= 0 && i/64 < len(b) && b[i/64]&(1<<(i%64)) != 0 }

func (b bits) clear(i int) {
	if i >= 0 && i/64 < len(b) {
		b[i/64] &^= 1 << (i % 64)
	}
}

func (b *bits) set(i int) {
	if i < 0 {
		return
	}
	for i/64 >= len(*b) {
		*b = append(*b, 0)
	}
	(*b)[i/64] |= 1 << (i % 64)
}
