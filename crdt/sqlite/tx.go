package sqlite

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Tx is a write transaction. After a statement that failed every other fails
// too, and Write with them: SQLite may have ended the transaction by itself, and
// what came after would be committed alone.
type Tx struct {
	ctx  context.Context
	conn *conn
	err  error // of the first statement that failed
}

// Write runs fn in one transaction, which has reached the disk when Write
// returns nil, and left nothing behind otherwise. fn must not keep tx, nor call
// the Store.
func (s *Store) Write(ctx context.Context, fn func(tx *Tx) error) error {
	for {
		if err := s.readyToWrite(ctx); err != nil {
			return err
		}
		open, err := s.write(ctx, fn)
		if !open {
			continue // closed in between: readyToWrite knows why
		}
		if err != nil && unusable(err) {
			s.Reopen()
		}
		return err
	}
}

// readyToWrite sees that the file that is open is the one under our name. One
// that was taken away still takes writes through a descriptor that is open;
// they would be lost.
func (s *Store) readyToWrite(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.closedError()
	}
	now, err := s.lookLocked()
	if err != nil {
		return err
	}
	if s.reader == nil || s.stale || now != s.opened {
		if err := s.reopenLocked(ctx, now); err != nil {
			return err
		}
		s.seen = -1 // the change is the next Poll's to tell
	}
	if s.readOnly {
		return fmt.Errorf("write %s: %w: give this user the right to write the file and its directory", s.path, ErrReadOnly)
	}
	return nil
}

// write writes, unless the file is not open.
func (s *Store) write(ctx context.Context, fn func(tx *Tx) error) (open bool, err error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.writer == nil {
		return false, nil
	}
	if err := s.writer.durable(ctx, true); err != nil {
		return true, s.explain("write", err)
	}
	return true, s.writeLocked(ctx, fn)
}

func (s *Store) writeLocked(ctx context.Context, fn func(tx *Tx) error) error {
	var refused error
	err := transact(ctx, s.writer, func() error {
		tx := &Tx{ctx: ctx, conn: s.writer}
		if refused = fn(tx); refused == nil {
			return tx.err
		}
		return refused
	})
	if refused != nil && resultCode(refused) == 0 {
		return refused
	}
	if err != nil {
		return s.explain("write", err)
	}
	if now, err := identify(s.path); err != nil || !now.sameFile(s.writes) {
		return fmt.Errorf("write %s: %w: it was moved away at that moment; write again", s.path, ErrVanished)
	}
	return nil
}

// transact runs fn between BEGIN IMMEDIATE and COMMIT.
func transact(ctx context.Context, c *conn, fn func() error) error {
	done := false
	defer func() {
		if !done { // also where fn panicked, and where BEGIN was cancelled but may have begun
			_, _ = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	if _, err := c.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Cancelled here, it could not be told whether it was committed.
	_, err := c.ExecContext(context.WithoutCancel(ctx), "COMMIT")
	done = err == nil
	return err
}

// do runs one statement, unless one before it failed.
func (tx *Tx) do(statement func() error) error {
	if tx.err == nil {
		tx.err = tx.ctx.Err() // the drivers may overlook it
	}
	if tx.err == nil {
		tx.err = statement()
	}
	return tx.err
}

// Get reads one row, its values in the order of t.Columns.
func (tx *Tx) Get(t Table, id string) (row []any, found bool, err error) {
	err = tx.do(func() error {
		rows, err := tx.conn.QueryContext(tx.ctx, t.query()+" WHERE "+t.Columns[0]+" = ?", id)
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() {
			return rows.Err()
		}
		found = true
		row, err = scan(rows, len(t.Columns))
		return err
	})
	if err != nil {
		return nil, false, err
	}
	return row, found, nil
}

// Put sets columns of one row, which it makes where there is none.
func (tx *Tx) Put(t Table, id string, set map[string]any) error {
	cols, marks, sets := []string{t.Columns[0]}, []string{"?"}, []string{}
	args := []any{id}
	for _, c := range t.Columns[1:] { // in the table's order: the same statement every time
		if v, ok := set[c]; ok {
			cols, marks, sets = append(cols, c), append(marks, "?"), append(sets, c+" = excluded."+c)
			args = append(args, v)
		}
	}
	for c := range set {
		if !slices.Contains(t.Columns[1:], c) {
			return fmt.Errorf("put %s: no column %q", t.Name, c)
		}
	}
	conflict := "DO NOTHING"
	if len(sets) > 0 {
		conflict = "DO UPDATE SET " + strings.Join(sets, ", ")
	}
	return tx.do(func() error {
		_, err := tx.conn.ExecContext(tx.ctx, fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s) ON CONFLICT (%s) %s",
			t.Name, strings.Join(cols, ", "), strings.Join(marks, ", "), t.Columns[0], conflict), args...)
		return err
	})
}

// Delete removes one row and says whether it was there.
func (tx *Tx) Delete(t Table, id string) (found bool, err error) {
	err = tx.do(func() error {
		res, err := tx.conn.ExecContext(tx.ctx, "DELETE FROM "+t.Name+" WHERE "+t.Columns[0]+" = ?", id)
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		found = n > 0
		return err
	})
	return found, err
}
