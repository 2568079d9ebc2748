package sqlite

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestPollNoticesOtherProcesses(t *testing.T) {
	path := newPath(t)
	s := openStore(t, path)
	for _, c := range []struct {
		statement string
		want      []string
	}{
		{"INSERT INTO backends (id) VALUES ('a'), ('b')", []string{"a", "b"}},
		{"UPDATE backends SET id = 'c' WHERE id = 'a'", []string{"b", "c"}},
		{"DELETE FROM backends WHERE id = 'b'", []string{"c"}},
		{"INSERT INTO backend_options (id, draining) VALUES ('c', 1)", []string{"c"}},
		{"ALTER TABLE backends ADD COLUMN country TEXT", []string{"c"}},
		{"INSERT INTO backends (id, country) VALUES ('d', 'BR'); PRAGMA wal_checkpoint(TRUNCATE)", []string{"c", "d"}},
		{"VACUUM", []string{"c", "d"}},
	} {
		wantPoll(t, s, false)
		elsewhere(t, path, c.statement)
		noticed(t, s)
		wantIDs(t, s, c.want...)
	}
}

func TestPollNoticesACommitAndNotATransaction(t *testing.T) {
	s := openStore(t, newPath(t))
	other := anotherProcess(t, "obey", s.path)
	other.exec("BEGIN; INSERT INTO backends (id) VALUES ('a')")
	wantPoll(t, s, false)
	wantIDs(t, s)
	other.exec("COMMIT")
	wantPoll(t, s, true)
	wantPoll(t, s, false)
	wantIDs(t, s, "a")
	other.exec("BEGIN; INSERT INTO backends (id) VALUES ('b'); ROLLBACK")
	wantPoll(t, s, false)
}

func TestPollNoticesOwnWrites(t *testing.T) {
	s := openStore(t, newPath(t))
	wantPoll(t, s, false)
	put(t, s, "a")
	wantPoll(t, s, true)
	wantPoll(t, s, false)
}

