package crdt

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Origin is a POP in one life of its database: a file that was restored or
// copied begins a new epoch, so that no sequence number is ever used twice.
type Origin struct {
	Node  string
	Epoch uint32
}

func (o Origin) Compare(p Origin) int {
	return cmp.Or(strings.Compare(o.Node, p.Node), cmp.Compare(o.Epoch, p.Epoch))
}

func (o Origin) String() string { return fmt.Sprintf("%s/%d", o.Node, o.Epoch) }

// Stamp says when and by whom a column was written or a row deleted. Seq counts
// the origin's writes from 1. The zero Stamp is before all others.
type Stamp struct {
	Time   Time
	Origin Origin
	Seq    uint64
}

// Compare is the total order of writes: time, then origin, then number.
func (s Stamp) Compare(t Stamp) int {
	return cmp.Or(cmp.Compare(s.Time, t.Time), s.Origin.Compare(t.Origin), cmp.Compare(s.Seq, t.Seq))
}

func (s Stamp) IsZero() bool { return s == Stamp{} }

// Cell is a column's value and when it was written.
type Cell struct {
	Column string
	Value  Value
	Stamp  Stamp
}

// beats is the order of two writes to one column. The value stands before the
// number, so that a file which was copied, and then counted on in both places,
// cannot keep two POPs apart either.
func (c Cell) beats(d Cell) bool {
	return cmp.Or(
		cmp.Compare(c.Stamp.Time, d.Stamp.Time),
		c.Stamp.Origin.Compare(d.Stamp.Origin),
		c.Value.compare(d.Value),
		cmp.Compare(c.Stamp.Seq, d.Stamp.Seq),
	) > 0
}

// Key names a row in the mesh: its table and the encoding of its primary key.
type Key struct {
	Table string
	PK    string // what PK makes of the key's columns
}

// PK encodes the values of a primary key's columns, in the key's order.
func PK(columns ...Value) string {
	var b []byte
	for _, v := range columns {
		b = v.Append(b)
	}
	return string(b)
}

// Columns are the values that PK encoded.
func (k Key) Columns() ([]Value, error) {
	r := reader{b: []byte(k.PK)}
	var all []Value
	for len(r.b) > 0 {
		all = append(all, r.value())
	}
	if r.err != nil {
		return nil, fmt.Errorf("primary key of %s: %w", k.Table, r.err)
	}
	return all, nil
}

func (k Key) Compare(l Key) int {
	return cmp.Or(strings.Compare(k.Table, l.Table), strings.Compare(k.PK, l.PK))
}

// String names the row as a person would: backends "sa-node-1".
func (k Key) String() string {
	columns, err := k.Columns()
	if err != nil {
		return fmt.Sprintf("%s x'%x'", k.Table, k.PK)
	}
	text := k.Table
	for _, v := range columns {
		text += " " + v.String()
	}
	return text
}

// Record is a row with its stamps: the unit that POPs exchange, always whole.
// Cells stand in the order of their columns' names; a column without one is
// NULL and was never written. Dead is the latest delete, zero where there was
// none. A dead row keeps its cells, because a later write to one column
// somewhere else brings all of them back.
type Record struct {
	Key
	Cells []Cell
	Dead  Stamp
}

// Newest is the stamp of the latest write to a column, zero without any.
func (r Record) Newest() (newest Stamp) {
	for _, c := range r.Cells {
		if c.Stamp.Compare(newest) > 0 {
			newest = c.Stamp
		}
	}
	return newest
}

// Live says whether the row exists: it was written after it was deleted.
func (r Record) Live() bool { return r.Newest().Compare(r.Dead) > 0 }

// Latest is the time of the row's latest change, a delete or a write.
func (r Record) Latest() Time { return max(r.Newest().Time, r.Dead.Time) }

// Cell returns a column's cell, zero where there is none.
func (r Record) Cell(column string) Cell {
	i, ok := slices.BinarySearchFunc(r.Cells, column, func(c Cell, name string) int { return strings.Compare(c.Column, name) })
	if !ok {
		return Cell{}
	}
	return r.Cells[i]
}

// Owners calls yield with every stamp of the row: a peer that lacks one of
// them lacks a part of the row. A stamp may come more than once.
func (r Record) Owners(yield func(Stamp) bool) {
	if !r.Dead.IsZero() && !yield(r.Dead) {
		return
	}
	for _, c := range r.Cells {
		if !yield(c.Stamp) {
			return
		}
	}
}

// Equal says whether two records are the same row in the same state.
func (r Record) Equal(s Record) bool {
	return r.Key == s.Key && r.Dead == s.Dead && slices.Equal(r.Cells, s.Cells)
}

// Merge is the row that both states lead to, whoever has which and in whatever
// order they came: of each column the later write, and the later delete. Both
// must have one key. It shares memory with its arguments, which it leaves as
// they are.
func Merge(a, b Record) Record {
	m := Record{Key: a.Key, Dead: a.Dead}
	if b.Dead.Compare(a.Dead) > 0 {
		m.Dead = b.Dead
	}
	switch {
	case len(a.Cells) == 0:
		m.Cells = b.Cells
		return m
	case len(b.Cells) == 0:
		m.Cells = a.Cells
		return m
	}
	m.Cells = make([]Cell, 0, max(len(a.Cells), len(b.Cells)))
	for i, j := 0, 0; i < len(a.Cells) || j < len(b.Cells); {
		switch {
		case j == len(b.Cells) || i < len(a.Cells) && a.Cells[i].Column < b.Cells[j].Column:
			m.Cells = append(m.Cells, a.Cells[i])
			i++
		case i == len(a.Cells) || b.Cells[j].Column < a.Cells[i].Column:
			m.Cells = append(m.Cells, b.Cells[j])
			j++
		default:
			winner := a.Cells[i]
			if b.Cells[j].beats(winner) {
				winner = b.Cells[j]
			}
			m.Cells = append(m.Cells, winner)
			i, j = i+1, j+1
		}
	}
	return m
}
