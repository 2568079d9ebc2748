package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Findings is what Check found and did about it.
type Findings struct {
	Restored         []crdt.Key     // rows that differed although every change is captured: damage, set right
	Damaged          []crdt.Key     // records that cannot be read; a peer's repair brings them back
	Unshown          []crdt.Key     // rows that the table's own constraints refuse; their records are kept and passed on
	Unfit            []crdt.Refusal // rows that no peer would take, which stay local
	TriggersRestored bool           // somebody dropped or changed them
	Edited           int            // rows that differed while they were gone: local writes now
}

// Check compares the operator's tables with the records. Where the triggers
// are gone or are not ours, it puts them back, and what differs is a local
// write; where they are in place, it is damage, and the row is set to what its
// record says. A record keeps the row's values under a checksum for that.
func (s *Store) Check(ctx context.Context) (f Findings, err error) {
	if err := s.sealAll(ctx); err != nil {
		return f, err
	}
	var list []*tracked
	err = s.replicating(ctx, func(p *replica) error {
		if err := s.sealAllLocked(ctx); err != nil {
			return err
		}
		begun, seq := Begun{}, p.seq()
		_, err := s.intactLocked(ctx, p, &begun)
		if err != nil {
			return err
		}
		if err := s.sealAllLocked(ctx); err != nil {
			return err
		}
		f.TriggersRestored, f.Edited, list = begun.TriggersRestored, int(p.seq()-seq), p.tables
		f.Unfit, err = p.unfitRows(ctx, s.writer)
		return s.explain("check", err)
	})
	for _, t := range list {
		if err == nil {
			err = s.checkTable(ctx, t, &f)
		}
	}
	if err == nil {
		err = s.scanDamaged(ctx, &f)
	}
	return f, err
}

// intact says whether the triggers in the file are those of the tables as they are.
func (p *replica) intact(ctx context.Context, c *conn) (bool, error) {
	for _, table := range tables {
		t, err := track(ctx, c, table)
		if err != nil {
			return false, err
		}
		have, err := t.installed(ctx, c)
		if err != nil || !maps.Equal(have, t.triggers()) {
			return false, err
		}
	}
	return true, nil
}

func (p *replica) unfitRows(ctx context.Context, c *conn) (unfit []crdt.Refusal, err error) {
	err = c.each(ctx, func(rows *sql.Rows) error {
		var r crdt.Refusal
		var pk []byte
		var reason string
		if err := rows.Scan(&r.Key.Table, &pk, &reason); err != nil {
			return err
		}
		r.Key.PK, r.Err = string(pk), errors.New(reason)
		unfit = append(unfit, r)
		return nil
	}, "SELECT tbl, pk, reason FROM crdt_unfit")
	return unfit, err
}

// checkRows is how many rows are compared before others get their turn.
const checkRows = 500

func (s *Store) checkTable(ctx context.Context, t *tracked, f *Findings) error {
	var last *crdt.Value
	after := ""
	rows := func(b *batch) (diffs []difference, next func(), n int, err error) {
		diffs, key, n, err := b.compareRows(t, last, nil, checkRows)
		return diffs, func() { last = key }, n, err
	}
	records := func(b *batch) (diffs []difference, next func(), n int, err error) {
		if b.ids[t.Name] == 0 {
			return nil, func() {}, 0, nil
		}
		diffs, pk, n, err := b.missing(t, after, checkRows)
		return diffs, func() { after = pk }, n, err
	}
	for _, run := range []func(*batch) ([]difference, func(), int, error){rows, records} {
		for n := checkRows; n == checkRows; {
			err := s.replicating(ctx, func(p *replica) (err error) {
				n, err = s.checkRun(ctx, run, f)
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// checkRun compares a run of rows, reading only, and writes where it must.
func (s *Store) checkRun(ctx context.Context, run func(*batch) ([]difference, func(), int, error), f *Findings) (n int, err error) {
	if err := s.sealAllLocked(ctx); err != nil {
		return 0, err
	}
	b := &batch{replica: s.replica, ctx: context.WithoutCancel(ctx), c: s.writer}
	diffs, next, n, err := run(b)
	if err != nil {
		return 0, s.explain("check", err)
	}
	if len(diffs) > 0 {
		err := s.commitLocked(ctx, true, func(b *batch) error {
			if err := b.sealPending(); err != nil {
				return err
			}
			if diffs, next, n, err = run(b); err != nil {
				return err
			}
			if err := b.repair(diffs, f); err != nil {
				return err
			}
			left, _, _, err := run(b)
			for _, d := range left {
				if d.mask != -1 && !b.damaged[d.key] {
					f.Unshown = append(f.Unshown, d.key)
					f.Restored = slices.DeleteFunc(f.Restored, func(k crdt.Key) bool { return k == d.key })
				}
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	next()
	return n, nil
}

// repair sets rows to what their records say. A row without a record is a
// local write, however it came there.
func (b *batch) repair(diffs []difference, f *Findings) error {
	for _, d := range diffs {
		var n int64
		unfit, err := b.c.one(b.ctx, []any{&n}, "SELECT 1 FROM crdt_unfit WHERE tbl = ? AND pk = ?", d.key.Table, []byte(d.key.PK))
		switch {
		case err != nil:
		case unfit, b.damaged[d.key]:
		case d.rec.Key == crdt.Key{}:
			err = b.settle(d, false, &Begun{})
			f.Edited++
		default:
			err = b.restore(d)
			f.Restored = append(f.Restored, d.key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) scanDamaged(ctx context.Context, f *Findings) error {
	return s.scanAll(ctx, func(rec crdt.Record, err error) {
		if err != nil {
			f.Damaged = append(f.Damaged, rec.Key)
		}
	})
}
