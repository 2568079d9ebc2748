// Package sqlite keeps the routing database: its schema, reading it whole,
// writing rows, noticing what others write into it, and its records, by which
// the POPs' databases become one.
//
//	store, err := sqlite.Open(ctx, "routing.db")
//	defer store.Close()
//	image, err := store.Read(ctx)            // every row of the operator's tables
//	changed, err := store.Poll(ctx)          // microseconds; true: read again
//	err = store.Write(ctx, func(tx *sqlite.Tx) error {
//		return tx.Put(sqlite.Backends, "sa-node-1", map[string]any{"weight": 5})
//	})
//
//	begun, err := store.Replicate(ctx, sqlite.Replication{Life: life, Save: save, Now: meshTime})
//	delta, err := store.Fold(ctx)            // what anybody wrote since, stamped, to be sent
//	applied, err := store.Apply(ctx, peer, received)
//	missing, more, err := store.Since(ctx, heads, 64<<10)
//	err = store.WriteTelemetry(ctx, known, time.Now()) // for people with sqlite3
//	err = store.End(ctx)
//
// The file belongs to the operator: anybody may write it with the sqlite3 CLI,
// move another one over it, write over it or take it away, at any time. Poll
// notices; what fails leaves the caller with what it read before, and the next
// Poll tries again. The package knows rows and columns, not what they mean,
// and never creates the file or its table again once it has been open.
//
// Triggers inside the file append every change, whoever makes it, to an inbox;
// Fold and Apply make records of it, and only they give out numbers. Each row
// has one record, with all its values and stamps under a checksum; the
// operator's tables show what the records say. What a table cannot show, such
// as columns of a newer version, is in the record alone, and is passed on.
//
// It does not decide what is sent to whom, and judges no values.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/internal/progress"
)

// busyTimeout is how long we wait for somebody else's write transaction.
const busyTimeout = 5 * time.Second

// Store is an open routing database. Safe for concurrent use.
type Store struct {
	path string
	busy time.Duration

	mu         sync.Mutex // the reader, and everything down to writeMu
	closed     bool
	readOnly   bool
	stale      bool      // open the file anew, whatever it looks like
	reader     *conn     // nil after a failed reopen, until the next Poll
	broken     error     // why reader is nil
	opened     identity  // of the file that is open, or was last tried
	glimpsed   identity  // of a file that is being written over, at the last Poll
	glimpsedAt time.Time // when it was first seen so
	log        string    // where the file's write-ahead log lies
	wal        identity  // of that log
	seen       int64     // data_version of what the last Poll told
	foldAt     time.Time
	foldBy     time.Time
	shown      shown  // the telemetry that writer's file holds
	lostLog    string // what of the log could not be read when the store was opened

	listed atomic.Pointer[[]string] // for Tables
	digest atomic.Pointer[Digest]   // as last told; nil: not yet

	writeMu sync.Mutex // taken after mu where both are
	writer  *conn      // nil where reader is
	writes  identity   // of the file that writer writes
	replica *replica   // nil until Replicate
}

// Open opens the file, creates it where it is missing, adopts it where it was
// made by hand. One that is not sound is refused, with ErrDamaged. The error is
// a sentence for a person.
func Open(ctx context.Context, path string) (*Store, error) {
	return open(ctx, path, busyTimeout)
}

func open(ctx context.Context, path string, busy time.Duration) (*Store, error) {
	s := &Store{path: path, busy: busy}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.keepLostLog(time.Now())
	err := s.openLocked(ctx, true)
	if err == nil {
		err = s.sound(ctx, s.reader)
	}
	if err != nil {
		s.closeLocked()
		if s.lostLog != "" { // the rest of a fold that was cut: the file alone is neither before nor after it
			err = fmt.Errorf("%w; %s", err, s.lostLog)
		}
		return nil, err
	}
	return s, nil
}

// Path is the name under which the store was opened.
func (s *Store) Path() string { return s.path }

// ReadOnly says that the file can be read but not written.
func (s *Store) ReadOnly() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readOnly
}

// Close closes the file; twice is fine. Afterwards every other method fails
// with fs.ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.closed = true
	s.broken = s.closedError()
	if s.replica != nil {
		_ = s.replica.suspects.close()
	}
	return s.closeLocked()
}

func (s *Store) closedError() error { return fmt.Errorf("%s: %w", s.path, fs.ErrClosed) }

// openLocked opens both connections. Where create is false, a file that has
// no table backends is refused: the routes that are in use are better than none.
func (s *Store) openLocked(ctx context.Context, create bool) (err error) {
	if err := checkPath(s.path); err != nil {
		return err
	}
	before, missing := identify(s.path)
	mode := "rw"
	if create {
		mode = "rwc"
	}
	s.readOnly = false
	s.shown = shown{}
	if s.replica != nil {
		s.replica.attached = false // at the next call, see whose file this is
	}
	if s.writer, err = connect(ctx, uri(s.path, mode), s.busy); err != nil {
		return s.explain("open", err)
	}
	// First what only reads: a file that is refused stays as it is.
	has, err := s.check(ctx, s.writer, create)
	if err != nil {
		return err
	}
	if err := s.useLog(ctx, s.writer); err != nil {
		return s.explain("open", err)
	}
	if err := s.complete(ctx, s.writer, has); err != nil {
		return err
	}
	if s.reader, err = connect(ctx, uri(s.path, "rw"), s.busy); err != nil {
		return s.explain("open", err)
	}
	if err := s.reader.QueryRowContext(ctx, "PRAGMA data_version").Scan(&s.seen); err != nil {
		return s.explain("read", err)
	}
	if s.opened, err = identify(s.path); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	if missing == nil && !before.sameFile(s.opened) {
		return fmt.Errorf("open %s: it was replaced at that moment: try again", s.path)
	}
	s.writes = s.opened
	if s.log, err = logOf(s.path); err != nil {
		return fmt.Errorf("open %s: %w", s.path, err)
	}
	s.wal, _ = identify(s.log)                                  // none where the file is read-only
	s.foldAt, s.foldBy = time.Time{}.Add(1), time.Time{}.Add(1) // at the next Settle
	s.stale, s.broken = false, nil
	return nil
}

