package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// A changed letter in the text of a table or a trigger is a sound file to
// SQLite, and a table without one of its columns. What only damage can have
// done is told from what an operator has altered: our own tables are nobody
// else's, and SQLite renames or drops no column that a trigger speaks of.

// ownSchema says what is wrong with the tables and triggers of ours that the
// file has, "" where nothing is.
func ownSchema(ctx context.Context, c *conn) (wrong string, err error) {
	if k, err := columnsOf(ctx, c, "crdt_control"); err != nil || len(k) == 0 {
		return "", err // no replica yet
	}
	ours, err := ownTables()
	if err != nil {
		return "", err
	}
	for table, want := range ours {
		have, err := columnsOf(ctx, c, table)
		if err != nil {
			return "", err
		}
		if lacks := without(want, have); len(have) > 0 && len(lacks) > 0 {
			return fmt.Sprintf("%s lacks %s", table, strings.Join(lacks, ", ")), nil
		}
	}
	_, err = c.one(ctx, []any{&wrong}, `SELECT type || ' ' || name || ' is not what its text says' FROM sqlite_schema
		WHERE (name LIKE 'crdt\_%' ESCAPE '\' OR sql LIKE '% crdt\_%' ESCAPE '\' AND type <> 'view')
			AND sql IS NOT NULL AND (instr(sql, name) = 0 OR type NOT IN ('table', 'index', 'trigger', 'view'))
		UNION ALL SELECT 'what the triggers of ' || name || ' know cannot be read' FROM crdt_tables WHERE NOT json_valid(columns)
		LIMIT 1`)
	return wrong, err
}

// ownTables are the columns of the replica's tables, as a new file has them.
var ownTables = sync.OnceValues(func() (map[string][]column, error) {
	ctx := context.Background()
	c, err := connect(ctx, "file::memory:?mode=memory", 0)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, replicaSchema); err != nil {
		return nil, err
	}
	all := map[string][]column{}
	var names []string
	err = c.each(ctx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	}, "SELECT name FROM sqlite_schema WHERE type = 'table'")
	for _, name := range names {
		if err == nil {
			all[name], err = columnsOf(ctx, c, name)
		}
	}
	return all, err
})

// without are the columns that are missing, or are of the key in one only.
func without(want, have []column) (lacks []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			lacks = append(lacks, w.name)
		}
	}
	return lacks
}

// spokenOf says whether a trigger of ours on the table is about a column that
// the table lacks: then it is not somebody's doing that it lacks it.
func spokenOf(ctx context.Context, c *conn, table string, lacks []string) (bool, error) {
	var n int
	for _, col := range lacks {
		found, err := c.one(ctx, []any{&n}, `SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND lower(tbl_name) = ? AND name LIKE 'crdt\_%' ESCAPE '\'
			AND instr(lower(sql), ?) LIMIT 1`, table, quoted(col))
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}
