package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
)

func TestOpenCreatesTheFile(t *testing.T) {
	path := newPath(t)
	s := openStore(t, path)
	wantIDs(t, s)
	if s.ReadOnly() || s.Path() != path {
		t.Errorf("read-only %v, path %s", s.ReadOnly(), s.Path())
	}
	// The seed's positional INSERT, as it stands in its README.
	elsewhere(t, path, seedRows)
	noticed(t, s)
	wantIDs(t, s, "eu-node-1", "sa-node-1", "us-node-1")
	if got := cell(t, path, "PRAGMA user_version"); got != "1" {
		t.Errorf("user_version %s, want 1", got)
	}
}

func TestOpenOfAnEmptyFileCreatesTheTables(t *testing.T) {
	path := newPath(t)
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, path)
	put(t, s, "a")
	wantIDs(t, s, "a")
}

func TestOpenAdoptsAFileMadeByHand(t *testing.T) {
	path := newPath(t)
	elsewhere(t, path, seedTable+";"+seedRows)
	s := openStore(t, path)
	img, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := [][]any{
		{"sa-node-1", "myapp", "sa", "10.50.1.1", int64(8080), int64(1), int64(2), int64(50), int64(100), int64(0)},
		{"us-node-1", "myapp", "us", "10.50.2.1", int64(8080), int64(1), int64(2), int64(50), int64(100), int64(0)},
		{"eu-node-1", "myapp", "eu", "10.50.3.1", int64(8080), int64(1), int64(2), int64(50), int64(100), int64(0)},
	}
	if !reflect.DeepEqual(img.Backends, want) || img.BackendOptions != nil {
		t.Errorf("read %v, options %v; want %v and none", img.Backends, img.BackendOptions, want)
	}
	// Adoption must not change the ten columns: positional INSERTs go on working.
	elsewhere(t, path, "INSERT INTO backends VALUES ('ap-node-1', 'myapp', 'ap', '10.50.4.1', 8080, 1, 2, 50, 100, 0)")
	noticed(t, s)
	wantIDs(t, s, "ap-node-1", "eu-node-1", "sa-node-1", "us-node-1")
}

