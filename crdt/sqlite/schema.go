package sqlite

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// version stands in the file's user_version. A file of a higher one was
// written by a newer edgeproxy, and what its columns mean is not known here.
const version = 1

//go:embed schema.sql
var schema string

// Table is a table of the operator's, whose rows every POP holds. The first
// column is the primary key.
type Table struct {
	Name    string
	Columns []string
	// added are those of Columns that a file of an earlier edgeproxy lacks, each
	// with its type; they may be NULL, and an earlier edgeproxy opens a file that
	// has them.
	added []addedColumn
}

type addedColumn struct{ name, kind string }

// adds says whether a file may lack the column.
func (t Table) adds(name string) bool {
	return slices.ContainsFunc(t.added, func(a addedColumn) bool { return a.name == name })
}

// query selects the columns. The + keeps the drivers from making something else
// of a value because of its column's declared type (BOOLEAN, DATE).
func (t Table) query() string {
	return "SELECT +" + strings.Join(t.Columns, ", +") + " FROM " + t.Name
}

// The operator's tables.
var (
	Backends = Table{Name: "backends", Columns: []string{
		"id", "app", "region", "wg_ip", "port", "healthy", "weight", "soft_limit", "hard_limit", "deleted"}}
	BackendOptions = Table{Name: "backend_options", Columns: []string{"id", "country", "draining", "health_check", "proxy_protocol"},
		added: []addedColumn{{"health_check", "TEXT"}, {"proxy_protocol", "TEXT"}}}
	Services = Table{Name: "services", Columns: []string{"app", "health_check", "panic_threshold", "soft_limit", "hard_limit",
		"listen", "mode", "sni", "alpn", "affinity_ttl", "proxy_protocol", "connect_timeout_ms", "idle_timeout_secs", "max_connections"},
		added: []addedColumn{{"listen", "TEXT"}, {"mode", "TEXT"}, {"sni", "TEXT"}, {"alpn", "TEXT"}, {"affinity_ttl", "INTEGER"}, {"proxy_protocol", "TEXT"},
			{"connect_timeout_ms", "INTEGER"}, {"idle_timeout_secs", "INTEGER"}, {"max_connections", "INTEGER"}}}
	Registrations = Table{Name: "registrations", Columns: []string{"id", "pop", "heartbeat_ms", "registered_ms", "ttl_secs", "failing"}}
	PopStatus     = Table{Name: "pop_status", Columns: []string{"node", "faults"}}
	PopKeys       = Table{Name: "pop_keys", Columns: []string{"node", "public_key"}}
	WGPops        = Table{Name: "wg_pops", Columns: []string{"node", "region", "public_key", "next_key", "address", "address6", "endpoint", "topology", "claimed_ms"}}
	WGPeers       = Table{Name: "wg_peers", Columns: []string{"name", "region", "public_key", "address", "address6", "endpoint", "via", "routes", "claimed_ms"}}
)

// tables is in the order in which they are checked.
var tables = []Table{Backends, BackendOptions, Services, Registrations, PopStatus, PopKeys, WGPops, WGPeers}

// ofPOPs says whether a table is the POPs' own bookkeeping, which is replicated
// as the operator's rows are, and is none of them.
func ofPOPs(table string) bool {
	return table == PopKeys.Name || table == Registrations.Name || ownRows(table)
}

// ownRows says whether in a table each POP writes its own row, and no other's.
func ownRows(table string) bool { return table == WGPops.Name || table == PopStatus.Name }

// check finds out, reading only, whether the file can be ours, and whether
// everything of ours is in it.
func (s *Store) check(ctx context.Context, c *conn, create bool) (complete bool, err error) {
	found, err := s.checkVersion(ctx, c)
	if err != nil {
		return false, err
	}
	missing, err := s.checkShape(ctx, c)
	if err != nil {
		return false, err
	}
	if !create && slices.Contains(missing, Backends.Name) {
		return false, fmt.Errorf("open %s: %w: it has no table backends; restart edgeproxy, or make it as in sql/create_routing_db.sql; rows that were in it come back",
			s.path, ErrShape)
	}
	return found == version && len(missing) == 0, nil
}

// checkVersion reads the version of the file's schema, and refuses a newer one.
func (s *Store) checkVersion(ctx context.Context, c *conn) (found int, err error) {
	if err := c.QueryRowContext(ctx, "PRAGMA user_version").Scan(&found); err != nil {
		return 0, s.explain("read", err)
	}
	if found > version {
		return 0, fmt.Errorf("open %s: %w: its schema has version %d, this program knows up to %d; run the newer edgeproxy, or name another file in EDGEPROXY_DB_PATH",
			s.path, ErrNewer, found, version)
	}
	return found, s.checkSize(ctx, c)
}

