package reactor

import "math/bits"

// The wheel has four rings of 64 slots; a slot of the first is one tick, a slot
// of each further one is a turn of the ring before.
const (
	rings    = 4
	slotBits = 6
	slots    = 1 << slotBits
	// Farthest is how many ticks ahead a timer may be; later ones are set there.
	Farthest = 1<<(rings*slotBits) - 1<<((rings-1)*slotBits)
)

// Never is a tick that does not come.
const Never = ^uint64(0)

const none = ^uint32(0) // no timer; no slot

// Wheel is a timer for each small number (a Slab's), in ticks of whatever
// length: a hierarchical timing wheel after Varghese and Lauck (1987). Set and
// Stop cost the same however many there are. The zero value begins at tick 0.
type Wheel struct {
	now   uint64 // ticks up to and including this one have been seen
	heads [rings][slots]uint32
	some  [rings]uint64 // a bit for each slot that has a timer
	nodes []node
	init  bool
}

type node struct {
	when       uint64
	next, prev uint32
	slot       uint32 // ring·64 + slot, or none
}

// Start begins at a tick, with no timer set.
func (w *Wheel) Start(now uint64) {
	*w = Wheel{now: now, nodes: w.nodes[:0], init: true}
	for r := range w.heads {
		for s := range w.heads[r] {
			w.heads[r][s] = none
		}
	}
}

// Set makes the timer due at a tick, in place of what was set before. A tick
// that has been seen counts as the next one.
func (w *Wheel) Set(id uint32, when uint64) {
	if !w.init {
		w.Start(w.now)
	}
	for int(id) >= len(w.nodes) {
		w.nodes = append(w.nodes, node{slot: none})
	}
	w.Stop(id)
	w.nodes[id].when = min(max(when, w.now+1), w.now+Farthest)
	w.put(id)
}

// When is the tick at which the timer is due, Never where it is not set.
func (w *Wheel) When(id uint32) uint64 {
	if int(id) >= len(w.nodes) || w.nodes[id].slot == none {
		return Never
	}
	return w.nodes[id].when
}

// put files a timer by the highest bits in which its tick differs from now.
func (w *Wheel) put(id uint32) {
	n := &w.nodes[id]
	ring := 0
	if differ := bits.Len64(n.when ^ w.now); differ > slotBits {
		ring = min((differ-1)/slotBits, rings-1)
	}
	slot := uint32(n.when>>(ring*slotBits)) % slots
	n.slot = uint32(ring)*slots + slot
	head := &w.heads[ring][slot]
	n.prev, n.next = none, *head
	if *head != none {
		w.nodes[*head].prev = id
	}
	*head = id
	w.some[ring] |= 1 << slot
}

// Stop unsets the timer.
func (w *Wheel) Stop(id uint32) {
	if int(id) >= len(w.nodes) || w.nodes[id].slot == none {
		return
	}
	n := &w.nodes[id]
	ring, slot := n.slot/slots, n.slot%slots
	if n.prev != none {
		w.nodes[n.prev].next = n.next
	} else if w.heads[ring][slot] = n.next; n.next == none {
		w.some[ring] &^= 1 << slot
	}
	if n.next != none {
		w.nodes[n.next].prev = n.prev
	}
	n.slot = none
}

// Next is a tick up to which Advance has nothing to do, and at which it may.
func (w *Wheel) Next() uint64 {
	next := Never
	for r := range w.some {
		if w.some[r] == 0 {
			continue
		}
		shift := r * slotBits
		at := w.now >> shift
		// Of the current slot everything has been seen or filed lower.
		step := uint64(bits.TrailingZeros64(bits.RotateLeft64(w.some[r], -int(at%slots))))
		next = min(next, (at+step)<<shift)
	}
	return next
}

// Advance goes on to a tick and calls due for each timer whose time has come;
// due may set and stop any.
func (w *Wheel) Advance(now uint64, due func(id uint32)) {
	for w.now < now {
		next := w.Next()
		if next > now {
			w.now = now
			return
		}
		w.now = next
		for r := rings - 1; r > 0; r-- { // down from the ring whose slot begins now
			if w.now&(1<<(r*slotBits)-1) == 0 {
				w.cascade(r)
			}
		}
		slot := w.now % slots
		for head := &w.heads[0][slot]; *head != none; {
			id := *head
			w.Stop(id)
			due(id)
		}
	}
}

// cascade files the timers of the current slot of a ring anew, which is in lower ones.
func (w *Wheel) cascade(ring int) {
	slot := w.now >> (ring * slotBits) % slots
	id := w.heads[ring][slot]
	w.heads[ring][slot] = none
	w.some[ring] &^= 1 << slot
	for id != none {
		next := w.nodes[id].next
		w.put(id)
		id = next
	}
}
