package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenOfOddNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"with space.db", "what?.db", "mode?mode=memory", "100%.db", "%41.db", "#1.db", "a&b=c.db", ":memory:", "naïve.db", "file:x.db", "'q\".db", "new\nline.db",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, filepath.Join(dir, name))
			put(t, s, "a")
			settle(t, s)
			if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Size() == 0 {
				t.Fatalf("no such file was made: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("directory holds %v, %v; want the database alone", entries, err)
			}
		})
	}
}

func TestOpenOfAPathWithSlashes(t *testing.T) {
	path := made(t, newPath(t), "a")
	wantIDs(t, openStore(t, "/"+path), "a") // no authority of a URI
	wantIDs(t, openStore(t, filepath.Dir(path)+"/.//routing.db"), "a")
	link := filepath.Join(t.TempDir(), "link")
	mkdir(t, filepath.Join(filepath.Dir(path), "sub"))
	if err := os.Symlink(filepath.Join(filepath.Dir(path), "sub"), link); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, openStore(t, link+"/../routing.db"), "a") // beside what the link leads to
}

func TestOpenOfRelativeNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{"routing.db", "./dot.db", ":memory:", "file:x.db?mode=memory", "-wal"} {
		s := openStore(t, name)
		put(t, s, "a")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if fi, err := os.Stat(name); err != nil || !fi.Mode().IsRegular() || fi.Size() == 0 {
			t.Errorf("%s: no such file was made: %v", name, err)
		}
	}
}

func TestOpenRefusesPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, []byte("x"))
	for _, c := range []struct{ path, says string }{
		{filepath.Join(dir, "missing", "routing.db"), "mkdir -p " + filepath.Join(dir, "missing")},
		{filepath.Join(file, "routing.db"), "not a directory"},
		{"/dev/null", "not a regular file"},
		{"", "its name is empty"},
		{filepath.Join(dir, strings.Repeat("x", 300)), "too long"},
	} {
		s, err := open(t.Context(), c.path, 0)
		if err == nil {
			s.Close()
			t.Errorf("%s was opened", c.path)
		} else if !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %q does not say %q", c.path, err, c.says)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("something was made: %v, %v", entries, err)
	}
}

func TestOpenFollowsASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "data"))
	target, link := filepath.Join(dir, "data", "real.db"), filepath.Join(dir, "routing.db")
	made(t, target, "old")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, link)
	put(t, s, "unfolded")
	noticed(t, s)

	// Another file moved over the target, the log of the old one not empty.
	if logSize(target) == 0 {
		t.Fatal("nothing in the log")
	}
	rename(t, made(t, filepath.Join(dir, "new.db"), "new"), target)
	noticed(t, s)
	wantIDs(t, s, "new")

	// The link itself changed.
	made(t, filepath.Join(dir, "third.db"), "third")
	other := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "third.db"), other); err != nil {
		t.Fatal(err)
	}
	put(t, s, "written before")
	rename(t, other, link)
	noticed(t, s)
	wantIDs(t, s, "third")
	if got := cell(t, target, "SELECT group_concat(id) FROM (SELECT id FROM backends ORDER BY id)"); got != "new,written before" {
		t.Errorf("the file that the link left holds %s", got)
	}
	sound(t, target)
	sound(t, filepath.Join(dir, "third.db"))
}
