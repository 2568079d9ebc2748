package sqlite

import (
	"context"
	"database/sql"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Telemetry is what this POP knows at one moment of all of them, itself
// included. It stands in tables for people with sqlite3, which nobody reads
// back: no trigger captures it, and no record, digest or backup holds it.
type Telemetry struct {
	POPs   []POP
	Load   []Load
	Health []Verdict
}

// POP is a row of the table pops.
type POP struct {
	Node, Region string
	Self         bool
	Incarnation  int64
	Connections  int64
	Seq          int64     // of its last report
	Seen         time.Time // when that was taken
}

// Load is a row of the table backend_load. One without connections is left out.
type Load struct {
	POP, Backend string
	Connections  int64
	Incarnation  int64
	Seq          int64
}

// Verdict is a row of the table backend_health.
type Verdict struct {
	POP, Backend string
	Up           bool
	Since        time.Time
	Why          string
}

//go:embed telemetry.sql
var telemetrySchema string

// telemetryMark is in the text of everything of that schema, which SQLite
// keeps. What has it is ours, of whatever version; what has not is the
// operator's, whatever its name.
const telemetryMark = "-- edgeproxy's telemetry"

// telemetryTable is one of the tables, its columns as they stand in a row.
type telemetryTable struct {
	name   string
	key    []string
	values []string
	stamps []string // of themselves no reason to write the row
}

var telemetryTables = [...]telemetryTable{
	{"pops", []string{"node"}, []string{"region", "self", "incarnation", "connections"}, []string{"seq", "seen_ms"}},
	{"backend_load", []string{"pop", "backend"}, []string{"connections", "incarnation"}, []string{"seq"}},
	{"backend_health", []string{"pop", "backend"}, []string{"up", "since_ms", "why"}, nil},
}

// telemetryKey names a row: the table and its first one or two columns.
type telemetryKey struct {
	table       int
	pop, second string
}

func (k telemetryKey) columns() []any {
	return []any{k.pop, k.second}[:len(telemetryTables[k.table].key)]
}

// telemetryRow is the rest of it.
type telemetryRow struct {
	values [4]any // as many as the table has, integers and text
	stamps []any
}

// rows are the rows that the tables should have.
func (t Telemetry) rows() map[telemetryKey]telemetryRow {
	rows := make(map[telemetryKey]telemetryRow, len(t.POPs)+len(t.Load)+len(t.Health))
	for _, p := range t.POPs {
		rows[telemetryKey{0, p.Node, ""}] = telemetryRow{[4]any{p.Region, bit(p.Self), p.Incarnation, p.Connections}, []any{p.Seq, p.Seen.UnixMilli()}}
	}
	for _, l := range t.Load {
		if l.Connections > 0 {
			rows[telemetryKey{1, l.POP, l.Backend}] = telemetryRow{[4]any{l.Connections, l.Incarnation}, []any{l.Seq}}
		}
	}
	for _, v := range t.Health {
		rows[telemetryKey{2, v.POP, v.Backend}] = telemetryRow{[4]any{bit(v.Up), v.Since.UnixMilli(), v.Why}, nil}
	}
	return rows
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// shown is what the file is known to hold.
type shown struct {
	known   bool
	version int64 // the writer's data_version, which others' commits change and its own do not
	ours    [len(telemetryTables)]bool
	foreign []string // tables and views of the operator's that have a name of ours
	rows    map[telemetryKey][4]any
}

// mostTelemetry is how many rows one transaction changes, so that it holds the
// file for a few milliseconds: a bare sqlite3 does not wait at all. The others
// follow at the next call.
const mostTelemetry = 1000

// WriteTelemetry has the tables say this. It writes nothing where nothing has
// changed, and only what has; the next Poll does not tell of it. Where the file
// is in use (ErrLocked), read-only or about to be opened anew it does nothing: the
// next call will. A table or view of the operator's that has one of the names is
// left alone, and ErrShape says so at every call.
//
// Call it about once a second, between Poll and Settle or where neither runs.
func (s *Store) WriteTelemetry(ctx context.Context, t Telemetry, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.readOnly || s.stale || s.writer == nil || s.reader == nil {
		return nil
	}
	if id, err := identify(s.path); err != nil || id != s.opened {
		return nil // somebody wrote the file: Poll comes first
	}
	// Not beside a write of our own: Poll and Read would wait for it too.
	if !s.writeMu.TryLock() {
		return ErrLocked
	}
	defer s.writeMu.Unlock()
	err := s.showLocked(ctx, t.rows(), now)
	if err != nil {
		s.shown = shown{}
	}
	switch resultCode(err) {
	case codeBusy, codeLocked:
		return ErrLocked
	case codeReadOnly:
		s.readOnly = true
		return nil
	}
	if err != nil {
		s.stale = s.stale || unusable(err)
		return s.explain("write the telemetry into", err)
	}
	if len(s.shown.foreign) > 0 {
		return fmt.Errorf("write the telemetry into %s: %w: %s is not edgeproxy's, and is left alone; rename it to have edgeproxy's in its place",
			s.path, ErrShape, strings.Join(s.shown.foreign, ", "))
	}
	return nil
}

// showLocked writes what is missing, if something is.
func (s *Store) showLocked(ctx context.Context, want map[telemetryKey]telemetryRow, now time.Time) error {
	version, err := dataVersion(ctx, s.writer)
	if err != nil {
		return err
	}
	if s.shown.known && s.shown.version == version && len(s.shown.differing(want)) == 0 {
		return nil
	}
	if err := s.writer.wait(ctx, 0); err != nil {
		return err
	}
	defer func() { _ = s.writer.wait(context.WithoutCancel(ctx), s.busy) }()
	if err := s.writer.durable(ctx, false); err != nil {
		return err
	}
	var others, ours int64 // data_version of the reader and of the writer, while nobody else can commit
	var wrote bool
	err = transact(ctx, s.writer, func() (err error) {
		if others, err = dataVersion(ctx, s.reader); err != nil {
			return err
		}
		if ours, err = dataVersion(ctx, s.writer); err != nil {
			return err
		}
		if !s.shown.known || s.shown.version != ours { // others wrote: perhaps into these tables
			if wrote, err = s.shown.read(ctx, s.writer); err != nil {
				return err
			}
			s.shown.version = ours
		}
		changes := s.shown.differing(want)
		wrote = wrote || len(changes) > 0
		return s.shown.write(ctx, s.writer, changes, want)
	})
	if err != nil || !wrote {
		return err
	}
	s.foldLaterLocked(now)
	return s.overlookLocked(ctx, others, ours)
}

// overlookLocked leaves the commit that was just made out of what the next
// Poll tells, unless somebody else committed too: before it, which the reader
// saw, or after it, which the writer sees.
func (s *Store) overlookLocked(ctx context.Context, others, ours int64) error {
	seen, err := dataVersion(ctx, s.reader)
	if err != nil {
		return err
	}
	after, err := dataVersion(ctx, s.writer)
	if err != nil {
		return err
	}
	if others == s.seen && after == ours {
		s.seen = seen
	}
	return nil
}

func dataVersion(ctx context.Context, c *conn) (v int64, err error) {
	err = c.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v)
	return v, err
}

// differing are the keys of rows that are missing, other than they should be,
// or too many; a bounded number of them, in no order, so that none waits for ever.
func (s *shown) differing(want map[telemetryKey]telemetryRow) (keys []telemetryKey) {
	for k := range s.rows {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	for k, row := range want {
		if have, ok := s.rows[k]; s.ours[k.table] && (!ok || have != row.values) {
			keys = append(keys, k)
		}
	}
	return keys[:min(len(keys), mostTelemetry)]
}

// write sets these rows to what they should be, and takes out those that
// should not be there.
func (s *shown) write(ctx context.Context, c *conn, keys []telemetryKey, want map[telemetryKey]telemetryRow) error {
	var gone, put [len(telemetryTables)][]any
	for _, k := range keys {
		t, row, ok := telemetryTables[k.table], telemetryRow{}, false
		if row, ok = want[k]; !ok {
			gone[k.table] = append(gone[k.table], k.columns()...)
			delete(s.rows, k)
			continue
		}
		put[k.table] = append(append(append(put[k.table], k.columns()...), row.values[:len(t.values)]...), row.stamps...)
		s.rows[k] = row.values
	}
	b := &batch{ctx: ctx, c: c}
	for i, t := range telemetryTables {
		if err := b.many(gone[i], len(t.key), t.delete); err != nil {
			return err
		}
		if err := b.many(put[i], len(t.key)+len(t.values)+len(t.stamps), t.upsert); err != nil {
			return err
		}
	}
	return nil
}

func (t telemetryTable) delete(n int) string {
	return fmt.Sprintf("DELETE FROM %s WHERE (%s) IN (VALUES %s)", t.name, strings.Join(t.key, ", "), tuples(n, len(t.key)))
}

func (t telemetryTable) upsert(n int) string {
	columns := slices.Concat(t.key, t.values, t.stamps)
	var set []string
	for _, c := range columns[len(t.key):] {
		set = append(set, c+" = excluded."+c)
	}
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES %s ON CONFLICT (%s) DO UPDATE SET %s",
		t.name, strings.Join(columns, ", "), tuples(n, len(columns)), strings.Join(t.key, ", "), strings.Join(set, ", "))
}

// read makes the tables and the view where they are missing or of another
// version, and reads what they hold.
func (s *shown) read(ctx context.Context, c *conn) (wrote bool, err error) {
	*s = shown{rows: map[telemetryKey][4]any{}}
	if wrote, err = s.install(ctx, c); err != nil {
		return wrote, err
	}
	for i := range telemetryTables {
		if !s.ours[i] {
			continue
		}
		cleaned, err := s.readTable(ctx, c, i)
		if err != nil {
			return wrote, err
		}
		wrote = wrote || cleaned
	}
	s.known = true
	return wrote, nil
}

func (s *shown) readTable(ctx context.Context, c *conn, table int) (cleaned bool, err error) {
	t := telemetryTables[table]
	// A key that is no text is somebody else's.
	res, err := c.ExecContext(ctx, "DELETE FROM "+t.name+" WHERE typeof("+strings.Join(t.key, ") <> 'text' OR typeof(")+") <> 'text'")
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, err
	}
	columns := slices.Concat(t.key, t.values)
	err = c.each(ctx, func(rows *sql.Rows) error {
		row, err := scan(rows, len(columns))
		if err != nil {
			return err
		}
		key := telemetryKey{table: table}
		key.pop, _ = row[0].(string)
		if len(t.key) > 1 {
			key.second, _ = row[1].(string)
		}
		var values [4]any
		for i, v := range row[len(t.key):] {
			switch v.(type) {
			case int64, string: // what is neither is not what we wrote
				values[i] = v
			}
		}
		s.rows[key] = values
		return nil
	}, "SELECT +"+strings.Join(columns, ", +")+" FROM "+t.name)
	return n > 0, err
}

