package sqlite

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestVanishedAndPutBack(t *testing.T) {
	t.Parallel()
	for _, settled := range []bool{false, true} {
		t.Run(fmt.Sprintf("the same file, settled %v", settled), func(t *testing.T) {
			s := withRows(t, settled)
			before := ids(t, s)
			rename(t, s.path, s.path+".away")
			for range 3 {
				refused(t, s, ErrVanished)
			}
			if err := s.Write(t.Context(), func(tx *Tx) error { return tx.Put(Backends, "lost", nil) }); !errors.Is(err, ErrVanished) {
				t.Errorf("write: %v", err)
			}
			if _, err := os.Stat(s.path); !errors.Is(err, fs.ErrNotExist) {
				t.Error("it was made anew")
			}
			rename(t, s.path+".away", s.path)
			if _, err := s.Poll(t.Context()); err != nil {
				t.Fatal(err)
			}
			afterwards(t, s, before...)
		})
		t.Run(fmt.Sprintf("another file, settled %v", settled), func(t *testing.T) {
			s := withRows(t, settled)
			if err := os.Remove(s.path); err != nil {
				t.Fatal(err)
			}
			refused(t, s, ErrVanished)
			made(t, s.path+".new", "new") // never under our name while the old log lies there
			rename(t, s.path+".new", s.path)
			noticed(t, s)
			afterwards(t, s, "new")
		})
	}
}

// TestOverwrittenWithWhatIsNoDatabase keeps what was written there as it is, says so, and recovers.
func TestOverwrittenWithWhatIsNoDatabase(t *testing.T) {
	t.Parallel()
	garbage := bytes.Repeat([]byte("garbage\n"), 2000)
	shape := func(t *testing.T, path string) []byte {
		raw(t, path, "CREATE TABLE backends (id TEXT PRIMARY KEY)")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, settled := range []bool{false, true} {
		for _, c := range []struct {
			name string
			with func(t *testing.T, path string) []byte
			kind error
		}{
			{"garbage", func(*testing.T, string) []byte { return garbage }, ErrDamaged},
			{"nothing", func(*testing.T, string) []byte { return nil }, ErrShape},
			{"another shape", shape, ErrShape},
		} {
			for _, how := range []string{"in place", "moved over"} {
				t.Run(fmt.Sprintf("%s, %s, settled %v", c.name, how, settled), func(t *testing.T) {
					s := withRows(t, settled)
					good, err := os.ReadFile(made(t, s.path+".good", "good"))
					if err != nil {
						t.Fatal(err)
					}
					bad := c.with(t, s.path+".other")
					overwrite := func(b []byte) {
						write(t, s.path+".next", b)
						if how == "in place" {
							shell(t, `cp "$1.next" "$1"`, s.path)
						} else {
							rename(t, s.path+".next", s.path)
						}
					}
					overwrite(bad)
					for range 2 {
						refused(t, s, c.kind)
					}
					if _, err := s.Read(t.Context()); !errors.Is(err, c.kind) {
						t.Errorf("read: %v", err)
					}
					if err := s.Write(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, c.kind) {
						t.Errorf("write: %v", err)
					}
					if left := shell(t, `cat "$1"`, s.path); !bytes.Equal(left, bad) {
						t.Errorf("what was written there was changed (%d bytes, then %d)", len(bad), len(left))
					}
					overwrite(good)
					noticed(t, s)
					afterwards(t, s, "good")
				})
			}
		}
	}
}

func TestReplacedByADirectory(t *testing.T) {
	s := withRows(t, false)
	before := ids(t, s)
	rename(t, s.path, s.path+".away")
	mkdir(t, s.path)
	for range 2 {
		if _, err := s.Poll(t.Context()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("poll: %v", err)
		}
	}
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	rename(t, s.path+".away", s.path)
	noticed(t, s)
	afterwards(t, s, before...)
}

// TestTableDropped: an error, not an empty mesh, until the table is back.
func TestTableDropped(t *testing.T) {
	s := openStore(t, made(t, newPath(t), "a"))
	elsewhere(t, s.path, "DROP TABLE backends")
	noticed(t, s)
	if _, err := s.Read(t.Context()); err == nil {
		t.Fatal("read a table that is not there")
	}
	refused(t, s, ErrShape)
	elsewhere(t, s.path, seedTable+";"+seedRows)
	noticed(t, s)
	afterwards(t, s, "eu-node-1", "sa-node-1", "us-node-1")
}
