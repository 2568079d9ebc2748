package sqlite

import (
	"cmp"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// captured is what happened to one row, as far as the triggers said.
type captured struct {
	key   crdt.Key
	mask  int64
	at    float64 // julianday of the latest change, 0 without one
	floor bool    // found in a file that was adopted
}

// seal makes records of captured changes.
func (b *batch) seal(limit int) (taken int, err error) {
	changes, now, last, taken, err := b.captured(limit)
	if err != nil || taken == 0 {
		return taken, err
	}
	if err := b.unfit(changes); err != nil {
		return 0, err
	}
	// A clock that ran ahead is set back: each row's stamps rise by themselves.
	// Not where that is yet to be corrected.
	mesh := b.Now()
	b.sealLimit = b.limit() // once: it asks for the clocks of all POPs
	if b.clock.Last > b.sealLimit && !b.lonely() {
		b.clock.Last = crdt.At(mesh)
	}
	for _, t := range b.tables {
		mine := slices.DeleteFunc(slices.Clone(changes), func(c *captured) bool { return c.key.Table != t.Name })
		values, err := b.valuesOf(t, mine)
		if err != nil {
			return 0, err
		}
		keys := make([]crdt.Key, len(mine))
		for i, c := range mine {
			keys[i] = c.key
		}
		known, err := b.get(keys)
		if err != nil {
			return 0, err
		}
		for _, c := range mine {
			ms := mesh
			if c.at > 0 && now >= c.at {
				ms -= int64((now - c.at) * 86_400_000)
			}
			if err := b.sealRow(t, c, values[c.key.PK], known[c.key], crdt.At(ms)); err != nil {
				return 0, err
			}
		}
	}
	return taken, b.c.exec(b.ctx, "DELETE FROM crdt_inbox WHERE n <= ?", last)
}

// captured reads the inbox, one entry per row, in the order of their latest.
func (b *batch) captured(limit int) (changes []*captured, now float64, last int64, taken int, err error) {
	rows := map[crdt.Key]*captured{}
	err = b.c.each(b.ctx, func(r *sql.Rows) error {
		var table sql.NullString
		var pk any
		var at sql.NullFloat64
		var mask sql.NullInt64
		if err := r.Scan(&last, &table, &pk, &at, &mask, &now); err != nil {
			return err
		}
		taken++
		id, err := crdt.ValueOf(pk)
		if err != nil || id.Kind() == crdt.Null || b.table(table.String) == nil {
			return nil
		}
		key := crdt.Key{Table: table.String, PK: crdt.PK(id)}
		c := rows[key]
		if c == nil {
			c = &captured{key: key}
			rows[key] = c
			changes = append(changes, c)
		}
		if at.Float64 == 0 {
			c.floor = true
			return nil
		}
		c.mask |= mask.Int64
		c.at = max(c.at, at.Float64)
		return nil
	}, "SELECT n, tbl, +pk, at, mask, julianday('now') FROM crdt_inbox ORDER BY n LIMIT ?", limit)
	return changes, now, last, taken, err
}

// valuesOf reads the rows as they are in the operator's table, by PK.
func (b *batch) valuesOf(t *tracked, changes []*captured) (map[string][]crdt.Value, error) {
	values := make(map[string][]crdt.Value, len(changes))
	err := inRuns(len(changes), func(from, to int) error {
		var ids []any
		for _, c := range changes[from:to] {
			id, err := rawID(c.key)
			if err != nil {
				return err
			}
			ids = append(ids, id.Any())
		}
		return b.tableRows(t, "WHERE "+t.key+" IN ("+marks(len(ids))+")", func(row []crdt.Value) error {
			values[crdt.PK(row[0])] = row[1:]
			return nil
		}, ids...)
	})
	return values, err
}

// sealRow makes one row's record. values is nil where the row is gone.
func (b *batch) sealRow(t *tracked, c *captured, values []crdt.Value, old crdt.Record, at crdt.Time) error {
	now := crdt.Record{Key: c.key, Cells: old.Cells, Dead: old.Dead}
	seq := b.seq()
	if values == nil {
		if !old.Live() {
			return b.fit(c.key)
		}
		seq++
		now.Dead = b.stamp(at, old, seq)
	} else {
		if c.floor && old.Key == (crdt.Key{}) {
			seq++
			now.Cells = t.write(now.Cells, -1, values, crdt.Stamp{Time: crdt.Floor, Origin: b.self, Seq: seq})
		}
		if c.mask != 0 {
			if len(now.Cells) == 0 {
				c.mask = -1 // no record, so that the others are not known
			}
			seq++
			now.Cells = t.write(now.Cells, c.mask, values, b.stamp(at, now, seq))
		}
		if seq == b.seq() {
			return b.fit(c.key)
		}
	}
	if why := unfit(now); why != "" {
		mask := c.mask
		if c.floor {
			mask = -1
		}
		return b.c.exec(b.ctx, "INSERT INTO crdt_unfit (tbl, pk, mask, reason) VALUES (?, ?, ?, ?) ON CONFLICT (tbl, pk) DO UPDATE SET mask = mask | excluded.mask, reason = excluded.reason",
			c.key.Table, []byte(c.key.PK), mask, why)
	}
	b.heads[b.self] = seq
	b.moved[b.self] = true
	b.put(change{old: old, now: now})
	return b.fit(c.key)
}

// stamp is one of this POP's for a change of the row. A row that somebody
// released from the quarantine ahead of its time does not carry the clock along.
func (b *batch) stamp(at crdt.Time, above crdt.Record, seq uint64) crdt.Stamp {
	s := crdt.Stamp{Origin: b.self, Seq: seq}
	if latest := above.Latest(); latest > b.sealLimit {
		s.Time = latest + 1
	} else {
		s.Time = b.clock.Next(at, latest)
	}
	return s
}

// write sets the columns in the mask to the table's values.
func (t *tracked) write(cells []crdt.Cell, mask int64, values []crdt.Value, stamp crdt.Stamp) []crdt.Cell {
	cells = slices.Clone(cells)
	for i, f := range t.fields {
		if mask&t.bit(i) == 0 {
			continue
		}
		cell := crdt.Cell{Column: f.name, Value: values[i], Stamp: stamp}
		at, there := slices.BinarySearchFunc(cells, f.name, func(c crdt.Cell, name string) int { return strings.Compare(c.Column, name) })
		if there {
			cells[at] = cell
		} else {
			cells = slices.Insert(cells, at, cell)
		}
	}
	return cells
}

// unfit says why no peer would take the record, nothing where one would.
func unfit(rec crdt.Record) string {
	plain := len(rec.PK) < crdt.MaxKey && utf8.ValidString(rec.PK) && rec.Size() < crdt.MaxRecord/2 && len(rec.Cells) <= maxColumns
	for _, c := range rec.Cells {
		if s, ok := c.Value.Any().(string); ok && !utf8.ValidString(s) {
			plain = false
		}
	}
	if plain && !ownRows(rec.Table) {
		return ""
	}
	if len(rec.Cells) > maxColumns {
		return "it has more columns than edgeproxy carries"
	}
	if err := cmp.Or(rec.Check(), ownRow(rec)); err != nil {
		return err.Error()
	}
	return ""
}

// unfit adds to the changes of rows that could not be records what changed in
// them before.
func (b *batch) unfit(changes []*captured) error {
	var n int64
	if any, err := b.c.one(b.ctx, []any{&n}, "SELECT 1 FROM crdt_unfit LIMIT 1"); err != nil || !any {
		return err
	}
	for _, c := range changes {
		var mask int64
		found, err := b.c.one(b.ctx, []any{&mask}, "SELECT mask FROM crdt_unfit WHERE tbl = ? AND pk = ?", c.key.Table, []byte(c.key.PK))
		if err != nil {
			return err
		}
		if found {
			c.mask |= mask
			b.hadUnfit = true
		}
	}
	return nil
}

func (b *batch) fit(key crdt.Key) error {
	if !b.hadUnfit {
		return nil
	}
	return b.c.exec(b.ctx, "DELETE FROM crdt_unfit WHERE tbl = ? AND pk = ?", key.Table, []byte(key.PK))
}

// rawID is the value of a key of one column, also of text that is not UTF-8.
func rawID(key crdt.Key) (crdt.Value, error) {
	if columns, err := key.Columns(); err == nil && len(columns) == 1 {
		return columns[0], nil
	}
	b := []byte(key.PK)
	if len(b) > 0 && crdt.Kind(b[0]) == crdt.Text {
		if n, size := binary.Uvarint(b[1:]); size > 0 && uint64(len(b)) == 1+uint64(size)+n {
			return crdt.TextValue(string(b[1+size:])), nil
		}
	}
	return crdt.Value{}, fmt.Errorf("primary key of %s: not one column", key)
}