// install goes through the schema. Nothing in these tables is worth keeping:
// one of another version makes way.
func (s *shown) install(ctx context.Context, c *conn) (wrote bool, err error) {
	for statement := range strings.SplitSeq(telemetrySchema, ";\n") {
		words := strings.Fields(statement)
		if len(words) == 0 {
			continue
		}
		statement = strings.TrimSpace(statement)
		kind, name := words[1], words[2]
		if kind == "VIEW" && s.ours != [len(telemetryTables)]bool{true, true, true} {
			continue // a view of tables that are not there is in the way of ALTER TABLE
		}
		var have, text string
		found, err := c.one(ctx, []any{&have, &text}, "SELECT upper(type), COALESCE(sql, '') FROM sqlite_schema WHERE name = ? COLLATE NOCASE AND type <> 'trigger'", name)
		if err != nil {
			return wrote, err
		}
		if found && (have != kind || !strings.Contains(text, telemetryMark)) {
			s.foreign = append(s.foreign, strings.ToLower(have)+" "+name)
			continue
		}
		if i := slices.IndexFunc(telemetryTables[:], func(t telemetryTable) bool { return t.name == name }); i >= 0 {
			s.ours[i] = true
		}
		if text == statement {
			continue
		}
		if found {
			statement = "DROP " + kind + " " + name + ";\n" + statement
		}
		if _, err := c.ExecContext(ctx, statement); err != nil {
			return wrote, err
		}
		wrote = true
	}
	return wrote, nil
}

// clearTelemetry takes the rows out of a copy: they are of the moment.
func clearTelemetry(ctx context.Context, c *conn) error {
	for _, t := range telemetryTables {
		var text string
		found, err := c.one(ctx, []any{&text}, "SELECT COALESCE(sql, '') FROM sqlite_schema WHERE name = ? AND type = 'table'", t.name)
		if err == nil && found && strings.Contains(text, telemetryMark) {
			_, err = c.ExecContext(ctx, "DELETE FROM "+t.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
