package lab

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// openSQL opens a POP's routing.db as any other program would, such as
// sqlite3: one connection, which waits for locks like ".timeout 5000".
func openSQL(path string) (*sql.DB, error) {
	db, err := sql.Open(sqlite.Driver, path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("PRAGMA busy_timeout=5000"); err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return db, nil
}

// columns that the lab writes and looks up again at its end.
var columns = []string{"app", "region", "port", "healthy", "weight", "soft_limit", "hard_limit", "draining"}

// ledger is what was written to backends, on whichever POP, and so has to
// stand in every routing.db in the end.
type ledger struct {
	mu   sync.Mutex
	rows map[string]map[string]any
	n    int // writes
}

func (l *ledger) set(id, column string, value any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows[id] == nil {
		l.rows[id] = map[string]any{"draining": int64(0)}
	}
	l.rows[id][column] = value
	l.n++
}

func (l *ledger) writes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func (l *ledger) number(id, column string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, _ := l.rows[id][column].(int64)
	return n
}

// differs says how a POP's file differs from what was written; empty: it does not.
func (l *ledger) differs(ctx context.Context, db *sql.DB) (string, error) {
	rows, err := db.QueryContext(ctx, `SELECT id, app, region, port, healthy, weight, soft_limit, hard_limit, coalesce(draining, 0)
		FROM backends LEFT JOIN backend_options USING (id)`)
	if err != nil {
		return "", fmt.Errorf("read what was written: %w", err)
	}
	defer rows.Close()
	found := map[string]map[string]any{}
	for rows.Next() {
		var id string
		values := make([]any, len(columns))
		into := []any{&id}
		for i := range values {
			into = append(into, &values[i])
		}
		if err := rows.Scan(into...); err != nil {
			return "", fmt.Errorf("read what was written: %w", err)
		}
		found[id] = map[string]any{}
		for i, c := range columns {
			if text, ok := values[i].([]byte); ok { // drivers differ
				values[i] = string(text)
			}
			found[id][c] = values[i]
		}
	}
	if err := rows.Err(); err != nil {
		return "", fmt.Errorf("read what was written: %w", err)
	}
	return l.compare(found), nil
}

func (l *ledger) compare(found map[string]map[string]any) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if l.rows[id] == nil {
			return id + " was never written"
		}
	}
	for _, id := range slices.Sorted(maps.Keys(l.rows)) {
		if found[id] == nil {
			return id + " is missing"
		}
		for _, c := range columns {
			if want, got := fmt.Sprint(l.rows[id][c]), fmt.Sprintf("%v", found[id][c]); want != got {
				return fmt.Sprintf("%s.%s is %s, %s was written", id, c, got, want)
			}
		}
	}
	return ""
}
