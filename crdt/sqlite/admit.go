package sqlite

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// admit says what is wrong with a record that is not taken. It depends on the
// schema and on nothing that an operator sets.
// Of a table that is not known here only what the sender declared is taken.
func (b *batch) admit(rec crdt.Record, declared bool) error {
	var id crdt.Value
	var err error
	switch {
	case b.table(rec.Table) != nil:
		id, err = idOf(rec.Key)
	case declared:
		err = foreignKey(rec.Key)
	default:
		err = fmt.Errorf("there is no table %q here", rec.Table)
	}
	if err != nil {
		return err
	}
	if s, ok := id.Any().(string); ok && !utf8.ValidString(s) || len(rec.PK) > crdt.MaxKey {
		return fmt.Errorf("its primary key is not text, or has more than %d bytes", crdt.MaxKey)
	}
	if n := len(rec.Cells); n > maxColumns {
		return fmt.Errorf("it has %d columns, at most %d are taken", n, maxColumns)
	}
	if size := rec.Size(); size > crdt.MaxRecord {
		return fmt.Errorf("it has %d bytes, at most %d are taken", size, crdt.MaxRecord)
	}
	if len(rec.Cells) == 0 && rec.Dead.IsZero() {
		return errors.New("it says nothing: no column and no delete")
	}
	if !rec.Dead.IsZero() && !wellFormed(rec.Dead) {
		return fmt.Errorf("its delete has a stamp of nothing: %v", rec.Dead)
	}
	for i, c := range rec.Cells {
		if i > 0 && rec.Cells[i-1].Column >= c.Column {
			return fmt.Errorf("column %s stands behind %s", c.Column, rec.Cells[i-1].Column)
		}
		if (i == 0 || c.Stamp != rec.Cells[i-1].Stamp) && !wellFormed(c.Stamp) {
			return fmt.Errorf("column %s has a stamp of nothing: %v", c.Column, c.Stamp)
		}
	}
	return ownRow(rec)
}

// ownRow refuses what somebody says of another POP in a table in which each
// speaks for itself. A delete is everybody's.
func ownRow(rec crdt.Record) error {
	if !ownRows(rec.Table) {
		return nil
	}
	for _, c := range rec.Cells {
		if rec.PK != crdt.PK(crdt.TextValue(c.Stamp.Origin.Node)) {
			return fmt.Errorf("column %s was written by %s: of this table each POP writes its own row, and no other's", c.Column, c.Stamp.Origin.Node)
		}
	}
	return nil
}

// wellFormed says whether it is a stamp that SQLite's integers hold.
func wellFormed(s crdt.Stamp) bool {
	return fits(s.Seq) && s.Time > 0 && s.Time <= math.MaxInt64 && s.Origin.Node != ""
}

// idOf is the key column's value of a record of ours: text, or a blob.
func idOf(key crdt.Key) (crdt.Value, error) {
	columns, err := key.Columns()
	if err != nil {
		return crdt.Value{}, err
	}
	if len(columns) != 1 || columns[0].Kind() != crdt.Text && columns[0].Kind() != crdt.Blob {
		return crdt.Value{}, errors.New("its primary key is not one text")
	}
	return columns[0], nil
}

// latest is the time of the record's latest change.
func latest(rec crdt.Record) crdt.Time {
	t := rec.Dead.Time
	for i := range rec.Cells {
		t = max(t, rec.Cells[i].Stamp.Time)
	}
	return t
}

// split takes apart what is stamped up to the limit and what later. A part
// without anything is zero.
func split(rec crdt.Record, limit crdt.Time) (now, ahead crdt.Record) {
	if latest(rec) <= limit {
		return rec, ahead
	}
	for _, c := range rec.Cells {
		to := &now
		if c.Stamp.Time > limit {
			to = &ahead
		}
		to.Key = rec.Key
		to.Cells = append(to.Cells, c)
	}
	if !rec.Dead.IsZero() {
		to := &now
		if rec.Dead.Time > limit {
			to = &ahead
		}
		to.Key, to.Dead = rec.Key, rec.Dead
	}
	return now, ahead
}
