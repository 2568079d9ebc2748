package sqlite

import (
	"context"
	"database/sql"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// affinity is what a column makes of the values that are put into it,
// https://www.sqlite.org/datatype3.html, §3.1.
type affinity byte

const (
	affBlob    affinity = 'b' // nothing
	affText    affinity = 't'
	affNumeric affinity = 'n'
	affInteger affinity = 'i'
	affReal    affinity = 'r'
)

func affinityOf(declared string) affinity {
	has := func(s string) bool { return strings.Contains(strings.ToUpper(declared), s) }
	switch {
	case has("INT"):
		return affInteger
	case has("CHAR"), has("CLOB"), has("TEXT"):
		return affText
	case has("BLOB"), declared == "", strings.EqualFold(declared, "ANY"):
		return affBlob
	case has("REAL"), has("FLOA"), has("DOUB"):
		return affReal
	}
	return affNumeric
}

// stored is what a column of the class has after the value was put into it.
// Where that is not plain to see, SQLite says it.
func (c *conn) stored(ctx context.Context, v crdt.Value, class affinity) (crdt.Value, error) {
	switch kind := v.Kind(); {
	case class == affBlob, kind == crdt.Null, kind == crdt.Blob,
		class == affText && kind == crdt.Text, class != affText && class != affReal && kind == crdt.Int:
		return v, nil
	}
	const table = "CREATE TEMP TABLE IF NOT EXISTS crdt_stored (t TEXT, n NUMERIC, i INTEGER, r REAL)"
	if _, err := c.ExecContext(ctx, table); err != nil {
		return v, err
	}
	column := string(class)
	if _, err := c.ExecContext(ctx, "INSERT INTO temp.crdt_stored ("+column+") VALUES (?)", v.Any()); err != nil {
		return v, err
	}
	var got crdt.Value
	err := c.each(ctx, func(rows *sql.Rows) (err error) {
		got, err = scanValue(rows)
		return err
	}, "SELECT +"+column+" FROM temp.crdt_stored")
	if err != nil {
		return v, err
	}
	return got, c.exec(ctx, "DELETE FROM temp.crdt_stored")
}

func scanValue(rows *sql.Rows) (crdt.Value, error) {
	var v any
	if err := rows.Scan(&v); err != nil {
		return crdt.Value{}, err
	}
	return crdt.ValueOf(v)
}

// shows says whether the column shows the value, as far as it can.
func (c *conn) shows(ctx context.Context, there, want crdt.Value, class affinity) (bool, error) {
	if there == want {
		return true, nil
	}
	if there.Kind() == want.Kind() {
		return false, nil
	}
	got, err := c.stored(ctx, want, class)
	return got == there, err
}