// TestPollSaysNothingWhenNothingChanged: not for what this process itself does
// besides writing rows, and not for others who only look.
func TestPollSaysNothingWhenNothingChanged(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a")
	wantPoll(t, s, true)
	now := time.Unix(1_000_000, 0)
	for i := range 50 {
		wantPoll(t, s, false)
		wantIDs(t, s, "a")
		wantPoll(t, s, false)
		if err := s.Settle(t.Context(), i == 0, now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(400 * time.Millisecond)
	}
	if logSize(s.path) != 0 {
		t.Error("the log was not folded")
	}
	elsewhere(t, s.path, "SELECT * FROM backends")
	wantPoll(t, s, false)
	put(t, s, "b")
	wantPoll(t, s, true)
	settle(t, s)
	wantPoll(t, s, false)
	wantIDs(t, s, "a", "b")
}

func TestSettleWaitsASecondAfterTheLastChange(t *testing.T) {
	s := openStore(t, newPath(t))
	settle(t, s)
	put(t, s, "a")
	wantPoll(t, s, true)
	at := func(ms int) time.Time { return time.Unix(2_000_000, 0).Add(time.Duration(ms) * time.Millisecond) }
	for _, step := range []struct {
		ms      int
		changed bool
		folded  bool
	}{{0, true, false}, {900, false, false}, {999, true, false}, {1500, false, false}, {1998, false, false}, {1999, false, true}} {
		if err := s.Settle(t.Context(), step.changed, at(step.ms)); err != nil {
			t.Fatal(err)
		}
		if folded := logSize(s.path) == 0; folded != step.folded {
			t.Fatalf("after %d ms: folded %v, want %v", step.ms, folded, step.folded)
		}
	}
}

// TestSettleUnderChangesThatNeverCease keeps the log from growing for ever.
func TestSettleUnderChangesThatNeverCease(t *testing.T) {
	t.Parallel()
	s := openStore(t, newPath(t))
	settle(t, s)
	now, most := time.Unix(3_000_000, 0), int64(0)
	for i := range 400 { // a change each 100 ms for 40 s
		err := s.Write(t.Context(), func(tx *Tx) error {
			return tx.Put(Backends, "a", map[string]any{"weight": i})
		})
		if err != nil {
			t.Fatal(err)
		}
		changed, err := s.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Settle(t.Context(), changed, now); err != nil {
			t.Fatal(err)
		}
		most = max(most, logSize(s.path))
		now = now.Add(100 * time.Millisecond)
	}
	// 100 changes between folds, of a page each.
	if limit := int64(110 * (4096 + 24)); most > limit {
		t.Errorf("the log grew to %d bytes, want at most %d", most, limit)
	}
	sound(t, s.path)
}

// TestSettleNeverSwallowsAChange: every row that somebody else commits is told
// by a Poll, however Settle falls between.
func TestSettleNeverSwallowsAChange(t *testing.T) {
	s := openStore(t, newPath(t))
	const rows = 200
	next, failed := make(chan int), make(chan error, 1)
	go func() {
		db := openOther(s.path)
		defer db.Close()
		for i := range next {
			if _, err := db.Exec("INSERT INTO backends (id) VALUES (?)", i); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	deadline := time.Now().Add(5 * time.Minute)
	now := time.Unix(4_000_000, 0)
	known := 0
	for i := range rows {
		next <- i
		for known <= i {
			if time.Now().After(deadline) {
				t.Fatalf("row %d was not told", i)
			}
			changed, err := s.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if changed {
				known = len(ids(t, s))
			}
			now = now.Add(time.Hour) // it is always time to fold
			if err := s.Settle(t.Context(), false, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(next)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// TestSettleBesideAReader gives way: a bare sqlite3 that writes meanwhile must
// not find the file locked, and our own calls must not wait.
func TestSettleBesideAReader(t *testing.T) {
	s, err := open(t.Context(), newPath(t), 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put(t, s, "a")
	reader := anotherProcess(t, "obey", s.path)
	reader.exec("BEGIN; SELECT * FROM backends")
	put(t, s, "b") // of which the reader must not see anything
	wantPoll(t, s, true)
	now := time.Unix(5_000_000, 0)
	within(t, time.Minute, func() {
		if err := s.Settle(t.Context(), false, now); err != nil {
			t.Errorf("settle: %v", err)
		}
	})
	if logSize(s.path) == 0 {
		t.Fatal("the log was folded under a reader")
	}
	// What could be folded was; that is no change.
	wantPoll(t, s, false)
	put(t, s, "c")
	wantPoll(t, s, true)
	// Nothing of the log is in a reader's way, but its end is in its use.
	reader.exec("COMMIT; BEGIN; SELECT * FROM backends")
	within(t, time.Minute, func() {
		if err := s.Settle(t.Context(), false, now.Add(time.Minute)); err != nil {
			t.Errorf("settle: %v", err)
		}
	})
	wantPoll(t, s, false)
	reader.exec("COMMIT")
	if err := s.Settle(t.Context(), false, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if logSize(s.path) != 0 {
		t.Error("the log was not folded when the reader was gone")
	}
	wantPoll(t, s, false)
	wantIDs(t, s, "a", "b", "c")
}

func TestPollAfterAnotherProcessFoldedTheLog(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a")
	wantPoll(t, s, true)
	for _, mode := range []string{"PASSIVE", "FULL", "RESTART", "TRUNCATE"} {
		put(t, s, mode)
		elsewhere(t, s.path, "PRAGMA wal_checkpoint("+mode+")")
		noticed(t, s)
	}
	elsewhere(t, s.path, "INSERT INTO backends (id) VALUES ('z')")
	noticed(t, s)
	wantIDs(t, s, "FULL", "PASSIVE", "RESTART", "TRUNCATE", "a", "z")
	sound(t, s.path)
}

func TestTouchedFile(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a") // in the log
	wantPoll(t, s, true)
	for i := range 3 {
		at := time.Now().Add(time.Duration(i+1) * time.Hour)
		if err := os.Chtimes(s.path, at, at); err != nil {
			t.Fatal(err)
		}
		noticed(t, s)
		wantIDs(t, s, "a")
	}
}

// TestLockedByAnotherProcess: with a log, readers go on beside any writer.
func TestLockedByAnotherProcess(t *testing.T) {
	for _, lock := range []string{"BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"} {
		t.Run(lock, func(t *testing.T) {
			s := openStore(t, newPath(t))
			put(t, s, "a")
			wantPoll(t, s, true)
			other := anotherProcess(t, "obey", s.path)
			other.exec(lock)
			wantPoll(t, s, false)
			wantIDs(t, s, "a")
			within(t, time.Minute, func() {
				called := false
				err := s.Write(t.Context(), func(*Tx) error { called = true; return nil })
				if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "fuser") || called {
					t.Errorf("write: %v; function called: %v", err, called)
				}
			})
			if err := s.Settle(t.Context(), false, time.Unix(6_000_000, 0)); err != nil {
				t.Errorf("settle: %v", err)
			}
			other.exec("ROLLBACK")
			put(t, s, "b")
			wantPoll(t, s, true)
			wantIDs(t, s, "a", "b")
		})
	}
}

// TestLockedAgainstReaders: a process that keeps the file to itself.
func TestLockedAgainstReaders(t *testing.T) {
	path := made(t, newPath(t), "a")
	other := anotherProcess(t, "obey", path)
	other.exec("BEGIN EXCLUSIVE")
	within(t, time.Minute, func() {
		if s, err := open(t.Context(), path, 100*time.Millisecond); !errors.Is(err, ErrLocked) {
			t.Errorf("open: %v, %v", s, err)
		}
	})
	other.exec("INSERT INTO backends (id) VALUES ('b'); COMMIT")
	s := openStore(t, path)
	wantIDs(t, s, "a", "b")
}

// TestOpenWaitsForAWriter who is about to end.
func TestOpenWaitsForAWriter(t *testing.T) {
	for _, lock := range []string{"BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"} {
		path := made(t, newPath(t), "a")
		other := anotherProcess(t, "obey", path)
		other.exec(lock)
		opened := make(chan error, 1)
		go func() {
			s, err := open(t.Context(), path, time.Minute)
			if err == nil {
				err = s.Close()
			}
			opened <- err
		}()
		select {
		case err := <-opened:
			t.Fatalf("%s: open did not wait: %v", lock, err)
		case <-time.After(50 * time.Millisecond):
		}
		other.exec("COMMIT")
		if err := <-opened; err != nil {
			t.Errorf("%s: %v", lock, err)
		}
	}
}

// TestReplacedByALockedFile: the old rows stay readable where that is
// possible, the error says why, and the next Poll tries again.
func TestReplacedByALockedFile(t *testing.T) {
	s := openStore(t, made(t, newPath(t), "old"))
	next := made(t, s.path+".new", "new")
	other := anotherProcess(t, "obey", next)
	other.exec("BEGIN EXCLUSIVE")
	rename(t, next, s.path)
	within(t, time.Minute, func() {
		refused(t, s, ErrLocked)
		if _, err := s.Read(t.Context()); !errors.Is(err, ErrLocked) {
			t.Errorf("read: %v", err)
		}
		if err := s.Write(t.Context(), func(*Tx) error { return nil }); !errors.Is(err, ErrLocked) {
			t.Errorf("write: %v", err)
		}
	})
	other.exec("COMMIT")
	noticed(t, s)
	wantIDs(t, s, "new")
}
