package sqlite

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// queried is a database with a few rows, open as a POP has it.
func queried(t testing.TB) (string, *Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "routing.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	err = s.Write(t.Context(), func(tx *Tx) error {
		for _, id := range []string{"a", "b", "c"} {
			if err := tx.Put(Backends, id, map[string]any{"app": "shop", "port": 80}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return path, s
}

func TestQueryAnswers(t *testing.T) {
	path, _ := queried(t)
	for _, c := range []struct {
		sql     string
		columns []string
		rows    [][]any
	}{
		{"SELECT id, port FROM backends ORDER BY id LIMIT 2;", []string{"id", "port"}, [][]any{{"a", int64(80)}, {"b", int64(80)}}},
		{"-- why\nSELECT count(*) AS n FROM backends /* all */ ; ", []string{"n"}, [][]any{{int64(3)}}},
		{"SELECT NULL, 1.5, x'00ff', 'it''s; fine', 9223372036854775807, 9e999 WHERE 1", nil, [][]any{{nil, 1.5, []byte{0, 255}, "it's; fine", int64(math.MaxInt64), math.Inf(1)}}},
		{"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<4) SELECT sum(i) AS s FROM n", []string{"s"}, [][]any{{int64(10)}}},
		{"SELECT ';' AS s ; ; ; ", []string{"s"}, [][]any{{";"}}},
		{"SELECT 2 AS n; -- what is behind it", []string{"n"}, [][]any{{int64(2)}}},
		{"SELECT 3 AS n /* ; */ ; /* open", []string{"n"}, [][]any{{int64(3)}}},
		{"VALUES (1), (2)", nil, [][]any{{int64(1)}, {int64(2)}}},
		{"SELECT value FROM json_each('[1,2]')", []string{"value"}, [][]any{{int64(1)}, {int64(2)}}},
		{"SELECT name FROM pragma_table_info('services') WHERE pk", []string{"name"}, [][]any{{"app"}}},
		{"PRAGMA user_version", []string{"user_version"}, [][]any{{int64(version)}}},
		{"SELECT id FROM backends WHERE 0", []string{"id"}, nil},
		{"SELECT group_concat(id, ',') FROM (SELECT id FROM backends ORDER BY id)", nil, [][]any{{"a,b,c"}}},
		{"SELECT row_number() OVER (ORDER BY id DESC) AS n FROM backends WHERE id LIKE 'a%' AND app = \"shop\"", []string{"n"}, nil},
	} {
		a, err := Query(t.Context(), path, c.sql)
		if err != nil {
			if !strings.Contains(c.sql, `"shop"`) { // a text in double quotes is SQLite's to take or not
				t.Errorf("%s: %v", c.sql, err)
			}
			continue
		}
		if c.columns != nil && !reflect.DeepEqual(a.Columns, c.columns) || c.rows != nil && !reflect.DeepEqual(a.Rows, c.rows) || a.Truncated {
			t.Errorf("%s: %q %v, want %q %v", c.sql, a.Columns, a.Rows, c.columns, c.rows)
		}
	}
}

// attacks are statements of which nothing may come, each with what the answer names.
var attacks = map[string]string{
	"ATTACH '/tmp/x.db' AS x":                                            "ATTACH",
	"SELECT 1; ATTACH 'x' AS x":                                          "more than one",
	"DETACH main":                                                        "DETACH",
	"VACUUM INTO '/tmp/x.db'":                                            "VACUUM",
	"PRAGMA journal_mode=DELETE":                                         "journal_mode",
	"PRAGMA main.journal_mode = OFF":                                     "journal_mode",
	"PRAGMA journal_mode('DELETE')":                                      "journal_mode",
	"PRAGMA writable_schema=ON":                                          "writable_schema",
	"PRAGMA writable_schema":                                             "writable_schema",
	"PRAGMA query_only=OFF":                                              "query_only",
	"PRAGMA temp_store_directory='/tmp'":                                 "temp_store_directory",
	"PRAGMA user_version=99":                                             "user_version",
	"PRAGMA wal_checkpoint(TRUNCATE)":                                    "wal_checkpoint",
	"PRAGMA hard_heap_limit=1":                                           "hard_heap_limit",
	"PRAGMA temp_store=FILE":                                             "temp_store",
	"PRAGMA cache_size=-99999999":                                        "cache_size",
	"PRAGMA incremental_vacuum":                                          "incremental_vacuum",
	"PRAGMA optimize":                                                    "optimize",
	"SELECT * FROM pragma_wal_checkpoint":                                "wal_checkpoint",
	"SELECT * FROM pragma_journal_mode('DELETE')":                        "",
	"INSERT INTO backends(id) VALUES('x')":                               "INSERT",
	"WITH x AS (SELECT 1) INSERT INTO backends(id) VALUES(9)":            "INSERT",
	"WITH x AS (SELECT 1) DELETE FROM backends":                          "DELETE",
	"UPDATE backends SET weight=1":                                       "UPDATE",
	"REPLACE INTO backends(id) VALUES('a')":                              "REPLACE",
	"DELETE FROM backends RETURNING id":                                  "DELETE",
	"EXPLAIN DELETE FROM backends":                                       "DELETE",
	"EXPLAIN QUERY PLAN DROP TABLE backends":                             "DROP",
	"CREATE TABLE x(y)":                                                  "CREATE",
	"CREATE TEMP TABLE x AS SELECT 1":                                    "CREATE",
	"CREATE TEMP TRIGGER x AFTER INSERT ON backends BEGIN SELECT 1; END": "",
	"CREATE VIRTUAL TABLE x USING fts3(y)":                               "CREATE",
	"DROP TABLE backends":                                                "DROP",
	"ALTER TABLE backends ADD COLUMN z":                                  "ALTER",
	"BEGIN IMMEDIATE":                                                    "BEGIN",
	"SAVEPOINT x":                                                        "SAVEPOINT",
	"COMMIT":                                                             "COMMIT",
	"ANALYZE":                                                            "ANALYZE",
	"REINDEX":                                                            "REINDEX",
	"SELECT load_extension('/tmp/x.so')":                                 "load_extension",
	"SELECT fts3_tokenizer('simple')":                                    "fts3_tokenizer",
	"SELECT fts3_tokenizer('simple', x'4141414141414141')":               "fts3_tokenizer",
	"SELECT sqlite_log(1,'x')":                                           "sqlite_log",
	"SELECT json_patch('{}','{}')":                                       "json_patch",
	"SELECT count(*) FROM sqlite_dbpage":                                 "sqlite_dbpage",
	"SELECT data FROM sqlite_dbpage":                                     "sqlite_dbpage",
	"SELECT sum(pgsize) FROM dbstat":                                     "dbstat",
	"SELECT 1\x00; DELETE FROM backends":                                 "NUL",
	"SELECT 1 /* ; */ ; -- ;\n DELETE FROM backends":                     "more than one",
	"SELECT ';' ; ; ; SELECT 2":                                          "more than one",
	"":                                                                   "empty",
	" \n-- nothing":                                                      "empty",
	";;":                                                                 "empty",
	"SELECT 'x":                                                          "not closed",
	"SELECT ?":                                                           "value",
	"SELECT :x":                                                          "value",
	"SELECT * FROM nothing":                                              "nothing",
	"SELEC 1":                                                            "SELEC",
	"SELECT 1 FRM backends WHERE":                                        "character 14",
	"SELECT zeroblob(1000000000)":                                        "too big",
	"SELECT printf('%*c', 1000000000, 'x')":                              "too big",
	"SELECT hex(zeroblob(200000))":                                       "too big",
	"SELECT replace(printf('%0200000d', 0), '0', '0123456789')":          "too big",
	"WITH RECURSIVE n(x) AS (SELECT '0123456789' UNION ALL SELECT x||x FROM n) SELECT length(x) FROM n": "too big",
	"SELECT " + strings.Repeat("1+(", 500) + "1" + strings.Repeat(")", 500):                             "",
	"SELECT 1" + strings.Repeat(" UNION ALL SELECT 1", 100):                                             "compound",
	"SELECT 1" + strings.Repeat(",1", 300):                                                              "columns",
	"SELECT '" + strings.Repeat("x", 10<<20) + "'":                                                      "bytes long",
	"SELECT 1 WHERE 'a' LIKE '" + strings.Repeat("%a", 600) + "'":                                       "",
}

func TestQueryRefuses(t *testing.T) {
	path, _ := queried(t)
	before := cellsOf(t, path)
	for sql, word := range attacks {
		name := sql
		if len(name) > 80 {
			name = name[:80] + "…"
		}
		began := time.Now()
		a, err := Query(t.Context(), path, sql)
		if err == nil {
			t.Errorf("%q was answered: %.100s", name, fmt.Sprint(a.Rows))
			continue
		}
		if !errors.Is(err, ErrRefused) && !errors.Is(err, ErrStatement) || !strings.Contains(err.Error(), word) || len(err.Error()) > 1000 {
			t.Errorf("%q: %v, want a refusal that says %q", name, err, word)
		}
		if took := time.Since(began); took > QueryTime {
			t.Errorf("%q: took %s", name, took)
		}
	}
	if after := cellsOf(t, path); after != before {
		t.Errorf("the file was\n%sand is\n%s", before, after)
	}
	if found, _ := filepath.Glob("/tmp/x.db*"); len(found) > 0 {
		t.Errorf("there are %q", found)
	}
}

// cellsOf is what the database holds, schema included.
func cellsOf(t testing.TB, path string) string {
	t.Helper()
	db := openOther(path)
	defer db.Close()
	var all strings.Builder
	var mode, user string
	if err := db.QueryRow("SELECT journal_mode, (SELECT user_version FROM pragma_user_version) FROM pragma_journal_mode").Scan(&mode, &user); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&all, mode, user)
	for _, query := range []string{
		"SELECT coalesce(group_concat(type||name||coalesce(sql,''), char(10)),'') FROM (SELECT * FROM sqlite_schema ORDER BY name)",
		"SELECT coalesce(group_concat(id||coalesce(app,'')||coalesce(weight,''), char(10)),'') FROM (SELECT * FROM backends ORDER BY id)",
		"SELECT coalesce(group_concat(hex(rec)),'') FROM (SELECT * FROM crdt_rows ORDER BY tbl, pk)",
	} {
		var text string
		if err := db.QueryRow(query).Scan(&text); err != nil && !strings.Contains(err.Error(), "no such table") {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, text)
	}
	return all.String()
}

// TestQueryEnds: what would by itself only much later; writes go on meanwhile.
func TestQueryEnds(t *testing.T) {
	path, s := queried(t)
	began := time.Now()
	ended := make(chan error, 1)
	go func() {
		_, err := Query(t.Context(), path, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1000) SELECT count(*) FROM n a, n b, n c, n d")
		ended <- err
	}()
	meanwhile := 0 // writes
	for {
		err := s.Write(t.Context(), func(tx *Tx) error { return tx.Put(Backends, "a", map[string]any{"weight": meanwhile}) })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if took := time.Since(began); !errors.Is(err, ErrTooSlow) || took > 2*QueryTime {
				t.Errorf("%v after %s, want that it took too long", err, took)
			}
			if meanwhile == 0 {
				t.Error("a write took as long as a query beside it")
			}
			return
		case <-time.After(10 * time.Millisecond):
			meanwhile++
		}
	}
}

