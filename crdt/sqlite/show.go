package sqlite

import (
	"database/sql"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// show makes the operator's tables say what the records say.
func (b *batch) show(puts []change) error {
	for _, t := range b.tables {
		var gone []any
		var seen []byte
		alike := map[string][]*change{} // by which columns the record has
		for i := range puts {
			w := &puts[i]
			if !w.show || w.now.Table != t.Name {
				continue
			}
			if w.forget || !w.live {
				if id, err := idOf(w.now.Key); err == nil {
					gone = append(gone, id.Any())
				}
				continue
			}
			present := t.present(w.now, seen)
			rows := alike[string(present)]
			if rows == nil {
				rows = make([]*change, 0, len(puts)-i)
			}
			alike[string(present)] = append(rows, w)
			seen = present
		}
		err := b.many(gone, 1, func(n int) string {
			return "DELETE FROM " + quoted(t.Name) + " WHERE " + t.key + " IN (" + marks(n) + ")"
		})
		if err != nil {
			return err
		}
		for present, rows := range alike {
			if err := b.showAlike(t, present, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

// present says, per column of the table in the order of names, whether the
// record has it.
func (t *tracked) present(rec crdt.Record, into []byte) []byte {
	into = into[:0]
	at := 0
	for _, i := range t.sorted {
		for at < len(rec.Cells) && rec.Cells[at].Column < t.fields[i].name {
			at++
		}
		if at < len(rec.Cells) && rec.Cells[at].Column == t.fields[i].name {
			into = append(into, 1)
		} else {
			into = append(into, 0)
		}
	}
	return into
}

// showAlike writes rows that have the same columns. A row that the table's own
// constraints refuse is left out by itself: its record is kept and passed on.
func (b *batch) showAlike(t *tracked, present string, puts []*change) error {
	columns, sets := []string{t.key}, []string{}
	var fields []field
	for at, i := range t.sorted {
		if f := t.fields[i]; present[at] == 1 {
			fields = append(fields, f)
			columns = append(columns, f.quoted)
			sets = append(sets, f.quoted+" = excluded."+f.quoted)
		}
	}
	conflict := "DO NOTHING"
	if len(sets) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(sets, ", ")
	}
	statement := func(n int) string {
		return "INSERT INTO " + quoted(t.Name) + " (" + strings.Join(columns, ", ") + ") VALUES " + tuples(n, len(columns)) +
			" ON CONFLICT (" + t.key + ") " + conflict
	}
	values := make([]any, 0, len(puts)*len(columns))
	for _, w := range puts {
		id, err := idOf(w.now.Key)
		if err != nil {
			continue
		}
		values = append(values, id.Any())
		at := 0
		for _, f := range fields { // all of them are there, in the order of names
			for w.now.Cells[at].Column != f.name {
				at++
			}
			values = append(values, w.now.Cells[at].Value.Any())
		}
	}
	err := b.many(values, len(columns), statement)
	if resultCode(err) != codeConstraint {
		return err
	}
	for from := 0; from < len(values); from += len(columns) {
		if err := b.c.exec(b.ctx, statement(1), values[from:from+len(columns)]...); err != nil && resultCode(err) != codeConstraint {
			return err
		}
	}
	return nil
}

// tableRows reads rows of the operator's table as values, the key's first.
func (b *batch) tableRows(t *tracked, condition string, yield func([]crdt.Value) error, args ...any) error {
	n := len(t.fields) + 1
	into, to := make([]any, n), make([]any, n)
	for i := range to {
		to[i] = &into[i]
	}
	return b.c.each(b.ctx, func(rows *sql.Rows) (err error) {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		row := make([]crdt.Value, n)
		for i, v := range into {
			if row[i], err = crdt.ValueOf(v); err != nil {
				return err
			}
		}
		return yield(row)
	}, "SELECT "+t.selects()+" FROM "+quoted(t.Name)+" "+condition, args...)
}
