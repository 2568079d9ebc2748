package sqlite

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestValuesComeBackAsTheyAre: judging them is not this package's job.
func TestValuesComeBackAsTheyAre(t *testing.T) {
	path := newPath(t)
	raw(t, path, strings.Replace(seedTable, "healthy INTEGER", "healthy BOOLEAN", 1))
	s := openStore(t, path)
	megabyte := strings.Repeat("é", 1<<19)
	values := []struct {
		literal string
		want    any
	}{
		{"NULL", nil},
		{"0", int64(0)},
		{"-1", int64(-1)},
		{"9223372036854775807", int64(9223372036854775807)},
		{"-9223372036854775808", int64(-9223372036854775808)},
		{"1.5", 1.5},
		{"-2.5e300", -2.5e300},
		{"'8o'", "8o"},
		{"''", ""},
		{"'a' || char(0) || 'b'", "a\x00b"},
		{"CAST(x'fffe61' AS TEXT)", "\xff\xfea"},
		{"x'00ff'", []byte{0, 0xff}},
		{"x''", []byte{}},
		{"'2026-11-23 01:02:03'", "2026-11-23 01:02:03"},
		{"'" + megabyte + "'", megabyte},
	}
	for i, v := range values {
		raw(t, path, fmt.Sprintf("INSERT INTO backends (rowid, id, healthy, port) VALUES (%d, 'id-%d', %s, %s)", i+1, i, v.literal, v.literal))
	}
	img, err := s.Read(t.Context())
	if err != nil || len(img.Backends) != len(values) {
		t.Fatalf("%d rows, %v", len(img.Backends), err)
	}
	byID := map[any][]any{}
	for _, row := range img.Backends {
		byID[row[0]] = row
	}
	for i, v := range values {
		row := byID[fmt.Sprintf("id-%d", i)]
		if len(row) != len(Backends.Columns) {
			t.Errorf("%.40s: no such row", v.literal)
			continue
		}
		for _, got := range []any{row[4], row[5]} { // INTEGER and BOOLEAN
			if b, ok := got.([]byte); ok && len(b) == 0 {
				got = []byte{} // the Go driver says nil
			}
			if !reflect.DeepEqual(got, v.want) {
				t.Errorf("%.40s: %.60v (%T), want %.60v (%T)", v.literal, got, got, v.want, v.want)
			}
		}
	}
}

func TestIDsComeBackAsTheyAre(t *testing.T) {
	s := openStore(t, newPath(t))
	raw(t, s.path, "INSERT INTO backends (id) VALUES (NULL), (NULL), (7), (''), (x'01ff'), (CAST(x'ff' AS TEXT)), ('2026-11-23')")
	img, err := s.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for _, row := range img.Backends {
		got = append(got, row[0])
	}
	want := []any{nil, nil, "7", "", []byte{1, 0xff}, "\xff", "2026-11-23"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("ids %q, want %q", got, want)
	}
}

