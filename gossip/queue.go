package gossip

import (
	"cmp"
	"slices"
	"sync"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// queue is what waits to be sent to one peer: of each row one state, the
// merged one, and the ranges that all of it covers. A delta is in it whole or
// not at all: when one does not fit, everything is dropped, and nothing taken
// until the peer has pulled or otherwise got what was lost. A range that is
// sent therefore always has its records before it.
type queue struct {
	limit int // in keys

	mu      sync.Mutex
	records map[crdt.Key]int // place in list
	list    []crdt.Record
	ranges  []crdt.Range
	lost    crdt.Heads // what was dropped, nil when nothing is
}

// put adds a delta. lost: it was dropped, with all that was there.
func (q *queue) put(d crdt.Delta) (lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost == nil {
		for _, rec := range d.Records {
			q.addLocked(rec)
		}
		for _, r := range d.Ranges {
			q.coverLocked(r)
		}
		if len(q.list) <= q.limit && len(q.ranges) <= q.limit {
			return false
		}
		q.lost = crdt.Heads{}
		d.Ranges = q.ranges
		q.records, q.list, q.ranges = nil, nil, nil
	}
	for _, r := range d.Ranges {
		q.lost[r.Origin] = max(q.lost[r.Origin], r.To)
	}
	return true
}

func (q *queue) addLocked(rec crdt.Record) {
	if i, ok := q.records[rec.Key]; ok {
		q.list[i] = crdt.Merge(q.list[i], rec)
		return
	}
	if q.records == nil {
		q.records = map[crdt.Key]int{}
	}
	q.records[rec.Key] = len(q.list)
	q.list = append(q.list, rec)
}

// coverLocked joins the range to the one that it continues.
func (q *queue) coverLocked(r crdt.Range) {
	for i := len(q.ranges) - 1; i >= 0; i-- {
		if g := &q.ranges[i]; g.Origin == r.Origin && r.From <= g.To && g.From <= r.From {
			g.To = max(g.To, r.To)
			return
		}
	}
	q.ranges = append(q.ranges, r)
}

// take empties the queue.
func (q *queue) take() crdt.Delta {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := crdt.Delta{Ranges: q.ranges, Records: q.list}
	q.records, q.list, q.ranges = nil, nil, nil
	sortRanges(d.Ranges)
	return d
}

// resume takes deltas again: the peer is being sent all that was lost, or has
// it (nil: it asked for it).
func (q *queue) resume(has crdt.Heads) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lost != nil && (has == nil || has.Covers(q.lost)) {
		q.lost = nil
	}
}

// len is the number of rows that wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list)
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.list) == 0 && len(q.ranges) == 0
}

// sortRanges puts ranges in the order in which one may complete the next.
func sortRanges(ranges []crdt.Range) {
	slices.SortFunc(ranges, func(a, b crdt.Range) int {
		return cmp.Or(a.Origin.Compare(b.Origin), cmp.Compare(a.From, b.From))
	})
}