// checkSize refuses a file that ends within a page. SQLite, which refuses one
// that lacks whole pages, would read the rest as zeros.
func (s *Store) checkSize(ctx context.Context, c *conn) error {
	var page int64
	if err := c.QueryRowContext(ctx, "PRAGMA page_size").Scan(&page); err != nil {
		return s.explain("read", err)
	}
	if id, err := identify(s.path); err == nil && id.size > 1 && id.size%page != 0 { // a single byte is an empty file to SQLite
		return fmt.Errorf("open %s: %w (%d bytes are no multiple of its pages of %d): it was cut off; restore it from a backup",
			s.path, ErrDamaged, id.size, page)
	}
	return nil
}

// complete adds what is missing. It writes nothing where nothing is, so that a
// file that is read-only but complete is served as it is.
func (s *Store) complete(ctx context.Context, c *conn, has bool) error {
	if has {
		return nil
	}
	err := transact(ctx, c, func() error {
		if _, err := c.ExecContext(ctx, schema); err != nil {
			return err
		}
		if err := addColumns(ctx, c); err != nil {
			return err
		}
		_, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version))
		return err
	})
	if resultCode(err) == codeReadOnly {
		s.readOnly = true
		if exists, err := columnsOf(ctx, c, Backends.Name); err != nil || len(exists) == 0 {
			return fmt.Errorf("open %s: %w and has no table backends: give this user the right to write it", s.path, ErrReadOnly)
		}
		return nil
	}
	return s.explain("set up", err)
}

// addColumns adds those that a file of an earlier edgeproxy lacks.
func addColumns(ctx context.Context, c *conn) error {
	for _, t := range tables {
		have, err := columnsOf(ctx, c, t.Name)
		if err != nil {
			return err
		}
		for _, col := range t.added {
			if !has(have, col.name) {
				if _, err := c.ExecContext(ctx, "ALTER TABLE "+t.Name+" ADD COLUMN "+col.name+" "+col.kind); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// checkShape refuses a table that lacks one of our columns: guessing what its
// author meant would route to the wrong place. What is missing is to be added.
func (s *Store) checkShape(ctx context.Context, c *conn) (missing []string, err error) {
	for _, t := range tables {
		have, err := columnsOf(ctx, c, t.Name)
		if err != nil {
			return nil, s.explain("read", err)
		}
		if len(have) == 0 {
			missing = append(missing, t.Name)
			continue
		}
		var lacks []string
		for _, col := range t.Columns {
			switch {
			case has(have, col):
			case t.adds(col):
				missing = append(missing, t.Name+"."+col)
			default:
				lacks = append(lacks, col)
			}
		}
		if torn, err := spokenOf(ctx, c, t.Name, lacks); err != nil {
			return nil, s.explain("read", err)
		} else if torn {
			return nil, fmt.Errorf("open %s: %w: %s lacks %s, of which its triggers speak: restore it from a backup", s.path, ErrDamaged, t.Name, strings.Join(lacks, ", "))
		}
		if len(lacks) > 0 {
			return nil, fmt.Errorf("open %s: %w: %s lacks %s; add them with ALTER TABLE %s ADD COLUMN …, or move the table away (ALTER TABLE %s RENAME TO old_%s)",
				s.path, ErrShape, t.Name, strings.Join(lacks, ", "), t.Name, t.Name, t.Name)
		}
		if slices.ContainsFunc(have, func(h column) bool { return h.key != strings.EqualFold(h.name, t.Columns[0]) }) {
			return nil, fmt.Errorf("open %s: %w: %s of %s is not its PRIMARY KEY by itself; make the table as in sql/create_routing_db.sql and copy the rows",
				s.path, ErrShape, t.Columns[0], t.Name)
		}
	}
	return missing, nil
}

type column struct {
	name string
	key  bool // in the primary key
}

func has(columns []column, name string) bool {
	return slices.ContainsFunc(columns, func(c column) bool { return strings.EqualFold(c.name, name) })
}

// columnsOf lists the columns of a table, none where there is no such table.
func columnsOf(ctx context.Context, c *conn, table string) ([]column, error) {
	rows, err := c.QueryContext(ctx, "SELECT name, pk FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var cols []column
	for rows.Next() {
		var col column
		var pk int
		if err := rows.Scan(&col.name, &pk); err != nil {
			return nil, err
		}
		col.key = pk > 0
		cols = append(cols, col)
	}
	return cols, rows.Err()
}