func TestPutGetDelete(t *testing.T) {
	s := openStore(t, newPath(t))
	big := strings.Repeat("x", 1<<20)
	for id, app := range map[string]any{"": "empty id", "a'; DROP TABLE backends; --": nil, "\xff": "\xfe", big: big, "a\x00b": "nul"} {
		err := s.Write(t.Context(), func(tx *Tx) error {
			if _, found, err := tx.Get(Backends, id); found || err != nil {
				t.Errorf("%.20q before Put: %v, %v", id, found, err)
			}
			if err := tx.Put(Backends, id, map[string]any{"app": app, "port": 80, "weight": 2}); err != nil {
				return err
			}
			if err := tx.Put(Backends, id, map[string]any{"weight": 3, "region": nil}); err != nil {
				return err
			}
			row, found, err := tx.Get(Backends, id)
			want := []any{id, app, nil, nil, int64(80), nil, int64(3), nil, nil, int64(0)}
			if !found || err != nil || !reflect.DeepEqual(row, want) {
				t.Errorf("%.20q: %.80v, %v, %v", id, row, found, err)
			}
			return tx.Put(BackendOptions, id, map[string]any{"draining": true})
		})
		if err != nil {
			t.Errorf("%.20q: %v", id, err)
		}
	}
	img, err := s.Read(t.Context())
	if err != nil || len(img.Backends) != 5 || len(img.BackendOptions) != 5 {
		t.Fatalf("%d backends and %d options, %v; want 5 and 5", len(img.Backends), len(img.BackendOptions), err)
	}
	for _, row := range img.BackendOptions {
		if !reflect.DeepEqual(row[1:], []any{nil, int64(1), nil, nil}) {
			t.Errorf("options %.80v", row)
		}
		err := s.Write(t.Context(), func(tx *Tx) error {
			for _, want := range []bool{true, false} {
				if found, err := tx.Delete(Backends, row[0].(string)); found != want || err != nil {
					t.Errorf("delete: %v, %v; want %v", found, err, want)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	wantIDs(t, s)
}

// unchanged checks that a Write that failed left nothing behind, neither rows
// nor an open transaction.
func unchanged(t *testing.T, s *Store, want ...string) {
	t.Helper()
	wantIDs(t, s, want...)
	elsewhere(t, s.path, "BEGIN IMMEDIATE; ROLLBACK") // a lock left behind would fail it at once
	put(t, s, "afterwards")
	elsewhere(t, s.path, "DELETE FROM backends WHERE id = 'afterwards'")
	wantIDs(t, s, want...)
}

func TestWriteRollsBack(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	for name, c := range map[string]struct {
		fn   func(tx *Tx) error
		want func(error) bool
	}{
		"error of the function": {func(tx *Tx) error { return errors.Join(tx.Put(Backends, "b", nil), mine) }, func(err error) bool { return errors.Is(err, mine) }},
		"unknown column": {func(tx *Tx) error {
			return errors.Join(tx.Put(Backends, "b", nil), tx.Put(Backends, "c", map[string]any{"colour": 1}))
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), `"colour"`) }},
		"constraint": {func(tx *Tx) error {
			return errors.Join(tx.Put(Backends, "b", nil), tx.Put(BackendOptions, "refused", nil))
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "not that one") }},
		"failure that the function overlooks": {func(tx *Tx) error {
			_ = tx.Put(Backends, "b", nil)
			_ = tx.Put(BackendOptions, "refused", nil)
			_ = tx.Put(Backends, "c", nil)
			return nil
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "not that one") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, newPath(t))
			put(t, s, "a")
			raw(t, s.path, `CREATE TRIGGER refuse BEFORE INSERT ON backend_options WHEN NEW.id = 'refused'
				BEGIN SELECT RAISE(ROLLBACK, 'not that one'); END`) // ends the whole transaction
			noticed(t, s)
			reader := s.reader
			if err := s.Write(t.Context(), c.fn); !c.want(err) {
				t.Errorf("write: %v", err)
			}
			wantPoll(t, s, false)
			if s.reader != reader {
				t.Error("the file was opened anew for a refusal of the caller's")
			}
			unchanged(t, s, "a")
		})
	}
}

func TestWriteSurvivesAPanic(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, "a")
	func() {
		defer func() {
			if recover() != "mine" {
				t.Error("the panic was swallowed")
			}
		}()
		_ = s.Write(t.Context(), func(tx *Tx) error {
			if err := tx.Put(Backends, "b", nil); err != nil {
				t.Error(err)
			}
			panic("mine")
		})
	}()
	unchanged(t, s, "a")
}

