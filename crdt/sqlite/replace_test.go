package sqlite

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// many are ids enough for several pages.
func many(prefix string, n int) (ids []string) {
	for i := range n {
		ids = append(ids, fmt.Sprintf("%s-%04d-%s", prefix, i, strings.Repeat("x", 40)))
	}
	return ids
}

// withRows opens a store on rows of its own: some in the file, and in the
// log what must never be mixed with another file.
func withRows(t *testing.T, settled bool) *Store {
	t.Helper()
	s := openStore(t, newPath(t))
	put(t, s, many("old", 300)...)
	settle(t, s)
	put(t, s, many("older", 100)...)
	wantPoll(t, s, true)
	if settled {
		settle(t, s)
	} else if logSize(s.path) == 0 {
		t.Fatal("nothing in the log")
	}
	return s
}

// backup makes a file that another store wrote, in write-ahead mode like ours.
func backup(t *testing.T, path string, ids ...string) string {
	t.Helper()
	other, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, other, ids...)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// afterwards checks that the store works on the file that is there.
func afterwards(t *testing.T, s *Store, rows ...string) {
	t.Helper()
	wantIDs(t, s, rows...)
	wantPoll(t, s, false)
	settle(t, s)
	wantPoll(t, s, false)
	put(t, s, "zz")
	wantPoll(t, s, true)
	wantIDs(t, s, append(rows, "zz")...)
	sound(t, s.path)
	elsewhere(t, s.path, "DELETE FROM backends WHERE id = 'zz'")
	wantPoll(t, s, true)
	wantIDs(t, s, rows...)
}

// TestMovedOver: the new file's rows are read exactly, whatever the old log
// holds and whoever made the new file.
func TestMovedOver(t *testing.T) {
	t.Parallel()
	for _, settled := range []bool{false, true} {
		for name, make := range map[string]func(t *testing.T, path string, ids ...string) string{"by hand": made, "backup": backup} {
			t.Run(fmt.Sprintf("settled %v, %s", settled, name), func(t *testing.T) {
				s := withRows(t, settled)
				rows := many("new", 50)
				rename(t, make(t, s.path+".new", rows...), s.path)
				wantPoll(t, s, true)
				wantIDs(t, s, rows...)
				if cell(t, s.path, "PRAGMA integrity_check") != "ok" {
					t.Error("the new file is damaged")
				}
				afterwards(t, s, rows...)
			})
		}
	}
}

// TestMovedOverRemovesTheOldLog before anybody can take it for the new one's.
func TestMovedOverRemovesTheOldLog(t *testing.T) {
	s := withRows(t, false)
	old, err := identify(s.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	oldIndex, err := identify(s.path + "-shm")
	if err != nil {
		t.Fatal(err)
	}
	keep := s.path + ".kept" // a second name, so that the inode number cannot come back
	if err := errors.Join(os.Link(s.path+"-wal", keep), os.Link(s.path+"-shm", keep+"-shm")); err != nil {
		t.Fatal(err)
	}
	rename(t, made(t, s.path+".new", "new"), s.path)
	wantPoll(t, s, true)
	if now, err := identify(s.path + "-wal"); err == nil && now.sameFile(old) {
		t.Error("the old log is still there")
	}
	if now, err := identify(s.path + "-shm"); err == nil && now.sameFile(oldIndex) {
		t.Error("the old log's index is still there")
	}
	afterwards(t, s, "new")
}

// TestMovedAwayKeepsItsRows: a file that was moved away to be kept has all of
// them in it, also those that were still in the log.
func TestMovedAwayKeepsItsRows(t *testing.T) {
	s := withRows(t, false)
	before := len(ids(t, s))
	kept := s.path + ".kept"
	rename(t, s.path, kept)
	refused(t, s, ErrVanished)
	rename(t, made(t, s.path+".new", "new"), s.path)
	noticed(t, s)
	if got := cell(t, kept, "SELECT count(*) FROM backends"); got != fmt.Sprint(before) {
		t.Errorf("%s rows in the file that was moved away, want %d", got, before)
	}
	sound(t, kept)
	afterwards(t, s, "new")
}

// TestMovedOverWithItsLog: a log that came with the new file holds its rows.
func TestMovedOverWithItsLog(t *testing.T) {
	s := withRows(t, false)
	next := s.path + ".new"
	backup(t, next, "in the file")
	other := anotherProcess(t, "obey", next)
	other.exec("INSERT INTO backends (id) VALUES ('in the log')")
	copyFile(t, next, next+".copy")
	copyFile(t, next+"-wal", next+".copy-wal")
	other.end()
	rename(t, next+".copy-wal", s.path+"-wal")
	rename(t, next+".copy", s.path)
	wantPoll(t, s, true)
	afterwards(t, s, "in the file", "in the log")
}

func TestMovedOverAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := withRows(t, false)
	for i := range 20 {
		id := fmt.Sprint("file ", i)
		rename(t, made(t, s.path+".new", id), s.path)
		if i%2 == 0 {
			wantPoll(t, s, true)
			wantIDs(t, s, id)
			put(t, s, "row")
		}
	}
	noticed(t, s)
	afterwards(t, s, "file 19")
}

