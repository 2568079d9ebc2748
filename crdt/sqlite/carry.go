package sqlite

import (
	"context"
	"database/sql"
	"strings"
)

// carried is what a file held of the replica when another was moved over it:
// it goes on in the new one, where that was not written by edgeproxy, so that
// only the rows that differ count as written.
type carried struct {
	tables map[string]carriedTable
}

type carriedTable struct {
	columns []string
	values  []any
}

// carriedTables are those that make a replica.
var carriedTables = []string{"crdt_tables", "crdt_origins", "crdt_names", "crdt_rows", "crdt_owners", "crdt_quarantine"}

// carryLocked reads the replica from the file that is still open under a name
// that is another's by now. What cannot be read is left: the new file then
// counts as written now, all of it.
func (s *Store) carryLocked(ctx context.Context) {
	if s.replica == nil || s.writer == nil || !s.replica.started {
		return
	}
	k := &carried{tables: map[string]carriedTable{}}
	control, err := readControl(ctx, s.writer)
	if err != nil || !control.found || control.nonce != s.replica.Life.Nonce {
		return
	}
	for _, table := range carriedTables {
		var t carriedTable
		err := s.writer.each(ctx, func(rows *sql.Rows) (err error) {
			if t.columns == nil {
				if t.columns, err = rows.Columns(); err != nil {
					return err
				}
			}
			row, err := scan(rows, len(t.columns))
			t.values = append(t.values, row...)
			return err
		}, "SELECT * FROM "+table)
		if err != nil {
			return
		}
		k.tables[table] = t
	}
	s.replica.carried = k
}

// write puts it into the new file.
func (k *carried) write(ctx context.Context, c *conn) error {
	b := &batch{ctx: ctx, c: c}
	for _, table := range carriedTables {
		t := k.tables[table]
		if len(t.columns) == 0 {
			continue
		}
		err := b.many(t.values, len(t.columns), func(n int) string {
			return "INSERT INTO " + table + " (" + strings.Join(t.columns, ", ") + ") VALUES " + tuples(n, len(t.columns))
		})
		if err != nil {
			return err
		}
	}
	return nil
}
