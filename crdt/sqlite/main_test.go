package sqlite

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// role has the test binary, started again, play another process.
const role = "EDGEPROXY_SQLITE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		goleak.VerifyTestMain(m)
	case "obey":
		obey(os.Args[1])
	case "acknowledge":
		acknowledge(os.Args[1])
	case "read only":
		os.Exit(beReadOnly(os.Args[1]))
	}
}

// obey executes each quoted line of its standard input as SQL, with the driver and without this package.
func obey(path string) {
	db, err := sql.Open(Driver, uri(path, "rwc"))
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		statement, err := strconv.Unquote(in.Text())
		if err != nil {
			panic(err)
		}
		if _, err := db.Exec(statement); err != nil {
			fmt.Printf("%q\n", err)
		} else {
			fmt.Println("ok")
		}
	}
	if err := db.Close(); err != nil {
		panic(err)
	}
}

// another is a process that has a database open.
type another struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// anotherProcess starts one, which ends with the test.
func anotherProcess(t *testing.T, what, path string) *another {
	t.Helper()
	a := &another{t: t, cmd: exec.Command(os.Args[0], path)}
	a.cmd.Env = append(os.Environ(), role+"="+what, "GORACE=atexit_sleep_ms=0")
	a.cmd.Stderr = os.Stderr
	var err error
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.out = bufio.NewReader(out)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.end)
	return a
}

func (a *another) exec(statements string) {
	a.t.Helper()
	for line := range strings.SplitSeq(statements, ";") {
		if _, err := fmt.Fprintf(a.in, "%q\n", line); err != nil {
			a.t.Fatal(err)
		}
		if answer, err := a.out.ReadString('\n'); err != nil || answer != "ok\n" {
			a.t.Fatalf("other process, %s: %s %v", line, answer, err)
		}
	}
}

// end closes the process's database and waits for its end; twice is fine.
func (a *another) end() {
	if a.cmd.ProcessState == nil {
		a.in.Close()
		_, _ = io.Copy(io.Discard, a.out)
		_ = a.cmd.Wait()
	}
}

