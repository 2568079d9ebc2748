package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// alikeFor is how long a file that was written over has to look the same to be
// whole: longer than the tick by which the kernel dates a write.
const alikeFor = 10 * time.Millisecond

// The log is folded into the file once the last change is foldAfter old, or
// the first one foldWithin, so that changes that never cease do not let it grow.
const (
	foldAfter  = time.Second
	foldWithin = 10 * time.Second
)

// Poll says whether the tables may have changed since the last Poll or Open,
// by whomever. It costs microseconds when they have not. A file that was
// replaced or written over is opened anew; one that is being written over is
// left alone until two Polls, alikeFor apart, see it alike; one that is gone is ErrVanished,
// and is picked up when it is back. After an error the next Poll tries again.
func (s *Store) Poll(ctx context.Context) (changed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false, s.closedError()
	}
	now, err := s.lookLocked()
	if err != nil {
		return false, err
	}
	if now != s.opened && now.sameFile(s.opened) {
		if now != s.glimpsed {
			s.glimpsed, s.glimpsedAt = now, time.Now()
		}
		if time.Since(s.glimpsedAt) < alikeFor {
			return false, s.broken
		}
	}
	if s.reader == nil || s.stale || now != s.opened {
		err := s.reopenLocked(ctx, now)
		return err == nil, err
	}
	v, err := dataVersion(ctx, s.reader)
	if err != nil {
		s.stale = unusable(err)
		return false, s.explain("read", err)
	}
	changed = v != s.seen
	s.seen = v
	return changed, nil
}

// lookLocked looks at the file that lies under our name now.
func (s *Store) lookLocked() (identity, error) {
	now, err := identify(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return now, fmt.Errorf("%s: %w: put it back (mv a copy into place), or restart edgeproxy to begin with an empty one", s.path, ErrVanished)
	}
	if err != nil {
		return now, fmt.Errorf("look at %s: %w", s.path, err)
	}
	return now, nil
}

// Reopen makes the next Poll open the file anew, whatever it looks like: the
// way out where a connection is broken and the file may not be.
func (s *Store) Reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = true
}

func (s *Store) reopenLocked(ctx context.Context, now identity) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	err := s.changeFileLocked(ctx, now)
	if err != nil {
		s.closeLocked()
		s.broken = err
		if id, err := identify(s.path); err == nil && id.sameFile(now) {
			s.opened = id // closing may have folded the log
		}
	}
	return err
}

// changeFileLocked closes the old file and opens the new one. The log is where
// one can be taken for the other. SQLite folds it into the file when it
// closes, except where that was moved away (it then leaves the log behind), and
// reads whatever log it finds when it opens.
func (s *Store) changeFileLocked(ctx context.Context, now identity) error {
	replaced := !now.sameFile(s.opened)
	if !replaced && s.writer != nil && overwritten(s.path) {
		// Without its frames the log cannot be folded into that, by anybody.
		if err := os.Truncate(s.log, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open %s: empty the log of what was there before: %w", s.path, err)
		}
		replaced = true
	}
	if !now.sameFile(s.opened) && s.writer != nil {
		// Moved away, not lost: what is in its log belongs into it. SQLite
		// would leave it out as it closes.
		fold := context.WithoutCancel(ctx)
		_ = s.writer.wait(fold, 0)
		_, _ = s.writer.ExecContext(fold, "PRAGMA wal_checkpoint(PASSIVE)")
	}
	if replaced {
		s.carryLocked(ctx)
	}
	s.opened = now
	_ = s.closeLocked() // what does not close cleanly is broken, and to be replaced by this
	if left, err := identify(s.log); err != nil || !left.sameFile(s.wal) {
		s.wal = identity{} // gone, so that its inode number may come back as another file's
	} else if replaced {
		if err := removeLog(s.log); err != nil {
			return fmt.Errorf("open %s: remove the log of what was there before: %w", s.path, err)
		}
		s.wal = identity{}
	}
	return s.openLocked(ctx, false)
}

// Settle folds the write-ahead log into the file a second after the last
// change. With an empty log, a file that somebody writes over ours cannot be
// mixed with what stood in the log of the old one (for a file moved over ours,
// and for one that the sqlite3 CLI made, Poll sees to that in any case). Call
// it about as often as Poll, with what Poll said.
func (s *Store) Settle(ctx context.Context, changed bool, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if changed {
		s.foldLaterLocked(now)
	}
	if s.foldAt.IsZero() || now.Before(s.foldAt) && now.Before(s.foldBy) || s.readOnly || s.writer == nil {
		return nil
	}
	// Not beside a write of our own: Poll and Read would wait for it too.
	folded, err := false, error(nil)
	if s.writeMu.TryLock() {
		folded, err = s.foldLocked(ctx)
		s.writeMu.Unlock()
	}
	if folded {
		s.foldAt, s.foldBy = time.Time{}, time.Time{}
		return nil
	}
	s.foldAt, s.foldBy = now.Add(foldAfter), now.Add(foldAfter)
	if code := resultCode(err); code == codeBusy || code == codeLocked {
		return nil // somebody is reading: later
	}
	return s.explain("fold the log of", err)
}

// foldLaterLocked notes that the log was written.
func (s *Store) foldLaterLocked(now time.Time) {
	if s.foldAt.IsZero() {
		s.foldBy = now.Add(foldWithin)
	}
	s.foldAt = now.Add(foldAfter)
}

// foldLocked empties the log, unless somebody reads or writes at that moment.
func (s *Store) foldLocked(ctx context.Context) (bool, error) {
	if id, err := identify(s.log); err != nil || id.size == 0 {
		return true, nil // no log, or an empty one
	}
	if id, err := identify(s.path); err != nil || id != s.opened {
		return false, nil // somebody wrote the file: Poll comes first
	}
	// Folding waits for readers with the right to write in its hands, and a
	// bare sqlite3 does not wait at all: so let it not wait.
	if err := s.writer.wait(ctx, 0); err != nil {
		return false, err
	}
	defer func() {
		_ = s.writer.wait(context.WithoutCancel(ctx), s.busy)
		// The fold wrote the file; that is no change that others made.
		if id, err := identify(s.path); err == nil && id.sameFile(s.opened) {
			s.opened = id
		}
	}()
	var busy, frames, done int
	err := s.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(PASSIVE)").Scan(&busy, &frames, &done)
	if err != nil || busy != 0 || done < frames {
		return false, err
	}
	return s.emptyLogLocked(ctx)
}

// emptyLogLocked cuts the log, all of which is in the file already, to
// nothing. SQLite raises data_version for that as for a change. To leave it out
// without leaving out a change of somebody else's, the reader stands on what it
// has seen, with nothing of the log in use: then the cut succeeds only while
// nobody has committed since, and whoever commits afterwards makes the log grow.
func (s *Store) emptyLogLocked(ctx context.Context) (bool, error) {
	cut, err := func() (bool, error) {
		defer func() { _, _ = s.reader.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") }()
		if _, err := s.reader.ExecContext(ctx, "BEGIN"); err != nil {
			return false, err
		}
		var v, n int64
		if err := s.reader.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&n); err != nil {
			return false, err
		}
		if err := s.reader.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v); err != nil || v != s.seen {
			return false, err
		}
		var busy, frames, done int
		err := s.writer.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &done)
		return err == nil && busy == 0, err
	}()
	if !cut {
		return false, err
	}
	var v int64
	if err := s.reader.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v); err != nil {
		return true, err
	}
	if id, err := identify(s.log); err == nil && id.size == 0 {
		s.seen = v
	}
	return true, nil
}