func TestAdoptionKeepsWhatIsNotOurs(t *testing.T) {
	path := newPath(t)
	raw(t, path,
		`CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, country TEXT, wg_ip TEXT, port INTEGER,
			healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER DEFAULT 0)`,
		"INSERT INTO backends VALUES ('a', 'x', 'sa', 'BR', '10.0.0.1', 80, 1, 1, 1, 1, 0)",
		"CREATE TABLE notes (id INTEGER PRIMARY KEY, what TEXT)",
		"INSERT INTO notes VALUES (1, 'mine')",
		"CREATE INDEX by_region ON backends (region)",
	)
	s := openStore(t, path)
	err := s.Write(t.Context(), func(tx *Tx) error {
		return tx.Put(Backends, "a", map[string]any{"weight": 7})
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "b")
	for query, want := range map[string]string{
		"SELECT country FROM backends WHERE id = 'a'":                   "BR",
		"SELECT weight FROM backends WHERE id = 'a'":                    "7",
		"SELECT wg_ip FROM backends WHERE id = 'a'":                     "10.0.0.1",
		"SELECT coalesce(country, 'NULL') FROM backends WHERE id = 'b'": "NULL",
		"SELECT what FROM notes":                                        "mine",
		"SELECT count(*) FROM sqlite_schema WHERE name = 'by_region'":   "1",
	} {
		if got := cell(t, path, query); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestOpenTakesEveryJournalMode(t *testing.T) {
	for _, mode := range []string{"DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF", "WAL"} {
		t.Run(mode, func(t *testing.T) {
			path := newPath(t)
			raw(t, path, "PRAGMA journal_mode = "+mode, seedTable, seedRows)
			s := openStore(t, path)
			wantIDs(t, s, "eu-node-1", "sa-node-1", "us-node-1")
			put(t, s, "x")
			noticed(t, s)
			wantIDs(t, s, "eu-node-1", "sa-node-1", "us-node-1", "x")
			if got := cell(t, path, "PRAGMA journal_mode"); got != "wal" {
				t.Errorf("journal_mode %s", got)
			}
		})
	}
}

// TestOpenRefuses what cannot be a routing database, with a sentence that says
// what to do, and leaves it exactly as it was.
func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		kind error  // nil: none to branch on
		says string // in the message
	}{
		{"newer version", func(t *testing.T, p string) { raw(t, made(t, p, "a"), "PRAGMA user_version = 2") }, ErrNewer, "run the newer edgeproxy"},
		{"somebody else's version", func(t *testing.T, p string) { raw(t, p, "CREATE TABLE places (x)", "PRAGMA user_version = 75") }, ErrNewer, "EDGEPROXY_DB_PATH"},
		{"missing columns", func(t *testing.T, p string) {
			raw(t, p, "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, wg_ip TEXT, port INTEGER, healthy, weight, soft_limit, hard_limit)")
		}, ErrShape, "lacks region, deleted"},
		{"no primary key", func(t *testing.T, p string) { raw(t, p, strings.Replace(seedTable, " PRIMARY KEY", "", 1)) }, ErrShape, "PRIMARY KEY"},
		{"another primary key", func(t *testing.T, p string) {
			raw(t, p, "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, wg_ip TEXT PRIMARY KEY, port, healthy, weight, soft_limit, hard_limit, deleted)")
		}, ErrShape, "PRIMARY KEY"},
		{"primary key of two columns", func(t *testing.T, p string) {
			raw(t, p, "CREATE TABLE backends (id TEXT, app TEXT, region TEXT, wg_ip TEXT, port, healthy, weight, soft_limit, hard_limit, deleted, PRIMARY KEY (id, app))")
		}, ErrShape, "PRIMARY KEY"},
		{"a view", func(t *testing.T, p string) {
			raw(t, p, strings.Replace(seedTable, "backends", "b", 1), "CREATE VIEW backends AS SELECT * FROM b")
		}, ErrShape, "PRIMARY KEY"},
		{"other options", func(t *testing.T, p string) { raw(t, made(t, p), "CREATE TABLE backend_options (id TEXT PRIMARY KEY)") }, ErrShape, "backend_options lacks country, draining"},
		{"text", func(t *testing.T, p string) { write(t, p, []byte(strings.Repeat("id,app,region\n", 1000))) }, ErrDamaged, "no SQLite file"},
		{"two bytes", func(t *testing.T, p string) { write(t, p, []byte("xy")) }, ErrDamaged, "no SQLite file"},
		{"directory", func(t *testing.T, p string) { mkdir(t, p) }, nil, "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := newPath(t)
			c.make(t, path)
			before, _ := os.ReadFile(path)
			s, err := open(t.Context(), path, 0)
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			if c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %q, want %v, %q and the path", err, c.kind, c.says)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
			for _, suffix := range []string{"-wal", "-shm", "-journal"} {
				if _, err := os.Stat(path + suffix); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s was left behind", suffix)
				}
			}
		})
	}
}

// TestOpenOfATruncatedFile never panics, never serves half of the rows, and
// leaves what is left of the file for a person to rescue.
func TestOpenOfATruncatedFile(t *testing.T) {
	t.Parallel()
	whole := newPath(t)
	s := openStore(t, whole)
	var all []string
	for i := range 400 {
		all = append(all, fmt.Sprintf("backend-%03d", i))
	}
	put(t, s, all...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(whole)
	if err != nil || len(image) < 5*4096 {
		t.Fatalf("file of %d bytes, %v: too small for the test", len(image), err)
	}
	lengths := []int{2, 15, 16, 17, 99, 100, 101, 511, 512, 513, 1023, 1024, 4095, 4096, 4097, len(image) - 4096, len(image) - 1}
	for n := 8192; n < len(image)-4096; n += 4096 {
		lengths = append(lengths, n, n+1000)
	}
	path := newPath(t)
	for _, n := range lengths {
		write(t, path, image[:n])
		s, err := open(t.Context(), path, 0)
		if err == nil {
			_, err = s.Read(t.Context())
			s.Close()
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%d of %d bytes: %v, want %v", n, len(image), err, ErrDamaged)
		}
		if left, _ := os.ReadFile(path); !bytes.Equal(left, image[:n]) {
			t.Errorf("%d of %d bytes: the file was changed", n, len(image))
		}
	}
}

func TestCloseTwiceAndUseAfterwards(t *testing.T) {
	path := newPath(t)
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a")
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var errPoll error
	for range 3 {
		if _, errPoll = s.Poll(t.Context()); errPoll == nil {
			break
		}
	}
	_, errRead := s.Read(t.Context())
	errWrite := s.Write(t.Context(), func(*Tx) error { return nil })
	for what, err := range map[string]error{"poll": errPoll, "read": errRead, "write": errWrite} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	if logSize(path) != 0 {
		t.Error("Close left a log behind")
	}
	if got := cell(t, path, "SELECT group_concat(id) FROM backends"); got != "a" {
		t.Errorf("the file holds %s", got)
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}
