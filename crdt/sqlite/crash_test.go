package sqlite

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a kill -9 and a full disk may do to a write: nothing, or all of it.

// TestKilled: a process that is killed at any moment has written what it said
// it had, and of what it was writing both rows or none.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	next := 0
	for round := range 6 {
		a := anotherProcess(t, "acknowledge", path)
		fmt.Fprintln(a.in, next)
		acknowledged := -1
		for range 5 + round*7 { // so many lines, then at once
			line, err := a.out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if acknowledged, err = strconv.Atoi(strings.TrimSpace(line)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for rest := bufio.NewScanner(a.out); rest.Scan(); {
			if n, err := strconv.Atoi(rest.Text()); err == nil {
				acknowledged = n
			}
		}
		a.end()

		sound(t, path)
		s := openStore(t, path)
		have := map[string]bool{}
		for _, id := range ids(t, s) {
			have[id] = true
		}
		for i := range acknowledged + 1 {
			if !have[fmt.Sprintf("a-%d", i)] || !have[fmt.Sprintf("b-%d", i)] {
				t.Fatalf("round %d: row %d was acknowledged (up to %d) and is lost", round, i, acknowledged)
			}
		}
		if len(have)%2 != 0 {
			t.Errorf("round %d: half of a transaction is there", round)
		}
		next = len(have) / 2
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFull gives ErrFull and leaves nothing half written. SQLite's own limit
// on pages takes the same way as a full disk.
func TestFull(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a")
	settle(t, s)
	limit := func(pages int) {
		t.Helper()
		var set int
		query := fmt.Sprintf("PRAGMA max_page_count = %d", pages)
		if err := s.writer.QueryRowContext(t.Context(), query).Scan(&set); err != nil || set != pages {
			t.Fatalf("%s: %d, %v", query, set, err)
		}
	}
	limit(100)
	writeTooMuch(t, s)
	limit(1_000_000)
	unchanged(t, s, "a")
	sound(t, s.path)
}

// TestFullDisk on a real one, which takes root to make.
func TestFullDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "small")
	mkdir(t, dir)
	if err := mountSmall(dir); err != nil {
		t.Skipf("cannot make a small disk: %v (TestFull covers what does not need one)", err)
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, filepath.Join(dir, "routing.db"))
	put(t, s, "a")
	settle(t, s)
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	f.Close()
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	writeTooMuch(t, s)
	if err := s.Settle(t.Context(), false, time.Unix(9_000_000, 0)); err != nil && !errors.Is(err, ErrFull) {
		t.Errorf("settle: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	put(t, s, "b")
	wantIDs(t, s, "a", "b")
	settle(t, s)
	sound(t, s.path)
}

func writeTooMuch(t *testing.T, s *Store) {
	t.Helper()
	for range 2 {
		err := s.Write(t.Context(), func(tx *Tx) error {
			if err := tx.Put(Backends, "b", nil); err != nil {
				return err
			}
			_ = tx.Put(Backends, "too much", map[string]any{"app": strings.Repeat("x", 1<<20)})
			_ = tx.Put(Backends, "c", nil) // must not be committed by itself
			return nil
		})
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "free some space") {
			t.Errorf("write: %v, want %v", err, ErrFull)
		}
		wantIDs(t, s, "a")
	}
	if _, err := s.Poll(t.Context()); err != nil {
		t.Errorf("poll: %v", err)
	}
}
