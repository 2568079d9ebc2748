package sqlite

import (
	"cmp"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// A POP that is alone knows no clock but its own. What it wrote while that ran
// ahead others would keep apart until its time has come. So when it hears the
// first of them it writes all that it has once more, in its order and in a new
// epoch, and gives up the heads of those before: also what was right may have
// been overwritten by what was not. So nobody claims to have a write that is
// gone, and should there be a copy of it somewhere it comes back and merges, as
// after an older file has taken the place of ours.

// correctLocked begins the new epoch when the first other POP is heard, where
// there is something to correct.
func (s *Store) correctLocked() error {
	p := s.replica
	if !p.lonely() || !p.Heard() {
		return nil
	}
	p.met = true
	if p.clock.Last <= p.limitBeside() {
		return nil
	}
	p.attached, p.ahead = false, true
	return errSwapped
}

// lonely says that nothing is known of any other POP, so that a clock which ran
// ahead is to be corrected once one is heard. Later it never is: others may have
// what was written by it, and would bring that back again and again.
func (p *replica) lonely() bool { return p.Heard != nil && !p.met && p.alone() }

// correct writes everything anew, in the epoch that has just begun. What is
// stamped beyond the limit is so now.
func (b *batch) correct() error {
	limit, last := b.limitBeside(), crdt.Time(0)
	var records []crdt.Record
	right := map[crdt.Stamp]crdt.Stamp{}
	err := b.scan(b.ctx, b.c, "", func(rec crdt.Record, err error) error {
		if err != nil {
			return nil // damaged: it comes back from a peer or from nowhere
		}
		records = append(records, rec)
		for s := range rec.Owners {
			if s.Origin.Node == b.self.Node {
				right[s] = crdt.Stamp{}
			}
			if s.Time <= limit {
				last = max(last, s.Time)
			}
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
	for o := range b.originIDs {
		if o.Node == b.self.Node && o != b.self {
			delete(b.heads, o)
			delete(b.horizon, o) // nobody could cover it
			b.moved[o] = true
		}
	}
	return nil
}

// renumber gives each of the stamps its new one, in their order.
func (b *batch) renumber(right map[crdt.Stamp]crdt.Stamp, limit crdt.Time) {
	stamps := slices.SortedFunc(maps.Keys(right), func(a, b crdt.Stamp) int {
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
