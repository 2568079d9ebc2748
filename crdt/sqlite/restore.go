package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Restore puts what a copy holds into a database that a daemon has open, in
// one transaction: moving the copy over the file would leave the log of what
// was there before to whoever opens it first. Where asWritten is set, or the
// copy has no records, its rows count as written now and those that it lacks
// stay; else all is as in the copy, and the daemon begins a new epoch.
func Restore(ctx context.Context, path, from string, asWritten bool) error {
	s := &Store{path: path, busy: busyTimeout}
	c, err := connect(ctx, uri(path, "rw"), busyTimeout)
	if err != nil {
		return s.explain("open", err)
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, "PRAGMA synchronous = FULL"); err != nil {
		return s.explain("open", err)
	}
	if _, err := c.ExecContext(ctx, "ATTACH ? AS copy", from); err != nil {
		return s.explain("restore", err)
	}
	r := restorer{ctx: ctx, c: c}
	has, err := r.columns("copy", "crdt_control")
	if err != nil {
		return s.explain("restore", err)
	}
	put := r.replaceAll
	if asWritten || len(has) == 0 {
		put = r.mergeRows
	}
	for deadline := time.Now().Add(busyTimeout); ; {
		err := transact(ctx, c, put)
		if !errors.Is(err, errPending) || time.Now().After(deadline) {
			return s.explain("restore", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond): // the daemon seals them
		}
	}
}

type restorer struct {
	ctx context.Context
	c   *conn
}

// replaceAll makes every table what it is in the copy. Writes that the daemon
// has not sealed yet come first: they are acknowledged, and the mesh has them
// once they are sealed.
func (r restorer) replaceAll() error {
	var pending int
	if err := r.c.QueryRowContext(r.ctx, "SELECT count(*) FROM main.crdt_inbox").Scan(&pending); err != nil {
		return err
	}
	if pending > 0 {
		return errPending
	}
	if _, err := r.c.ExecContext(r.ctx, "UPDATE main.crdt_control SET applying = 1"); err != nil {
		return err
	}
	names, err := r.tables()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.replace(name); err != nil {
			return err
		}
	}
	_, err = r.c.ExecContext(r.ctx, "UPDATE main.crdt_control SET applying = 0, nonce = ''")
	return err
}

// tables are the operator's and the replica's, the row that silences the
// triggers last.
func (r restorer) tables() (names []string, err error) {
	for _, t := range tables {
		names = append(names, t.Name)
	}
	err = r.c.each(r.ctx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	}, `SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name LIKE 'crdt\_%' ESCAPE '\' AND name <> 'crdt_control'`)
	return append(names, "crdt_control"), err
}

func (r restorer) replace(name string) error {
	shared, err := r.shared(name)
	if err != nil {
		return err
	}
	if name == "crdt_control" {
		// Only what belongs to the records: the row itself stays, with applying.
		_, err := r.c.ExecContext(r.ctx, `UPDATE main.crdt_control SET (node, epoch, version, clock) =
			(SELECT node, epoch, version, max(clock, main.crdt_control.clock) FROM copy.crdt_control WHERE id = 1)`)
		return err
	}
	if _, err := r.c.ExecContext(r.ctx, "DELETE FROM main."+quoted(name)); err != nil {
		return err
	}
	if len(shared) == 0 {
		return nil // a table that the copy does not have
	}
	list := strings.Join(shared, ", ")
	_, err = r.c.ExecContext(r.ctx, fmt.Sprintf("INSERT INTO main.%s (%s) SELECT %s FROM copy.%s", quoted(name), list, list, quoted(name)))
	return err
}

// mergeRows writes the copy's rows as an operator would, with the triggers
// looking on. These say nothing of a row that is the same already, and what
// the mesh knows of it may be newer than what has arrived here: so each of
// the copy's rows is noted as written as a whole.
func (r restorer) mergeRows() error {
	for _, t := range tables {
		if ofPOPs(t.Name) {
			continue
		}
		shared, err := r.shared(t.Name)
		if err != nil {
			return err
		}
		if len(shared) == 0 {
			continue
		}
		key := quoted(t.Columns[0])
		var sets []string
		for _, column := range shared {
			if column != key {
				sets = append(sets, column+" = excluded."+column)
			}
		}
		list := strings.Join(shared, ", ")
		_, err = r.c.ExecContext(r.ctx, fmt.Sprintf("INSERT INTO main.%s (%s) SELECT %s FROM copy.%s WHERE %s IS NOT NULL ON CONFLICT (%s) DO UPDATE SET %s",
			quoted(t.Name), list, list, quoted(t.Name), key, key, strings.Join(sets, ", ")))
		if err != nil {
			return err
		}
		_, err = r.c.ExecContext(r.ctx, fmt.Sprintf("INSERT INTO main.crdt_inbox (tbl, pk, at, mask) SELECT ?, %s, julianday('now'), -1 FROM copy.%s WHERE %s IS NOT NULL",
			key, quoted(t.Name), key), t.Name)
		if err != nil {
			return err
		}
	}
	return nil
}

// shared are the columns of a table that both files have, quoted.
func (r restorer) shared(name string) ([]string, error) {
	here, err := r.columns("main", name)
	if err != nil {
		return nil, err
	}
	there, err := r.columns("copy", name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(here, func(c string) bool { return !slices.Contains(there, c) }), nil
}

func (r restorer) columns(schema, table string) (names []string, err error) {
	err = r.c.each(r.ctx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, quoted(strings.ToLower(name)))
		return err
	}, "SELECT name FROM pragma_table_info(?, ?)", table, schema)
	return names, err
}
