package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// What a query may cost. Query bounds what SQLite lets it bound: time between
// two steps, a value, the answer. One call of a function, a sort or the
// planning of a statement it cannot cut short, nor their memory; where the
// statement is somebody else's, run Query in a process that can be ended.
const (
	QueryTime   = 5 * time.Second
	queryRows   = 10_000
	queryBytes  = 4 << 20   // of an answer, as JSON
	maxQuery    = 64 << 10  // bytes of a statement
	queryValue  = 256 << 10 // bytes of a value or row; some functions take the square of it
	queryCache  = 8 << 10   // KiB of pages
	queryWaits  = 500 * time.Millisecond
	maxSentence = 300 // bytes of SQLite's own words
)

// Answer is what a query finds. Values are nil, int64, float64, string or []byte.
type Answer struct {
	Columns   []string
	Rows      [][]any
	Truncated bool // there are more rows
}

// Why a query was not run, or not to its end. Each comes wrapped in a sentence.
var (
	ErrRefused   = errors.New("refused")
	ErrStatement = errors.New("SQL")
	ErrTooSlow   = errors.New("took too long")
	ErrTooMuch   = errors.New("took too much memory")
)

// Query runs one statement that only reads, on a connection of its own. It
// changes nothing and lets no other file in: the file is open for reading only,
// SQLite asks an authorizer about everything that the statement does, and what
// that does not know it refuses. Where nobody else has the file open, SQLite
// leaves an empty log beside it.
func Query(ctx context.Context, path, statement string) (*Answer, error) {
	statement, err := admitQuery(statement)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path}
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open %s: %w", path, ErrVanished)
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTime)
	defer cancel()
	c, err := connect(ctx, uri(path, "ro"), queryWaits)
	if err != nil {
		return nil, s.explain("open", err)
	}
	defer c.Close()
	g := guard{}
	if err := g.over(ctx, c); err != nil {
		return nil, s.explain("open", err)
	}
	a, err := answer(ctx, c, statement)
	switch {
	case err == nil:
		return a, nil
	case g.why != "":
		return nil, fmt.Errorf("%w: %s", ErrRefused, g.why)
	case errors.Is(err, ErrTooMuch):
		return nil, err
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("the query %w: %s are what it may take; ask for less, or use sqlite3 on a backup", ErrTooSlow, QueryTime)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	switch resultCode(err) {
	case codeBusy, codeLocked, codeCorrupt, codeFull, codeCantOpen, codeNotADB, codeIO:
		return nil, s.explain("read", err)
	case codeNoMem:
		return nil, fmt.Errorf("the query %w: ask for less, or use sqlite3 on a backup", ErrTooMuch)
	case codeReadOnly:
		return nil, fmt.Errorf("%w: it would write (%w)", ErrRefused, err)
	}
	return nil, fmt.Errorf("%w: %s%s", ErrStatement, clip(err.Error()), position(ctx, c, statement, err))
}

// over has the connection do nothing but what a query may.
func (g *guard) over(ctx context.Context, c *conn) error {
	for _, pragma := range []string{
		"query_only = ON", "trusted_schema = OFF", "mmap_size = 0", "cell_size_check = ON",
		"temp_store = MEMORY", // whose process is bounded, unlike a disk that others need
		fmt.Sprintf("cache_size = -%d", queryCache),
	} {
		if _, err := c.ExecContext(ctx, "PRAGMA "+pragma); err != nil {
			return err
		}
	}
	if err := c.each(ctx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		g.modules = append(g.modules, strings.ToLower(name))
		return err
	}, "PRAGMA module_list"); err != nil {
		return err
	}
	return c.guard(queryLimits, g.allows)
}

// queryLimits are those of https://www.sqlite.org/c3ref/c_limit_attached.html.
var queryLimits = map[int]int{
	0:  queryValue,
	1:  maxQuery,
	2:  200,     // columns
	3:  200,     // depth of an expression
	4:  50,      // SELECTs in a compound one
	5:  100_000, // instructions
	6:  100,     // arguments
	7:  0,       // attached databases
	8:  500,     // bytes of a LIKE pattern
	9:  1,       // variables
	10: 1,       // triggers
	11: 0,       // threads
}

func answer(ctx context.Context, c *conn, statement string) (*Answer, error) {
	rows, err := c.QueryContext(ctx, statement)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var a Answer
	if a.Columns, err = rows.Columns(); err != nil {
		return nil, err
	}
	size := 0
	for _, name := range a.Columns { // the same long one may be there 200 times
		size += sizeOf(name)
	}
	if size > queryBytes {
		return nil, fmt.Errorf("the query %w: names of columns that are longer than an answer may be", ErrTooMuch)
	}
	for rows.Next() {
		row, err := scan(rows, len(a.Columns))
		if err != nil {
			return nil, err
		}
		size += len("[],")
		for i := range row {
			row[i] = plain(row[i])
			size += sizeOf(row[i])
		}
		if len(a.Rows) == queryRows || size > queryBytes {
			a.Truncated = true
			return &a, nil
		}
		a.Rows = append(a.Rows, row)
	}
	return &a, rows.Err()
}

// plain undoes what the drivers make of columns declared BOOLEAN or DATE.
func plain(v any) any {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case []byte:
		return slices.Clone(v)
	}
	return v
}

// sizeOf is how many bytes of JSON a value becomes, with its comma, at most. A
// text may become six times as long.
func sizeOf(v any) int {
	switch v := v.(type) {
	case string:
		size := len(v) + len(`"",`)
		for i, r := range v {
			switch {
			case r == utf8.RuneError:
				_, n := utf8.DecodeRuneInString(v[i:])
				size += len(`\ufffd`) - n
			case r < ' ', r == '\u2028', r == '\u2029':
				size += len(`\u2028`) - utf8.RuneLen(r)
			case r == '"', r == '\\':
				size++
			}
		}
		return size
	case []byte:
		return 4*len(v)/3 + len(`{"blob":"=="},`) + 2
	}
	return len("-2.2250738585072014e-308,")
}

func clip(s string) string {
	if len(s) > maxSentence {
		s = strings.ToValidUTF8(s[:maxSentence], "") + "…"
	}
	return s
}
