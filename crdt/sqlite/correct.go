package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// correctLocked stamps anew what this POP wrote by a clock that ran ahead, in
// the order in which it was written, as far as no other POP has had it: they
// would keep it apart until its time has come. That is when another POP is met
// for the first time; before, no clock but ours was known.
func (s *Store) correctLocked(ctx context.Context) error {
	p := s.replica
	if p.Had == nil || p.clock.Last <= p.limit() {
		return nil
	}
	had, heard := p.Had()
	if !heard {
		return nil
	}
	if err := p.dirty(); err != nil {
		return err
	}
	return s.commitLocked(ctx, true, func(b *batch) error {
		// As on every seal: each row's stamps rise by themselves.
		b.clock.Last = crdt.At(b.Now())
		return b.correct(had)
	})
}

// heard says whether any clock but ours is known, also where nobody says so.
func (p *replica) heard() bool {
	if p.Had == nil {
		return true
	}
	_, heard := p.Had()
	return heard
}

func (b *batch) correct(had crdt.Heads) error {
	limit := b.limit()
	wrong := func(s crdt.Stamp) bool {
		return s.Time > limit && s.Origin.Node == b.self.Node && s.Seq > had[s.Origin]
	}
	records, stamps, err := b.stamped(wrong)
	if err != nil {
		return err
	}
	slices.SortFunc(stamps, func(a, b crdt.Stamp) int {
		return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Origin.Epoch, b.Origin.Epoch), cmp.Compare(a.Seq, b.Seq))
	})
	right := make(map[crdt.Stamp]crdt.Stamp, len(stamps))
	seq := b.seq()
	for _, old := range stamps {
		seq++
		right[old] = crdt.Stamp{Time: b.clock.Next(crdt.At(b.Now()), 0), Origin: b.self, Seq: seq}
	}
	for _, old := range records {
		now := crdt.Record{Key: old.Key, Cells: slices.Clone(old.Cells), Dead: old.Dead}
		if s, ok := right[old.Dead]; ok {
			now.Dead = s
		}
		for i := range now.Cells {
			if s, ok := right[now.Cells[i].Stamp]; ok {
				now.Cells[i].Stamp = s
			}
		}
		b.put(change{old: old, now: now})
	}
	if seq > b.seq() {
		b.heads[b.self], b.moved[b.self] = seq, true
	}
	return nil
}

// stamped finds the records that have such stamps of this POP's, whatever its
// epoch, and those stamps.
func (b *batch) stamped(is func(crdt.Stamp) bool) (records []crdt.Record, stamps []crdt.Stamp, err error) {
	seen, listed := map[crdt.Key]bool{}, map[crdt.Stamp]bool{}
	for origin, id := range b.originIDs {
		if origin.Node != b.self.Node {
			continue
		}
		err := b.c.each(b.ctx, func(rows *sql.Rows) error {
			var seq, tbl int64
			var pk, blob sql.RawBytes
			var held bool
			if err := rows.Scan(&seq, &tbl, &pk, &blob, &held); err != nil {
				return err
			}
			key := b.key(tbl, pk)
			if held || seen[key] {
				return nil
			}
			rec, err := b.decode(key, blob)
			if err != nil {
				return nil // damaged: Check says so, and a peer has it or nobody
			}
			for s := range rec.Owners {
				if is(s) {
					if !seen[key] {
						seen[key] = true
						records = append(records, rec)
					}
					if !listed[s] {
						listed[s] = true
						stamps = append(stamps, s)
					}
				}
			}
			return nil
		}, owned, id, int64(0), int64(1<<62))
		if err != nil {
			return nil, nil, err
		}
	}
	return records, stamps, nil
}

// outlived says whether a POP wrote anew, and by a lower stamp, what it once
// stamped so: its later write is the one it means.
func outlived(s, by crdt.Stamp) bool {
	return s.Origin.Node == by.Origin.Node && cmp.Or(cmp.Compare(s.Origin.Epoch, by.Origin.Epoch), cmp.Compare(s.Seq, by.Seq)) < 0
}

// withoutOutlived leaves out of a record that is kept apart what its writers
// have written anew since.
func withoutOutlived(held, row crdt.Record) crdt.Record {
	left := crdt.Record{}
	for _, c := range held.Cells {
		if outlived(c.Stamp, row.Cell(c.Column).Stamp) || outlived(c.Stamp, row.Dead) {
			continue
		}
		left.Key, left.Cells = held.Key, append(left.Cells, c)
	}
	if newer, _ := newest(row); !held.Dead.IsZero() && !outlived(held.Dead, newer) && !outlived(held.Dead, row.Dead) {
		left.Key, left.Dead = held.Key, held.Dead
	}
	return left
}

// dropOutlived does so with what waits for these rows.
func (b *batch) dropOutlived(rows []crdt.Record) error {
	if b.held == 0 {
		return nil
	}
	for _, row := range rows {
		held, err := b.heldRecords("WHERE tbl = ? AND pk = ?", b.ids[row.Table], []byte(row.PK))
		if err != nil {
			return err
		}
		for _, h := range held {
			left := withoutOutlived(h.rec, row)
			if left.Equal(h.rec) {
				continue
			}
			if err := b.unhold(h.rec); err != nil {
				return err
			}
			if left.Key == (crdt.Key{}) {
				continue
			}
			if err := b.hold([]crdt.Record{left}, h.peer); err != nil {
				return err
			}
		}
	}
	return nil
}
