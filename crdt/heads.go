package crdt

import (
	"maps"
	"slices"
)

// Heads says, per origin, up to which of its writes everything is known.
type Heads map[Origin]uint64

// Range is a stretch of an origin's writes, those numbered above From up to
// and including To.
type Range struct {
	Origin   Origin
	From, To uint64
}

func (h Heads) Clone() Heads { return maps.Clone(h) }

// Cover moves the head over a range whose records are all here, and says
// whether it moved. A range that begins above the head leaves a hole below it
// and moves nothing: what is in the hole comes with the next exchange.
func (h Heads) Cover(r Range) bool {
	if head := h[r.Origin]; r.From > head || r.To <= head {
		return false
	}
	h[r.Origin] = r.To
	return true
}

// Covers says whether everything that the other heads know of is known here.
func (h Heads) Covers(other Heads) bool {
	for origin, head := range other {
		if h[origin] < head {
			return false
		}
	}
	return true
}

// Covered says whether the stamped write is known here, or one that replaced it.
func (h Heads) Covered(s Stamp) bool { return s.Seq <= h[s.Origin] }

// Missing is what other heads know of and these do not, in the order of origins.
func (h Heads) Missing(other Heads) []Range {
	var missing []Range
	for origin, head := range other {
		if h[origin] < head {
			missing = append(missing, Range{Origin: origin, From: h[origin], To: head})
		}
	}
	slices.SortFunc(missing, func(a, b Range) int { return a.Origin.Compare(b.Origin) })
	return missing
}

// Raise moves every head to at least the other's, as after an answer that
// held all of what the other side knows.
func (h Heads) Raise(other Heads) {
	for origin, head := range other {
		h[origin] = max(h[origin], head)
	}
}

// Lower keeps of every head what the other side knows too: what both, and so
// after a round over all members each of them, has seen.
func (h Heads) Lower(other Heads) {
	for origin, head := range h {
		if head = min(head, other[origin]); head == 0 {
			delete(h, origin)
		} else {
			h[origin] = head
		}
	}
}