// endless is a statement that runs until it is interrupted.
const endless = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) INSERT INTO backends (id) SELECT 'n' || (i % 10) FROM n WHERE true ON CONFLICT (id) DO NOTHING`

// TestWriteCancelled at every point of a transaction.
func TestWriteCancelled(t *testing.T) {
	t.Parallel()
	for name, fn := range map[string]func(cancel func(), tx *Tx) error{
		"before the first statement": func(cancel func(), tx *Tx) error { cancel(); return tx.Put(Backends, "b", nil) },
		"between statements": func(cancel func(), tx *Tx) error {
			err := tx.Put(Backends, "b", nil)
			cancel()
			return errors.Join(err, tx.Put(Backends, "c", nil), tx.Put(Backends, "d", nil))
		},
		"within a statement": func(cancel func(), tx *Tx) error {
			err := tx.Put(Backends, "b", nil)
			time.AfterFunc(20*time.Millisecond, cancel)
			return errors.Join(err, tx.do(func() error { _, err := tx.conn.ExecContext(tx.ctx, endless); return err }))
		},
		"within a statement, overlooked": func(cancel func(), tx *Tx) error {
			time.AfterFunc(20*time.Millisecond, cancel)
			_ = tx.do(func() error { _, err := tx.conn.ExecContext(tx.ctx, endless); return err })
			_ = tx.Put(Backends, "c", nil)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, newPath(t))
			put(t, s, "a")
			for range 5 {
				ctx, cancel := context.WithCancel(t.Context())
				err := s.Write(ctx, func(tx *Tx) error { return fn(cancel, tx) })
				cancel()
				if err == nil { // the statement came before the cancellation
					wantIDs(t, s, "a", "b", "c", "d")
					t.Fatal("write: no error")
				}
				if !errors.Is(err, context.Canceled) {
					t.Errorf("write: %v", err)
				}
				unchanged(t, s, "a")
			}
		})
	}
	t.Run("before it began", func(t *testing.T) {
		s := openStore(t, newPath(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Write(ctx, func(tx *Tx) error { return tx.Put(Backends, "b", nil) }); !errors.Is(err, context.Canceled) {
			t.Errorf("write: %v", err)
		}
		unchanged(t, s)
	})
	t.Run("at the end", func(t *testing.T) {
		// What fn finished is either there and acknowledged, or neither.
		s := openStore(t, newPath(t))
		for i := range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			id := fmt.Sprint("row ", i)
			err := s.Write(ctx, func(tx *Tx) error {
				defer func() { go cancel() }()
				return tx.Put(Backends, id, nil)
			})
			cancel()
			img, errRead := s.Read(t.Context())
			if errRead != nil {
				t.Fatal(errRead)
			}
			written := false
			for _, row := range img.Backends {
				written = written || row[0] == id
			}
			if written != (err == nil) {
				t.Fatalf("written %v, but the error is %v", written, err)
			}
		}
	})
}

// TestReadAndPollCancelled leave the store usable, and a change untold is told later.
func TestReadAndPollCancelled(t *testing.T) {
	s := openStore(t, newPath(t))
	put(t, s, many("a", 3000)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		if _, err := s.Poll(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("poll: %v", err)
		}
		if _, err := s.Read(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v", err)
		}
	}
	wantPoll(t, s, true)
	for i := range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*500*time.Microsecond)
		img, err := s.Read(ctx)
		cancel()
		if err == nil && len(img.Backends) != 3000 {
			t.Fatalf("read %d rows of 3000", len(img.Backends))
		} else if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("read: %v", err)
		}
		wantPoll(t, s, false)
	}
	if got := len(ids(t, s)); got != 3000 {
		t.Errorf("read %d rows of 3000", got)
	}
	now := time.Unix(1_000_000, 0)
	if err := s.Settle(ctx, false, now); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("settle: %v", err)
	}
	settle(t, s)
	wantPoll(t, s, false)
}

// TestEverythingAtOnce: no race, no deadlock, no half of a transaction seen,
// and every row that was acknowledged is there.
func TestEverythingAtOnce(t *testing.T) {
	t.Parallel()
	s, err := open(t.Context(), newPath(t), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const writers, each = 4, 40
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var writing, looking sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				err := s.Write(ctx, func(tx *Tx) error {
					id := fmt.Sprintf("%d-%d", w, i)
					if err := tx.Put(Backends, "a"+id, nil); err != nil {
						return err
					}
					return tx.Put(Backends, "b"+id, nil)
				})
				if err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	loop := func(what func(i int) error) {
		looking.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := what(i); err != nil && ctx.Err() == nil {
					t.Errorf("%v", err)
				}
				runtime.Gosched()
			}
		})
	}
	begin := time.Unix(1_000_000, 0)
	loop(func(i int) error { _, err := s.Poll(ctx); return err })
	loop(func(i int) error { return s.Settle(ctx, i%3 == 0, begin.Add(time.Duration(i)*time.Second)) })
	loop(func(i int) error {
		img, err := s.Read(ctx)
		if err == nil && len(img.Backends)%2 != 0 {
			return fmt.Errorf("read %d rows: half of a transaction", len(img.Backends))
		}
		return err
	})
	loop(func(i int) error {
		if s.ReadOnly() {
			return errors.New("read-only")
		}
		if i%50 == 0 {
			s.Reopen()
		}
		return nil
	})
	writing.Wait()
	stop()
	looking.Wait()
	if _, err := s.Poll(t.Context()); err != nil { // a reopen may have been cancelled
		t.Fatal(err)
	}
	if got := len(ids(t, s)); got != 2*writers*each {
		t.Errorf("%d rows, want %d", got, 2*writers*each)
	}
	sound(t, s.path)
}
