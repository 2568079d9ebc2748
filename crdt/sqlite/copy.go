package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Copy writes a consistent copy of a routing database to a new file, whether
// the database is in use or not. It changes nothing in the original.
func Copy(ctx context.Context, from, to string) error {
	s := &Store{path: from, busy: busyTimeout}
	if err := checkPath(from); err != nil {
		return err
	}
	if _, err := os.Stat(from); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	c, err := connect(ctx, uri(from, "ro"), busyTimeout)
	if err != nil {
		return s.explain("open", err)
	}
	_, err = s.check(ctx, c, false)
	if err := errors.Join(err, c.Close()); err != nil {
		return err
	}
	return s.Backup(ctx, to)
}

// Strip takes everything out of a file that edgeproxy knows of its rows but
// the rows themselves: it becomes one that no edgeproxy has written.
func Strip(ctx context.Context, path string) error {
	s := &Store{path: path, busy: busyTimeout}
	c, err := connect(ctx, uri(path, "rw"), busyTimeout)
	if err != nil {
		return s.explain("open", err)
	}
	defer c.Close()
	rows, err := c.QueryContext(ctx, `SELECT type, name FROM sqlite_schema WHERE name LIKE 'crdt\_%' ESCAPE '\' AND type IN ('table', 'trigger') ORDER BY type DESC`)
	if err != nil {
		return s.explain("read", err)
	}
	defer rows.Close()
	var drops []string
	for rows.Next() {
		var kind, name string
		if err := rows.Scan(&kind, &name); err != nil {
			return s.explain("read", err)
		}
		drops = append(drops, fmt.Sprintf(`DROP %s IF EXISTS "%s"`, kind, strings.ReplaceAll(name, `"`, `""`)))
	}
	if err := rows.Err(); err != nil {
		return s.explain("read", err)
	}
	rows.Close()
	return s.explain("strip", transact(ctx, c, func() error {
		for _, drop := range drops {
			if _, err := c.ExecContext(ctx, drop); err != nil {
				return err
			}
		}
		return nil
	}))
}
