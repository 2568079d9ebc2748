package sqlite

import (
	"database/sql"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// difference is a row that the operator's table has otherwise than its record
// says, without a captured change that says why.
type difference struct {
	key  crdt.Key
	rec  crdt.Record // zero where there is none
	mask int64       // columns that differ, -1 where there is no record of a row, 0 where the row is missing
	fill bool        // columns that the table has not had for long: the record's values are missing in them
}

// compareRows compares a run of the table's rows with their records. last is
// the key after which the next run begins.
func (b *batch) compareRows(t *tracked, after *crdt.Value, before []string, limit int) (diffs []difference, last *crdt.Value, n int, err error) {
	condition, args := "WHERE "+t.key+" IS NOT NULL", []any{}
	if after != nil {
		condition, args = condition+" AND "+t.key+" > ?", append(args, after.Any())
	}
	var keys []crdt.Key
	var values [][]crdt.Value
	err = b.tableRows(t, condition+" ORDER BY "+t.key+" LIMIT ?", func(row []crdt.Value) error {
		last = &row[0]
		keys = append(keys, crdt.Key{Table: t.Name, PK: crdt.PK(row[0])})
		values = append(values, row[1:])
		return nil
	}, append(args, limit)...)
	if err != nil {
		return nil, nil, 0, err
	}
	known, err := b.get(keys)
	if err != nil {
		return nil, nil, 0, err
	}
	old := map[string]bool{}
	for _, name := range before {
		old[name] = true
	}
	for i, key := range keys {
		rec, there := known[key]
		d := difference{key: key, rec: rec}
		if !there || !rec.Live() {
			d.mask = -1
			diffs = append(diffs, d)
			continue
		}
		for at, f := range t.fields {
			v, cell := values[i][at], rec.Cell(f.name)
			unset := v.Kind() == crdt.Null || v == f.preset
			if cell.Stamp.IsZero() && unset {
				continue
			}
			same, err := b.c.shows(b.ctx, v, cell.Value, f.class)
			switch {
			case err != nil:
				return nil, nil, 0, err
			case same:
			case unset && !old[f.name]:
				d.fill = true
			default:
				d.mask |= t.bit(at)
			}
		}
		if d.mask != 0 || d.fill {
			diffs = append(diffs, d)
		}
	}
	return diffs, last, len(keys), nil
}

// missing finds the live records, of a run of them, whose rows are not in the table.
func (b *batch) missing(t *tracked, after string, limit int) (diffs []difference, last string, n int, err error) {
	var recs []crdt.Record
	var ids []any
	last = after
	err = b.scan(b.ctx, b.c, "WHERE tbl = ? AND pk > ? AND NOT dead ORDER BY pk LIMIT ?", func(rec crdt.Record, err error) error {
		last, n = rec.PK, n+1
		// A table that was foreign may have brought keys that no row has.
		if id, none := idOf(rec.Key); err == nil && none == nil {
			recs, ids = append(recs, rec), append(ids, id.Any())
		}
		return nil
	}, b.ids[t.Name], []byte(after), limit)
	if err != nil {
		return nil, "", 0, err
	}
	there := make(map[string]bool, len(recs))
	err = inRuns(len(recs), func(from, to int) error {
		return b.c.each(b.ctx, func(rows *sql.Rows) error {
			id, err := scanValue(rows)
			there[crdt.PK(id)] = true
			return err
		}, "SELECT +"+t.key+" FROM "+quoted(t.Name)+" WHERE "+t.key+" IN ("+marks(to-from)+")", ids[from:to]...)
	})
	for _, rec := range recs {
		if !there[rec.PK] {
			diffs = append(diffs, difference{key: rec.Key, rec: rec})
		}
	}
	return diffs, last, n, err
}

// reconcile takes what differs, after a time in which nothing was captured,
// for a local write; rows that are missing for deleted, or brings them back.
func (b *batch) reconcile(t *tracked, before []string, restore bool, begun *Begun) error {
	if _, err := b.name(t.Name); err != nil {
		return err
	}
	var last *crdt.Value
	for {
		diffs, next, n, err := b.compareRows(t, last, before, scanRows)
		if err != nil {
			return err
		}
		for _, d := range diffs {
			if err := b.settle(d, false, begun); err != nil {
				return err
			}
		}
		if last = next; n < scanRows {
			break
		}
	}
	for after := ""; ; {
		diffs, next, n, err := b.missing(t, after, scanRows)
		if err != nil {
			return err
		}
		for _, d := range diffs {
			if err := b.settle(d, restore, begun); err != nil {
				return err
			}
		}
		if after = next; n < scanRows {
			return nil
		}
	}
}

// settle makes a difference a captured change, or the row what its record says.
func (b *batch) settle(d difference, restore bool, begun *Begun) error {
	if restore || d.fill && d.mask == 0 {
		begun.Restored++
		return b.restore(d)
	}
	id, err := rawID(d.key)
	if err != nil {
		return err
	}
	return b.c.exec(b.ctx, "INSERT INTO crdt_inbox (tbl, pk, at, mask) VALUES (?, ?, julianday('now'), ?)", d.key.Table, id.Any(), d.mask)
}

// restore writes the row as the record has it.
func (b *batch) restore(d difference) error {
	rec := d.rec
	rec.Key = d.key
	return b.show([]change{{now: rec, show: true, live: rec.Live()}})
}
