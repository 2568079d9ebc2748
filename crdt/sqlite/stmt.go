package sqlite

import (
	"context"
	"database/sql"
	"strings"
)

// conn is one connection that stays the same until it is closed, so that what
// PRAGMA sets on it and data_version tells of it hold; database/sql's pool
// around it may open no other.
type conn struct {
	*sql.Conn
	pool       *sql.DB
	statements map[string]*sql.Stmt
	relaxed    bool // synchronous = NORMAL: a commit may be lost with the power, not with the process
}

// mostStatements is how many are kept: records with ever other columns make
// ever other ones.
const mostStatements = 200

// prepared keeps a statement for as long as the connection: for those whose
// text is always the same.
func (c *conn) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if st := c.statements[query]; st != nil {
		return st, nil
	}
	// Not under a context that ends, for which the driver would start a
	// goroutine each time the statement runs.
	st, err := c.PrepareContext(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil, err
	}
	if len(c.statements) >= mostStatements {
		for query, old := range c.statements {
			if err := old.Close(); err != nil {
				return nil, err
			}
			delete(c.statements, query)
		}
	}
	if c.statements == nil {
		c.statements = map[string]*sql.Stmt{}
	}
	c.statements[query] = st
	return st, nil
}

func (c *conn) exec(ctx context.Context, query string, args ...any) error {
	st, err := c.prepared(ctx, query)
	if err != nil {
		return err
	}
	_, err = st.ExecContext(context.WithoutCancel(ctx), args...)
	return err
}

// each calls row for every row of the answer, which it may scan.
func (c *conn) each(ctx context.Context, row func(*sql.Rows) error, query string, args ...any) error {
	st, err := c.prepared(ctx, query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(context.WithoutCancel(ctx), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// one scans a single row; found is false where there is none.
func (c *conn) one(ctx context.Context, to []any, query string, args ...any) (found bool, err error) {
	err = c.each(ctx, func(rows *sql.Rows) error {
		found = true
		return rows.Scan(to...)
	}, query, args...)
	return found, err
}

// eachInt is each for a single integer.
func (c *conn) eachInt(ctx context.Context, row func(int64), query string, args ...any) error {
	return c.each(ctx, func(rows *sql.Rows) error {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return err
		}
		row(n)
		return nil
	}, query, args...)
}

// inRuns cuts n rows into runs of few different lengths, so that statements
// over many rows are few and stay prepared.
func inRuns(n int, run func(from, to int) error) error {
	for from := 0; from < n; {
		to := from + 1
		switch left := n - from; {
		case left >= 64:
			to = from + 64
		case left >= 8:
			to = from + 8
		}
		if err := run(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// tuples is n times (?, ?, …), each of width marks.
func tuples(n, width int) string {
	one := "(" + marks(width) + ")"
	return strings.TrimSuffix(strings.Repeat(one+",", n), ",")
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// quoted is a name as SQL takes it, whatever is in it.
func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// durable sets whether the next commits reach the disk before they return.
func (c *conn) durable(ctx context.Context, yes bool) error {
	if yes == !c.relaxed {
		return nil
	}
	mode := "NORMAL"
	if yes {
		mode = "FULL"
	}
	if _, err := c.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = "+mode); err != nil {
		return err
	}
	c.relaxed = !yes
	return nil
}
