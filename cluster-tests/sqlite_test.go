package clustertests

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// cli is sqlite3 with these arguments; where none is installed, what plays it.
func cli(args ...string) *exec.Cmd {
	all := append(append([]string{}, sqlite3...), args...)
	return exec.Command(all[0], all[1:]...)
}

// untilFree has sqlite3 wait for others' transactions, as long as a busy disk may take.
const untilFree = ".timeout 60000"

// runSQL has sqlite3 do something to a database, as the documents tell people to.
func runSQL(t testing.TB, db, statements string) string {
	t.Helper()
	out, err := cli("-cmd", untilFree, db, statements).CombinedOutput()
	if err != nil {
		t.Fatalf("sqlite3 %s %q: %v\n%s", db, statements, err, out)
	}
	return string(out)
}

// sql has sqlite3 do something to the POP's database.
func (p *pop) sql(t testing.TB, statements string) string {
	t.Helper()
	return runSQL(t, p.db, statements)
}

// script feeds a file to sqlite3, as in "sqlite3 routing.db < file".
func script(t testing.TB, db, text string) {
	t.Helper()
	cmd := cli("-bail", "-cmd", untilFree, db)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sqlite3 %s < script: %v\n%s", db, err, out)
	}
}

// repoFile is a file of the repository.
func repoFile(t testing.TB, name string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(repoRoot, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// sqlSession is an sqlite3 that somebody has left open.
type sqlSession struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func openSQL(t testing.TB, db string) *sqlSession {
	t.Helper()
	s := &sqlSession{cmd: cli("-cmd", untilFree, db)}
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.in.Close()
		_ = s.cmd.Wait()
	})
	return s
}

// do runs a statement and returns when it is done.
func (s *sqlSession) do(t testing.TB, statement string) {
	t.Helper()
	if _, err := fmt.Fprintf(s.in, "%s;\nSELECT 'done';\n", statement); err != nil {
		t.Fatal(err)
	}
	if line, err := s.out.ReadString('\n'); err != nil || line != "done\n" {
		t.Fatalf("sqlite3: %s: %q, %v", statement, line, err)
	}
}

// sqliteCLI plays sqlite3 where there is none: [-bail] [-cmd '.timeout N'] file [statements].
func sqliteCLI(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	timeout, bail := "0", false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch {
		case args[0] == "-bail":
			bail, args = true, args[1:]
		case args[0] == "-cmd" && len(args) > 1 && strings.HasPrefix(args[1], ".timeout "):
			timeout, args = strings.TrimPrefix(args[1], ".timeout "), args[2:]
		default:
			fmt.Fprintln(stderr, "unknown option", args[0])
			return 1
		}
	}
	db, err := sql.Open(sqlite.Driver, "file:"+args[0])
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // transactions last from statement to statement
	if err := printRows(db, "PRAGMA busy_timeout = "+timeout, io.Discard); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	code := 0
	each := func(statement string) bool {
		if err := printRows(db, statement, stdout); err != nil {
			fmt.Fprintln(stderr, "Error:", err)
			code = 1
		}
		return code == 0
	}
	if len(args) > 1 {
		bail, stdin = true, strings.NewReader(strings.Join(args[1:], "\n"))
	}
	var statement strings.Builder
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		statement.WriteString(lines.Text() + "\n")
		if strings.HasSuffix(strings.TrimSpace(lines.Text()), ";") {
			if !each(statement.String()) && bail {
				return code
			}
			statement.Reset()
		}
	}
	if strings.TrimSpace(statement.String()) != "" {
		each(statement.String())
	}
	return code
}

// printRows runs statements; rows come out as sqlite3 prints them.
func printRows(db *sql.DB, statement string, w io.Writer) error {
	rows, err := db.QueryContext(context.Background(), statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		values := make([]sql.NullString, len(columns))
		to := make([]any, len(columns))
		for i := range values {
			to[i] = &values[i]
		}
		if err := rows.Scan(to...); err != nil {
			return err
		}
		texts := make([]string, len(columns))
		for i, v := range values {
			texts[i] = v.String
		}
		if _, err := fmt.Fprintln(w, strings.Join(texts, "|")); err != nil {
			return err
		}
	}
	return rows.Err()
}

// TestStandInForSQLite: what plays sqlite3 where there is none does what it does.
func TestStandInForSQLite(t *testing.T) {
	t.Parallel()
	self, err := standIn()
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range [][]string{sqlite3, self} {
		db := filepath.Join(t.TempDir(), "a.db")
		create := exec.Command(tool[0], append(tool[1:], "-bail", "-cmd", untilFree, db)...)
		create.Stdin = strings.NewReader(repoFile(t, "sql/create_routing_db.sql") + repoFile(t, "sql/example_data.sql"))
		if out, err := create.CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("%s: script: %q, %v", tool, out, err)
		}
		query := exec.Command(tool[0], append(tool[1:], db, "UPDATE backends SET app=NULL WHERE id='us-node-1'; SELECT id, app, port FROM backends ORDER BY id")...)
		const want = "eu-node-1|myapp|8080\nsa-node-1|myapp|8080\nus-node-1||8080\n"
		if out, err := query.CombinedOutput(); err != nil || string(out) != want {
			t.Errorf("%s: query: %q, %v, want %q", tool, out, err, want)
		}
		if out, err := exec.Command(tool[0], append(tool[1:], db, "SELECT * FROM nothing")...).CombinedOutput(); err == nil {
			t.Errorf("%s: a wrong statement went well: %q", tool, out)
		}
	}
}