// TestCopiedOver writes another file over ours in place, as cp and scp do: first
// nothing is left, then a part is there, then all of it. What is read after a
// Poll that tells of a change is never a mixture, and at the end the new rows.
func TestCopiedOver(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		settled bool
		make    func(t *testing.T, path string, ids ...string) string
	}{
		{"settled, by hand", true, made},
		{"settled, backup", true, backup},
		{"not settled, by hand", false, made},
	} {
		for _, looks := range []int{0, 1, 3} { // Polls between the steps
			t.Run(fmt.Sprintf("%s, %d polls between", c.name, looks), func(t *testing.T) {
				s := withRows(t, c.settled)
				before := ids(t, s)
				rows := many("new", 350)
				image, err := os.ReadFile(c.make(t, s.path+".new", rows...))
				if err != nil {
					t.Fatal(err)
				}
				look := func() {
					for range looks {
						<-time.After(alikeFor / 2)
						changed, err := s.Poll(t.Context())
						if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrShape) {
							t.Errorf("poll: %v", err)
						}
						if !changed {
							continue // a caller keeps what it read
						}
						if img, err := s.Read(t.Context()); err == nil && len(img.Backends) != len(before) && len(img.Backends) != len(rows) {
							t.Errorf("read %d rows: neither the old nor the new", len(img.Backends))
						}
					}
				}
				half := len(image)/2/4096*4096 + 100 // within a page
				write(t, s.path+".1", image[:half])
				write(t, s.path+".2", image[half:])
				for _, step := range []string{`: > "$1"`, `cat "$1.1" >> "$1"`, `cat "$1.2" >> "$1"`} {
					shell(t, step, s.path)
					look()
				}
				noticedSooner(t, s, looks > 1)
				wantIDs(t, s, rows...)
				sound(t, s.path)
				afterwards(t, s, rows...)
			})
		}
	}
}

// noticedSooner polls until a change is told, or until it is clear that it was before.
func noticedSooner(t *testing.T, s *Store, sooner bool) {
	t.Helper()
	if !sooner {
		noticed(t, s)
		return
	}
	for range 3 {
		if _, err := s.Poll(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-time.After(alikeFor)
	}
}

// TestCopiedSlowly: a file that is written over in steps is not opened between
// them, however often Poll looks, unless it has looked the same for a while.
func TestCopiedSlowly(t *testing.T) {
	s := withRows(t, true)
	image, err := os.ReadFile(made(t, s.path+".new", many("new", 350)...))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for part := range slices.Chunk(image, len(image)/20) {
		begun := time.Now()
		if _, err := f.Write(part); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			changed, err := s.Poll(t.Context())
			if took := time.Since(begun); (changed || err != nil) && took < alikeFor {
				t.Errorf("opened %v after it was written: %v", took, err)
			}
		}
	}
	noticed(t, s)
	wantIDs(t, s, many("new", 350)...)
}

// TestCopiedOverThenWritten without a Poll in between: the row goes to the new file.
func TestCopiedOverThenWritten(t *testing.T) {
	for _, settled := range []bool{false, true} {
		s := withRows(t, settled)
		shell(t, `cp "$1" "$2"`, made(t, s.path+".new", "new"), s.path)
		put(t, s, "mine")
		wantPoll(t, s, true)
		afterwards(t, s, "mine", "new")
	}
}

// TestMovedOverThenWritten without a Poll in between: the row goes to the new
// file, and the next Poll still tells of the change.
func TestMovedOverThenWritten(t *testing.T) {
	for _, settled := range []bool{false, true} {
		s := withRows(t, settled)
		rename(t, made(t, s.path+".new", "new"), s.path)
		put(t, s, "mine")
		wantPoll(t, s, true)
		afterwards(t, s, "mine", "new")
	}
}

// TestChangeFoundByWrite is still the next Poll's to tell.
func TestChangeFoundByWrite(t *testing.T) {
	s := withRows(t, true)
	rename(t, made(t, s.path+".new", "new"), s.path)
	if err := s.Write(t.Context(), func(*Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	wantPoll(t, s, true)
	wantPoll(t, s, false)
}

// TestMovedOverWhileWritten: what cannot be promised is not promised.
func TestMovedOverWhileWritten(t *testing.T) {
	s := withRows(t, true)
	next := made(t, s.path+".new", "new")
	err := s.Write(t.Context(), func(tx *Tx) error {
		rename(t, next, s.path)
		return tx.Put(Backends, "mine", nil)
	})
	if !errors.Is(err, ErrVanished) {
		t.Errorf("write to a file that was moved away: %v", err)
	}
	noticed(t, s)
	afterwards(t, s, "new")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, b)
}