func TestQueryTruncates(t *testing.T) {
	path, _ := queried(t)
	const count = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d) "
	for _, c := range []struct {
		sql       string
		rows      int
		truncated bool
	}{
		{fmt.Sprintf(count, queryRows) + "SELECT i FROM n", queryRows, false},
		{fmt.Sprintf(count, queryRows+1) + "SELECT i FROM n", queryRows, true},
		{fmt.Sprintf(count, 1000) + "SELECT zeroblob(100000) FROM n", queryBytes / (4*100_000/3 + 16), true},
	} {
		a, err := Query(t.Context(), path, c.sql)
		if err != nil || len(a.Rows) != c.rows || a.Truncated != c.truncated {
			t.Errorf("%s: %v, %d rows, truncated %v, want %d, %v", c.sql, err, len(a.Rows), a.Truncated, c.rows, c.truncated)
		}
	}
}

// TestQueryAnswerInBytes: whatever is in it, an answer has no more bytes as
// JSON than it may.
func TestQueryAnswerInBytes(t *testing.T) {
	path, _ := queried(t)
	const many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<9000) SELECT %s FROM n"
	for _, value := range []string{
		"replace(hex(zeroblob(50000)), '0', char(1))", "replace(hex(zeroblob(50000)), '0', '\"')", "replace(hex(zeroblob(50000)), '0', '\\')",
		"replace(hex(zeroblob(20000)), '0', char(8232))", "CAST(replace(hex(zeroblob(50000)), '00', x'ff') AS TEXT)",
		"zeroblob(100000)", "''" + strings.Repeat(", -9223372036854775808", 150), "''" + strings.Repeat(", -2.2250738585072014e-308", 150),
	} {
		a, err := Query(t.Context(), path, fmt.Sprintf(many, value))
		if err != nil || !a.Truncated || len(a.Rows) == 0 {
			t.Errorf("%.60s: %v, %+v, want rows that are not all", value, err, a)
			continue
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(a.Rows); err != nil || b.Len() > queryBytes+2 {
			t.Errorf("%.60s: %d bytes, %v, want at most %d", value, b.Len(), err, queryBytes)
		}
	}
	names := fmt.Sprintf(`WITH a("%s") AS (SELECT 1) SELECT a.*%s FROM a`, strings.Repeat("x", 50_000), strings.Repeat(", a.*", 150))
	if _, err := Query(t.Context(), path, names); !errors.Is(err, ErrTooMuch) {
		t.Errorf("names of columns: %v, want %v", err, ErrTooMuch)
	}
}

func TestQueryOfNoDatabase(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("junk", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{filepath.Join(dir, "none.db"): ErrVanished, junk: ErrDamaged} {
		if _, err := Query(t.Context(), path, "SELECT * FROM sqlite_schema"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if found, _ := os.ReadDir(dir); len(found) != 1 {
		t.Errorf("files were made: %v", found)
	}
}

func FuzzQuery(f *testing.F) {
	for sql := range attacks {
		if len(sql) < 1000 {
			f.Add(sql)
		}
	}
	f.Add("SELECT * FROM backends b JOIN crdt_rows r ON r.pk = b.id")
	path, _ := queried(f)
	before := cellsOf(f, path)
	f.Fuzz(func(t *testing.T, sql string) {
		if a, err := Query(t.Context(), path, sql); err == nil && a.Columns == nil {
			t.Errorf("%q has an answer without columns", sql)
		}
		if after := cellsOf(t, path); after != before {
			t.Errorf("%q made of\n%s\n%s", sql, before, after)
		}
	})
}
