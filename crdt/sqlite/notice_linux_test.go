package sqlite

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// told waits for a notice; false: the channel was closed.
func told(t *testing.T, notices <-chan struct{}, of string) bool {
	t.Helper()
	select {
	case _, open := <-notices:
		return open
	case <-time.After(20 * time.Second):
		t.Fatalf("no notice of %s", of)
		return false
	}
}

// quiet waits until no notice comes any more.
func quiet(notices <-chan struct{}) {
	for {
		select {
		case <-notices:
		case <-time.After(500 * time.Millisecond):
			return
		}
	}
}

// TestNotices: a commit of another process, another file in the place of the
// database, and its end are noticed, also behind a link; what happens to other
// files is not.
func TestNotices(t *testing.T) {
	t.Parallel()
	real := newPath(t)
	path := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, path)
	notices, stop, err := s.Notices()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere(t, real, "INSERT INTO backends(id, app, region, wg_ip, port) VALUES ('x', 'a', 'sa', '10.0.0.1', 80)")
	if !told(t, notices, "a commit") {
		t.Fatal("closed by a commit")
	}
	quiet(notices)

	dir := filepath.Dir(real)
	for _, other := range []string{"other.db", filepath.Base(real) + "2", filepath.Base(real) + "-wal2"} {
		if err := os.WriteFile(filepath.Join(dir, other), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	appended, err := os.OpenFile(filepath.Join(dir, "other.db"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer appended.Close()
	if _, err := appended.WriteString("as a log does"); err != nil {
		t.Fatal(err)
	}
	select {
	case _, open := <-notices:
		t.Errorf("a notice of other files, open %v", open)
	case <-time.After(100 * time.Millisecond):
	}

	if err := os.Rename(filepath.Join(dir, "other.db"), real); err != nil {
		t.Fatal(err)
	}
	if !told(t, notices, "a file that was moved here") {
		t.Error("closed by a move")
	}
	quiet(notices)
	if err := os.WriteFile(real, []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !told(t, notices, "what was written into that") {
		t.Error("closed by a write")
	}
	quiet(notices)
	stop()
	if told(t, notices, "the end") {
		t.Error("a notice at the end")
	}
}

// TestNoticesEnd where the directory is gone, and are refused where there is none.
func TestNoticesEnd(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), filepath.Join(dir, "routing.db"))
	if err != nil {
		t.Fatal(err)
	}
	notices, stop, err := s.Notices()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := s.Close(); err != nil { // files that are open keep a directory alive
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for told(t, notices, "the directory's end") {
		continue
	}
	if _, _, err := s.Notices(); err == nil {
		t.Error("notices of what is not there")
	}
}
