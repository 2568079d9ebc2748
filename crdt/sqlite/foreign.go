package sqlite

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Foreign rows are of tables that a newer edgeproxy declared and this one does
// not know. They have records and no table in which they are seen; like all
// records they merge, are passed on, repaired and deleted. When this POP is
// upgraded, its table shows them.

// Limits of what is kept for others. What is new and beyond is refused by
// name; once this POP knows the table, a repair brings it.
const (
	maxForeign       = 32 << 20 // bytes
	maxForeignTables = 64
)

// isForeign says whether rows of the table are kept for others only.
func (p *replica) isForeign(table string) bool { return p.table(table) == nil }

// foreignSize is what a record counts among the foreign ones, 0 for none.
func (p *replica) foreignSize(rec crdt.Record) int {
	if rec.Key == (crdt.Key{}) || !p.isForeign(rec.Table) {
		return 0
	}
	return rec.Size()
}

// foreignKey says why a foreign record can have no row.
func foreignKey(key crdt.Key) error {
	if columns, err := key.Columns(); err != nil || len(columns) == 0 || slices.Contains(columns, crdt.Value{}) {
		return errors.New("its primary key is none")
	}
	return nil
}

// roomFor says why there is no room for a foreign record that is not here yet,
// beside those that the batch is about to add. One that is here is written on
// and deleted whatever there is: who has it must hear of that.
func (b *batch) roomFor(rec crdt.Record, adding map[string]int) error {
	if !b.isForeign(rec.Table) {
		return nil
	}
	tables, used := map[string]bool{}, rec.Size()
	for _, some := range []map[string]int{b.foreign, b.foreignNow, adding} {
		for table, bytes := range some {
			used += bytes
			tables[table] = true
		}
	}
	switch {
	case !tables[rec.Table] && len(tables) >= maxForeignTables:
		return fmt.Errorf("there is no table %q here, and rows of %d others are kept for newer POPs already", rec.Table, maxForeignTables)
	case used > maxForeign:
		return fmt.Errorf("there is no table %q here, and %d MiB are kept for newer POPs already", rec.Table, maxForeign>>20)
	}
	return nil
}

// noteForeign counts a change.
func (b *batch) noteForeign(w change) {
	table := w.now.Table
	if !b.isForeign(table) {
		return
	}
	if b.foreignNow == nil {
		b.foreignNow = map[string]int{}
	}
	b.foreignNow[table] -= b.foreignSize(w.old)
	if !w.forget {
		b.foreignNow[table] += b.foreignSize(w.now)
	}
}

// Tables are those of which records may come from here: ours, and those whose
// rows are kept for others. It does not wait for the disk.
func (s *Store) Tables() []string {
	if list := s.listed.Load(); list != nil {
		return *list
	}
	return nil
}

// listTablesLocked brings Tables up to date.
func (s *Store) listTablesLocked() {
	var list []string
	if s.replica != nil {
		for _, t := range s.replica.tables {
			list = append(list, t.Name)
		}
		list = append(list, slices.Sorted(maps.Keys(s.replica.foreign))...)
	}
	if old := s.listed.Load(); old == nil || !slices.Equal(*old, list) {
		s.listed.Store(&list)
	}
}
