package sqlite

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt"
)

//go:embed replica.sql
var replicaSchema string

// tracked is a table whose rows are records, with the columns that it has in
// this file: ours, and whatever the operator added.
type tracked struct {
	Table
	key    string  // the key column, quoted
	fields []field // the other columns, in the file's order
	sorted []int   // their places, in the order of names
}

// field is a column that is not the key.
type field struct {
	name   string // as records have it: in lower case
	quoted string
	class  affinity
	preset crdt.Value // what a row has that was there before the column
}

// lastBit is the bit of a mask that stands for all columns from here on.
const lastBit = 62

func (t *tracked) bit(i int) int64 { return 1 << min(i, lastBit) }

func (t *tracked) field(name string) int {
	return slices.IndexFunc(t.fields, func(f field) bool { return f.name == name })
}

// names are the columns in the order of a mask's bits.
func (t *tracked) names() []string {
	names := make([]string, len(t.fields))
	for i, f := range t.fields {
		names[i] = f.name
	}
	return names
}

// selects lists key and columns. The + keeps the drivers from making
// something else of a value because of its column's declared type.
func (t *tracked) selects() string {
	var b strings.Builder
	b.WriteString("+" + t.key)
	for _, f := range t.fields {
		b.WriteString(", +" + f.quoted)
	}
	return b.String()
}

// track finds out which columns the table has.
func track(ctx context.Context, c *conn, table Table) (*tracked, error) {
	t := &tracked{Table: table, key: quoted(table.Columns[0])}
	presets := map[int]string{}
	rows, err := c.QueryContext(ctx, "SELECT name, type, pk, dflt_value FROM pragma_table_xinfo(?) WHERE hidden = 0", table.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, kind string
		var pk int
		var preset sql.NullString
		if err := rows.Scan(&name, &kind, &pk, &preset); err != nil {
			return nil, err
		}
		class := affinityOf(kind)
		if pk > 0 {
			if class != affText && class != affBlob {
				return nil, fmt.Errorf("replicate %s: %w: its key %s is %s and must be TEXT; make the table as in sql/create_routing_db.sql and copy the rows",
					table.Name, ErrShape, name, kind)
			}
			t.key = quoted(name)
			continue
		}
		f := field{name: strings.ToLower(name), quoted: quoted(name), class: class}
		if probe := (crdt.Record{Key: crdt.Key{Table: table.Name, PK: crdt.PK(crdt.TextValue(""))}, Cells: []crdt.Cell{{Column: f.name, Stamp: crdt.Stamp{Time: 1, Origin: crdt.Origin{Node: "n"}, Seq: 1}}}}); probe.Check() != nil {
			continue // a name that no peer takes
		}
		if preset.Valid {
			presets[len(t.fields)] = preset.String
		}
		t.fields = append(t.fields, f)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows.Close()
	for i := range t.fields {
		t.sorted = append(t.sorted, i)
	}
	slices.SortFunc(t.sorted, func(i, j int) int { return strings.Compare(t.fields[i].name, t.fields[j].name) })
	for i, expression := range presets {
		var v any
		if err := c.QueryRowContext(ctx, "SELECT "+expression).Scan(&v); err == nil {
			if value, err := crdt.ValueOf(v); err == nil {
				t.fields[i].preset, _ = c.stored(ctx, value, t.fields[i].class)
			}
		}
	}
	return t, nil
}

// triggers are the table's, by name. Their text begins as SQLite keeps it.
// They only append, so that no INSERT OR … of a user's, which overrides the
// conflict clauses inside, meets a conflict there.
func (t *tracked) triggers() map[string]string {
	all := map[string]string{}
	add := func(suffix, event, when string, bodies ...string) {
		name := "crdt_" + t.Name + "_" + suffix
		all[name] = fmt.Sprintf("CREATE TRIGGER %s AFTER %s ON %s WHEN (SELECT applying FROM crdt_control WHERE id = 1) = 0 AND %s BEGIN %s END",
			name, event, quoted(t.Name), when, strings.Join(bodies, " "))
	}
	entry := func(row, mask string) string {
		return fmt.Sprintf("INSERT INTO crdt_inbox (tbl, pk, at, mask) SELECT '%s', %s.%s, julianday('now'), %s WHERE %s.%s IS NOT NULL;",
			t.Name, row, t.key, mask, row, t.key)
	}
	var differs []string
	bits := map[int64][]string{}
	var order []int64
	for i, f := range t.fields {
		d := fmt.Sprintf("OLD.%s IS NOT NEW.%s", f.quoted, f.quoted)
		differs = append(differs, d)
		if bits[t.bit(i)] == nil {
			order = append(order, t.bit(i))
		}
		bits[t.bit(i)] = append(bits[t.bit(i)], d)
	}
	var mask []string
	for _, bit := range order {
		mask = append(mask, fmt.Sprintf("(%s) * %d", strings.Join(bits[bit], " OR "), bit))
	}
	k := t.key
	add("insert", "INSERT", fmt.Sprintf("NEW.%s IS NOT NULL", k), entry("NEW", "-1"))
	add("delete", "DELETE", fmt.Sprintf("OLD.%s IS NOT NULL", k), entry("OLD", "0"))
	add("rename", "UPDATE", fmt.Sprintf("OLD.%s IS NOT NEW.%s", k, k), entry("OLD", "0"), entry("NEW", "-1"))
	if len(t.fields) > 0 {
		add("update", "UPDATE", fmt.Sprintf("OLD.%s IS NEW.%s AND (%s)", k, k, strings.Join(differs, " OR ")), entry("NEW", strings.Join(mask, " + ")))
	}
	return all
}

// installed are the table's triggers as they are in the file.
func (t *tracked) installed(ctx context.Context, c *conn) (map[string]string, error) {
	have := map[string]string{}
	rows, err := c.QueryContext(ctx, "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'crdt\\_%' ESCAPE '\\' AND lower(tbl_name) = lower(?)", t.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, text string
		if err := rows.Scan(&name, &text); err != nil {
			return nil, err
		}
		have[name] = text
	}
	return have, rows.Err()
}

func (t *tracked) empty(ctx context.Context, c *conn) (empty bool, err error) {
	_, err = c.one(ctx, []any{&empty}, "SELECT NOT EXISTS (SELECT 1 FROM "+quoted(t.Name)+")")
	return empty, err
}

// columnsBefore are those that the triggers in the file were made for.
func (t *tracked) columnsBefore(ctx context.Context, c *conn) (columns []string, known bool, err error) {
	var text string
	known, err = c.one(ctx, []any{&text}, "SELECT columns FROM crdt_tables WHERE name = ?", t.Name)
	if err == nil && known {
		err = json.Unmarshal([]byte(text), &columns)
	}
	return columns, known, err
}

// install puts the triggers into the file in place of those that are there.
func (t *tracked) install(ctx context.Context, c *conn, have map[string]string) error {
	for name := range have {
		if _, err := c.ExecContext(ctx, "DROP TRIGGER "+quoted(name)); err != nil {
			return err
		}
	}
	for _, text := range t.triggers() {
		if _, err := c.ExecContext(ctx, text); err != nil {
			return err
		}
	}
	columns, err := json.Marshal(t.names())
	if err != nil {
		return err
	}
	return c.exec(ctx, "INSERT INTO crdt_tables (name, columns) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET columns = excluded.columns", t.Name, string(columns))
}