// elsewhere executes SQL in another process, by the sqlite3 CLI where there is one.
func elsewhere(t *testing.T, path, statements string) {
	t.Helper()
	cli, err := exec.LookPath("sqlite3")
	if err != nil {
		a := anotherProcess(t, "obey", path)
		a.exec(statements)
		a.end()
		return
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(cli, "-bail", abs, statements).CombinedOutput(); err != nil {
		t.Fatalf("sqlite3 %q: %v: %s", statements, err, out)
	}
}

// The seed's README.
const seedTable = `CREATE TABLE backends (
    id TEXT PRIMARY KEY,      -- "sa-node-1"
    app TEXT,                 -- "myapp"
    region TEXT,              -- "sa", "us", "eu"
    wg_ip TEXT,               -- WireGuard IP
    port INTEGER,             -- Backend port
    healthy INTEGER,          -- 0 or 1
    weight INTEGER,           -- Load balancing weight
    soft_limit INTEGER,       -- Comfortable connection count
    hard_limit INTEGER,       -- Maximum connections
    deleted INTEGER DEFAULT 0
)`

const seedRows = `INSERT INTO backends VALUES
    ('sa-node-1', 'myapp', 'sa', '10.50.1.1', 8080, 1, 2, 50, 100, 0),
    ('us-node-1', 'myapp', 'us', '10.50.2.1', 8080, 1, 2, 50, 100, 0),
    ('eu-node-1', 'myapp', 'eu', '10.50.3.1', 8080, 1, 2, 50, 100, 0)`

// raw executes SQL by a connection that knows nothing of this package.
func raw(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open(Driver, uri(path, "rwc"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// cell reads one value as text.
func cell(t *testing.T, path, query string) string {
	t.Helper()
	db, err := sql.Open(Driver, uri(path, "rw"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var s sql.NullString
	if err := db.QueryRow(query).Scan(&s); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return s.String
}

// shell runs a command in another process. What touches a file that a store
// has open must: a process that closes any descriptor of a file loses all of
// its locks on it, those of SQLite included.
func shell(t *testing.T, command string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", command, "sh"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v", command, args, err)
	}
	return out
}

// made makes a file by hand, in rollback mode as the sqlite3 CLI does, with
// backends of these ids.
func made(t *testing.T, path string, ids ...string) string {
	t.Helper()
	statements := []string{seedTable, "BEGIN"}
	for _, id := range ids {
		statements = append(statements, fmt.Sprintf("INSERT INTO backends (id) VALUES ('%s')", id))
	}
	raw(t, path, append(statements, "COMMIT")...)
	return path
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "routing.db") }

// openStore opens a store that waits 200 ms for others' locks, and closes it with the test.
func openStore(t *testing.T, path string) *Store {
	t.Helper()
	s, err := open(t.Context(), path, 200*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// put writes backends with these ids.
func put(t *testing.T, s *Store, ids ...string) {
	t.Helper()
	err := s.Write(t.Context(), func(tx *Tx) error {
		for _, id := range ids {
			if err := tx.Put(Backends, id, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ids reads the ids of all backends, in order.
func ids(t *testing.T, s *Store) []string {
	t.Helper()
	img, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, row := range img.Backends {
		ids = append(ids, fmt.Sprint(row[0]))
	}
	slices.Sort(ids)
	return ids
}

func wantIDs(t *testing.T, s *Store, want ...string) {
	t.Helper()
	got := ids(t, s)
	if slices.Equal(got, want) {
		return
	}
	without := func(a, b []string) []string {
		rest := slices.DeleteFunc(slices.Clone(a), func(id string) bool { return slices.Contains(b, id) })
		return rest[:min(len(rest), 5)]
	}
	t.Fatalf("%d backends, want %d; too many %q…, too few %q…", len(got), len(want), without(got, want), without(want, got))
}

func wantPoll(t *testing.T, s *Store, want bool) {
	t.Helper()
	if changed, err := s.Poll(t.Context()); err != nil || changed != want {
		t.Fatalf("poll: %v, %v; want %v", changed, err, want)
	}
}

// noticed polls as the node does until a change is told. One Poll may come
// before it: a file that was written over is looked at twice.
func noticed(t *testing.T, s *Store) {
	t.Helper()
	changed, err := s.Poll(t.Context())
	if !changed || err != nil {
		<-time.After(alikeFor)
		changed, err = s.Poll(t.Context())
	}
	if !changed || err != nil {
		t.Fatalf("two polls have not noticed the change: %v", err)
	}
}

// refused polls until an error is told, of which it wants the kind.
func refused(t *testing.T, s *Store, kind error) {
	t.Helper()
	var err error
	for range 3 {
		if _, err = s.Poll(t.Context()); err != nil {
			break
		}
		<-time.After(alikeFor)
	}
	if !errors.Is(err, kind) {
		t.Fatalf("poll: %v, want %v", err, kind)
	}
	if !strings.Contains(err.Error(), s.path) {
		t.Errorf("error does not name the file: %v", err)
	}
}

// settle folds the log: it tells of every change and then lets time pass.
func settle(t *testing.T, s *Store) {
	t.Helper()
	if _, err := s.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	if err := s.Settle(t.Context(), true, now); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context(), false, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := logSize(s.path); n != 0 {
		t.Fatalf("log has %d bytes after Settle", n)
	}
}

func logSize(path string) int64 {
	id, _ := identify(path + "-wal")
	return id.size
}

// sound checks the whole file, by another connection.
func sound(t *testing.T, path string) {
	t.Helper()
	if got := cell(t, path, "PRAGMA integrity_check"); got != "ok" {
		t.Fatalf("integrity_check: %s", got)
	}
}

// within fails the test where what takes longer than most.
func within(t *testing.T, most time.Duration, what func()) {
	t.Helper()
	begin := time.Now()
	what()
	if took := time.Since(begin); took > most {
		t.Errorf("took %v, want less than %v", took, most)
	}
}

// acknowledge writes rows for ever and says each number once it is written.
func acknowledge(path string) {
	s, err := Open(context.Background(), path)
	if err != nil {
		panic(err)
	}
	in := bufio.NewScanner(os.Stdin)
	in.Scan() // the first number
	first, err := strconv.Atoi(in.Text())
	if err != nil {
		panic(err)
	}
	for i := first; ; i++ {
		err := s.Write(context.Background(), func(tx *Tx) error {
			// Two rows that belong together, in two statements.
			if err := tx.Put(Backends, fmt.Sprintf("a-%d", i), map[string]any{"port": i}); err != nil {
				return err
			}
			return tx.Put(Backends, fmt.Sprintf("b-%d", i), map[string]any{"port": i})
		})
		if err != nil {
			panic(err)
		}
		fmt.Println(i)
		if i%7 == 0 {
			if _, err := s.Poll(context.Background()); err != nil {
				panic(err)
			}
			begin := time.Unix(1_000_000, 0)
			for _, at := range []time.Time{begin, begin.Add(time.Minute)} {
				if err := s.Settle(context.Background(), at == begin, at); err != nil {
					panic(err)
				}
			}
		}
	}
}

// openOther opens the file by a connection that knows nothing of this package.
func openOther(path string) *sql.DB {
	db, err := sql.Open(Driver, uri(path, "rw"))
	if err != nil {
		panic(err)
	}
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("PRAGMA busy_timeout = 60000"); err != nil {
		panic(err)
	}
	return db
}
