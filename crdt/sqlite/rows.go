package sqlite

import (
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// change is a record that changed.
type change struct {
	old, now crdt.Record // old is zero where there was none
	show     bool        // write the operator's table too
	forget   bool        // leave no record either
	main     crdt.Stamp  // the newest of now
	live     bool        // whether now is
}

// put writes the record at the end of the batch; each key once in a batch.
func (b *batch) put(w change) {
	w.main, w.live = newest(w.now)
	b.puts = append(b.puts, w)
	b.noteForeign(w)
	b.mended = b.mended || b.damaged[w.now.Key]
	sum, live, dead := tally(w.old)
	b.sum, b.rows, b.dead = b.sum.Minus(sum), b.rows-live, b.dead-dead
	if !w.forget {
		sum, live, dead := tally(w.now)
		b.sum, b.rows, b.dead = b.sum.Plus(sum), b.rows+live, b.dead+dead
	}
}

// get reads the records of these keys, those that there are.
func (b *batch) get(keys []crdt.Key) (map[crdt.Key]crdt.Record, error) {
	found := make(map[crdt.Key]crdt.Record, len(keys))
	for len(keys) > 0 {
		table, n := keys[0].Table, 1
		for n < len(keys) && keys[n].Table == table {
			n++
		}
		tbl, err := b.name(table)
		if err != nil {
			return nil, err
		}
		args := make([]any, 0, 65)
		err = inRuns(n, func(from, to int) error {
			args = append(args[:0], tbl)
			for _, key := range keys[from:to] {
				args = append(args, []byte(key.PK))
			}
			return b.scan(b.ctx, b.c, "WHERE tbl = ? AND pk IN ("+marks(to-from)+")", func(rec crdt.Record, err error) error {
				if err == nil {
					found[rec.Key] = rec
					return nil
				}
				if b.damaged == nil { // it is as none, and comes back from a peer
					b.damaged = map[crdt.Key]bool{}
				}
				b.damaged[rec.Key] = true
				return nil
			}, args...)
		})
		if err != nil {
			return nil, err
		}
		keys = keys[n:]
	}
	return found, nil
}

// flush writes what the batch has put so far.
func (b *batch) flush() error {
	puts := b.puts
	b.puts = nil
	if err := b.writeRecords(puts); err != nil {
		return err
	}
	return b.show(puts)
}

func (b *batch) writeRecords(puts []change) error {
	var lost, won, gone []any
	alike, order := map[[3]any][]any{}, [][3]any{} // by table, origin, dead, which are bound once
	var stamps, was []crdt.Stamp
	for i := range puts {
		w := &puts[i]
		key := w.now.Key
		tbl, err := b.name(key.Table)
		if err != nil {
			return err
		}
		pk := []byte(key.PK)
		was = stampsOf(w.old, was)
		if len(was) > 1 { // of one, it is the main owner
			wasMain, _ := newest(w.old)
			for _, s := range was {
				if s != wasMain {
					lost = append(lost, b.originIDs[s.Origin], int64(s.Seq), tbl, pk, 0)
				}
			}
		}
		if w.forget {
			gone = append(gone, tbl, pk)
			continue
		}
		stamps = stampsOf(w.now, stamps)
		for _, s := range stamps {
			id, err := b.origin(s.Origin)
			if err != nil {
				return err
			}
			if s != w.main {
				won = append(won, id, int64(s.Seq), tbl, pk, 0)
			}
		}
		for _, c := range w.now.Cells {
			if _, err := b.name(c.Column); err != nil {
				return err
			}
		}
		kind := [3]any{tbl, b.originIDs[w.main.Origin], !w.live}
		if alike[kind] == nil {
			order = append(order, kind)
			alike[kind] = make([]any, 0, 3*(len(puts)-i))
		}
		alike[kind] = append(alike[kind], pk, int64(w.main.Seq), b.encode(w.now, stamps))
	}
	if err := b.disown(lost); err != nil {
		return err
	}
	err := b.many(gone, 2, func(n int) string {
		return "DELETE FROM crdt_rows WHERE (tbl, pk) IN (VALUES " + tuples(n, 2) + ")"
	})
	if err != nil {
		return err
	}
	for _, kind := range order {
		err := b.many(alike[kind], 3, func(n int) string {
			return "INSERT INTO crdt_rows (tbl, origin, dead, pk, seq, rec) VALUES " +
				strings.TrimSuffix(strings.Repeat("(?1, ?2, ?3, ?, ?, ?),", n), ",") +
				" ON CONFLICT (tbl, pk) DO UPDATE SET origin = excluded.origin, seq = excluded.seq, dead = excluded.dead, rec = excluded.rec"
		}, kind[:]...)
		if err != nil {
			return err
		}
	}
	return b.own(won)
}

// own and disown take rows of crdt_owners: origin, seq, tbl, pk, held.
func (b *batch) own(owners []any) error {
	return b.many(owners, 5, func(n int) string {
		return "INSERT INTO crdt_owners (origin, seq, tbl, pk, held) VALUES " + tuples(n, 5) + " ON CONFLICT DO NOTHING"
	})
}

func (b *batch) disown(owners []any) error {
	return b.many(owners, 5, func(n int) string {
		return "DELETE FROM crdt_owners WHERE (origin, seq, tbl, pk, held) IN (VALUES " + tuples(n, 5) + ")"
	})
}

// many runs a statement over rows of so many values each, which follow those
// that all rows have in common.
func (b *batch) many(values []any, width int, statement func(n int) string, common ...any) error {
	return inRuns(len(values)/width, func(from, to int) error {
		args := values[from*width : to*width]
		if len(common) > 0 {
			args = append(slices.Clone(common), args...)
		}
		return b.c.exec(b.ctx, statement(to-from), args...)
	})
}

// newest is the record's newest stamp, and whether that is a write rather than
// the delete.
func newest(rec crdt.Record) (s crdt.Stamp, live bool) {
	s = rec.Dead
	for i, c := range rec.Cells {
		if i > 0 && c.Stamp == rec.Cells[i-1].Stamp {
			continue // most columns are written together
		}
		if c.Stamp.Compare(s) > 0 {
			s, live = c.Stamp, true
		}
	}
	return s, live
}
