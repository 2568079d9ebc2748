package sqlite

import (
	"cmp"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// A POP that is alone knows no clock but its own. What it wrote while that ran
// ahead others would keep apart until its time has come. So when it hears the
// first of them it forgets these writes and writes them again, in their order
// and in a new epoch, as it does after an old copy of the file came back. The
// head of the old epoch goes back below them: nobody claims to have a write
// that is gone, and should there be a copy somewhere it comes back and merges,
// as any other write would.

// correctLocked begins the new epoch where there is something to correct.
func (s *Store) correctLocked() error {
	p := s.replica
	if !p.lonely() || p.clock.Last <= p.limit() || !p.Heard() {
		return nil
	}
	p.attached, p.ahead = false, true
	return errSwapped
}

// lonely says that nothing is known of any other POP, so that a clock which ran
// ahead is to be corrected once one is heard. Later it never is: others may have
// what was written by it.
func (p *replica) lonely() bool { return p.Heard != nil && p.alone() }

// correct writes anew, in the epoch that has just begun, what was written from
// the first stamp on that is too far ahead.
func (b *batch) correct() error {
	limit := b.limit()
	from, last, err := b.firstAhead(limit)
	if err != nil {
		return err
	}
	again := func(s crdt.Stamp) bool { n, is := from[s.Origin]; return is && s.Seq >= n }
	var records []crdt.Record
	right := map[crdt.Stamp]crdt.Stamp{}
	err = b.scan(b.ctx, b.c, "", func(rec crdt.Record, err error) error {
		concerned := false
		for s := range rec.Owners {
			if again(s) {
				concerned, right[s] = true, crdt.Stamp{}
			}
		}
		if err == nil && concerned { // what is damaged comes back from a peer or from nowhere
			records = append(records, rec)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.clock.Last = last
	b.renumber(right, limit)
	for _, rec := range records {
		b.put(change{old: rec, now: restamped(rec, right)})
	}
	for o, n := range from {
		b.lower(o, n-1)
	}
	return nil
}

// firstAhead is the first write of each of this POP's epochs that is stamped
// beyond the limit, and the latest stamp that is not.
func (b *batch) firstAhead(limit crdt.Time) (from map[crdt.Origin]uint64, last crdt.Time, err error) {
	from = map[crdt.Origin]uint64{}
	err = b.scan(b.ctx, b.c, "", func(rec crdt.Record, err error) error {
		for s := range rec.Owners {
			switch n, is := from[s.Origin]; {
			case s.Time <= limit:
				last = max(last, s.Time)
			case s.Origin.Node == b.self.Node && (!is || s.Seq < n):
				from[s.Origin] = s.Seq
			}
		}
		return nil
	})
	return from, last, err
}

// renumber gives each of the stamps its new one, in their order.
func (b *batch) renumber(right map[crdt.Stamp]crdt.Stamp, limit crdt.Time) {
	stamps := make([]crdt.Stamp, 0, len(right))
	for s := range right {
		stamps = append(stamps, s)
	}
	slices.SortFunc(stamps, func(a, b crdt.Stamp) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Origin.Epoch, b.Origin.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	seq, now := b.seq(), crdt.At(b.Now())
	for _, old := range stamps {
		seq++
		s := crdt.Stamp{Time: old.Time, Origin: b.self, Seq: seq}
		if s.Time > limit {
			s.Time = b.clock.Next(now, 0)
		}
		right[old] = s
	}
	if seq > b.seq() {
		b.heads[b.self], b.moved[b.self] = seq, true
	}
}

func restamped(rec crdt.Record, right map[crdt.Stamp]crdt.Stamp) crdt.Record {
	now := crdt.Record{Key: rec.Key, Cells: slices.Clone(rec.Cells), Dead: rec.Dead}
	if s, ok := right[rec.Dead]; ok {
		now.Dead = s
	}
	for i := range now.Cells {
		if s, ok := right[now.Cells[i].Stamp]; ok {
			now.Cells[i].Stamp = s
		}
	}
	return now
}

// lower takes a head back, and with it the horizon, which nobody could cover.
func (b *batch) lower(o crdt.Origin, head uint64) {
	b.moved[o] = true
	if b.horizon[o] = min(b.horizon[o], head); b.horizon[o] == 0 {
		delete(b.horizon, o)
	}
	if b.heads[o] = min(b.heads[o], head); b.heads[o] == 0 {
		delete(b.heads, o)
	}
}