// useLog has the file keep a write-ahead log, which lets readers and the one
// writer go on side by side. Its growth is bounded by Settle, not by whoever
// happens to commit the thousandth page.
func (s *Store) useLog(ctx context.Context, c *conn) error {
	deadline := time.NewTimer(s.busy)
	defer deadline.Stop()
	for {
		_, err := c.ExecContext(ctx, "PRAGMA journal_mode = WAL")
		if code := resultCode(err); code == codeReadOnly {
			s.readOnly = true
			return nil
		} else if code != codeBusy {
			if err != nil {
				return err
			}
			break
		}
		// SQLite does not wait by itself here: it wants the file alone.
		select {
		case <-ctx.Done():
			return err
		case <-deadline.C:
			return err
		case <-time.After(s.busy / 200):
		}
	}
	for _, pragma := range []string{"synchronous = FULL", "wal_autocheckpoint = 0"} {
		if _, err := c.ExecContext(ctx, "PRAGMA "+pragma); err != nil {
			return err
		}
	}
	return nil
}

func connect(ctx context.Context, uri string, busy time.Duration) (*conn, error) {
	// The C driver reads the file as it opens it, before wait below.
	// It needs no lock around a connection that database/sql has one user for.
	pool, err := sql.Open(Driver, fmt.Sprintf("%s&_busy_timeout=%d&_mutex=no", uri, busy.Milliseconds()))
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	one, err := pool.Conn(ctx)
	if err != nil {
		return nil, errors.Join(err, pool.Close())
	}
	c := &conn{Conn: one, pool: pool}
	if err := c.wait(ctx, busy); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// wait sets how long the connection waits for the locks of others.
func (c *conn) wait(ctx context.Context, busy time.Duration) error {
	_, err := c.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", busy.Milliseconds()))
	return err
}

func (c *conn) Close() error {
	var errs []error
	for _, st := range c.statements {
		errs = append(errs, st.Close())
	}
	c.statements = nil
	return errors.Join(append(errs, c.Conn.Close(), c.pool.Close())...)
}

func (s *Store) closeLocked() error {
	var errs []error
	for _, c := range []**conn{&s.reader, &s.writer} {
		if *c != nil {
			errs = append(errs, (*c).Close())
			*c = nil
		}
	}
	return errors.Join(errs...)
}

// Image is every row of the operator's tables at one moment, each with its
// values in the order of the table's Columns.
type Image struct {
	Backends       [][]any
	BackendOptions [][]any
	Services       [][]any
	Registrations  [][]any
	PopStatus      [][]any
	PopKeys        [][]any
	WGPops         [][]any
	WGPeers        [][]any
}

// Read reads the operator's tables in one transaction.
func (s *Store) Read(ctx context.Context) (*Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reader == nil {
		return nil, s.broken
	}
	img, err := s.readLocked(ctx)
	if err != nil {
		s.stale = s.stale || unusable(err)
		return nil, s.explain("read", err)
	}
	return img, nil
}

func (s *Store) readLocked(ctx context.Context) (_ *Image, err error) {
	defer func() {
		// Also where BEGIN failed: a cancelled one may have begun.
		_, _ = s.reader.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	}()
	if _, err := s.reader.ExecContext(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	var img Image
	for _, read := range []struct {
		table Table
		rows  *[][]any
	}{{Backends, &img.Backends}, {BackendOptions, &img.BackendOptions}, {Services, &img.Services}, {Registrations, &img.Registrations}, {PopStatus, &img.PopStatus},
		{PopKeys, &img.PopKeys}, {WGPops, &img.WGPops}, {WGPeers, &img.WGPeers}} {
		if *read.rows, err = s.rowsLocked(ctx, read.table); err != nil {
			return nil, err
		}
	}
	return &img, nil
}

func (s *Store) rowsLocked(ctx context.Context, t Table) ([][]any, error) {
	query := t.query()
	if s.readOnly && t.Name != Backends.Name {
		// A read-only file made by hand has only the seed's table, one of an
		// earlier edgeproxy not all columns.
		cols, err := columnsOf(ctx, s.reader, t.Name)
		if err != nil || len(cols) == 0 {
			return nil, err
		}
		for _, col := range t.added {
			if !has(cols, col.name) {
				query = strings.Replace(query, "+"+col.name, "NULL", 1)
			}
		}
	}
	rows, err := s.reader.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]any
	for rows.Next() {
		progress.Step(ctx)
		row, err := scan(rows, len(t.Columns))
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

func scan(rows *sql.Rows, n int) ([]any, error) {
	row := make([]any, n)
	to := make([]any, n)
	for i := range row {
		to[i] = &row[i]
	}
	return row, rows.Scan(to...)
}

// logOf is where SQLite keeps the write-ahead log of the file: beside the file
// itself, not beside a symbolic link to it.
func logOf(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	return real + "-wal", err
}
