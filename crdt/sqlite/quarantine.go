package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Held is what waits in the quarantine for one row: columns or a delete with
// stamps too far ahead of mesh time. The row stays writable meanwhile.
type Held struct {
	Key    crdt.Key
	Time   crdt.Time // the latest of the stamps
	Ahead  time.Duration
	From   string // the peer that sent it last
	Reason string // a sentence that names the origin
}

// heldRecord is a row of crdt_quarantine.
type heldRecord struct {
	rec  crdt.Record
	peer string
}

// hold puts records into the quarantine, each with what waits there already.
func (b *batch) hold(records []crdt.Record, peer string) error {
	for _, rec := range records {
		tbl, err := b.name(rec.Table)
		if err != nil {
			return err
		}
		have, err := b.heldRecords("WHERE tbl = ? AND pk = ?", tbl, []byte(rec.PK))
		if err != nil {
			return err
		}
		if len(have) > 0 {
			merged := crdt.Merge(have[0].rec, rec)
			if merged.Equal(have[0].rec) || len(merged.Cells) > maxColumns {
				continue
			}
			if err := b.unhold(have[0].rec); err != nil {
				return err
			}
			rec = merged
		}
		stamps := stampsOf(rec, nil)
		var owners []any
		for _, s := range stamps {
			id, err := b.origin(s.Origin)
			if err != nil {
				return err
			}
			owners = append(owners, id, int64(s.Seq), tbl, []byte(rec.PK), 1)
			b.heldUntil = min(b.heldUntil, s.Time)
		}
		for _, c := range rec.Cells {
			if _, err := b.name(c.Column); err != nil {
				return err
			}
		}
		if err := b.own(owners); err != nil {
			return err
		}
		if err := b.c.exec(b.ctx, "INSERT INTO crdt_quarantine (tbl, pk, rec, peer) VALUES (?, ?, ?, ?)", tbl, []byte(rec.PK), b.encode(rec, stamps), peer); err != nil {
			return err
		}
		b.held++
	}
	return nil
}

// unhold takes a record out of the quarantine.
func (b *batch) unhold(rec crdt.Record) error {
	tbl := b.ids[rec.Table]
	var owners []any
	for _, s := range stampsOf(rec, nil) {
		owners = append(owners, b.originIDs[s.Origin], int64(s.Seq), tbl, []byte(rec.PK), 1)
	}
	if err := b.disown(owners); err != nil {
		return err
	}
	b.held--
	return b.c.exec(b.ctx, "DELETE FROM crdt_quarantine WHERE tbl = ? AND pk = ?", tbl, []byte(rec.PK))
}

// waits says whether something of the row is in the quarantine.
func (b *batch) waits(key crdt.Key) (bool, error) {
	if b.held == 0 {
		return false, nil
	}
	var n int64
	return b.c.one(b.ctx, []any{&n}, "SELECT 1 FROM crdt_quarantine WHERE tbl = ? AND pk = ?", b.ids[key.Table], []byte(key.PK))
}

func (b *batch) heldRecords(condition string, args ...any) ([]heldRecord, error) {
	return b.readHeld(b.ctx, b.c, condition, args...)
}

func (p *replica) readHeld(ctx context.Context, c *conn, condition string, args ...any) (all []heldRecord, err error) {
	err = c.each(ctx, func(rows *sql.Rows) error {
		var tbl int64
		var pk, blob sql.RawBytes
		var h heldRecord
		if err := rows.Scan(&tbl, &pk, &blob, &h.peer); err != nil {
			return err
		}
		var err error
		if h.rec, err = p.decode(p.key(tbl, pk), blob); err == nil {
			all = append(all, h)
		}
		return nil
	}, "SELECT tbl, pk, rec, peer FROM crdt_quarantine "+condition, args...)
	return all, err
}

func (p *replica) loadHeld(ctx context.Context, c *conn) error {
	held, err := p.readHeld(ctx, c, "")
	p.held, p.heldUntil = len(held), math.MaxUint64
	for _, h := range held {
		for s := range h.rec.Owners {
			p.heldUntil = min(p.heldUntil, s.Time)
		}
	}
	return err
}

// Release merges what waits in the quarantine and is not too far ahead any
// more. It costs nothing while there is none: call it twice a second.
func (s *Store) Release(ctx context.Context) (a crdt.Applied, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		if p.held == 0 || p.heldUntil > p.limit() {
			return nil
		}
		return s.releaseLocked(ctx, p.limit(), nil, true, &a)
	})
	return a, err
}

// ReleaseNow merges rows of the quarantine whatever their stamps. What is
// written to such a row later is stamped after them, and so is held by peers.
func (s *Store) ReleaseNow(ctx context.Context, keys []crdt.Key) (a crdt.Applied, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		return s.releaseLocked(ctx, math.MaxUint64, keys, true, &a)
	})
	return a, err
}

// Drop forgets rows of the quarantine, and says how many were there. A peer
// that still holds them may send them again, at the latest by a repair.
func (s *Store) Drop(ctx context.Context, keys []crdt.Key) (dropped int, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		before := p.held
		err := s.releaseLocked(ctx, math.MaxUint64, keys, false, &crdt.Applied{})
		dropped = before - p.held
		return err
	})
	return dropped, err
}

// releaseLocked takes rows out of the quarantine, all of them where keys is
// nil, as far as they are stamped up to the limit.
func (s *Store) releaseLocked(ctx context.Context, limit crdt.Time, keys []crdt.Key, merge bool, a *crdt.Applied) error {
	if err := s.sealAllLocked(ctx); err != nil {
		return err
	}
	var done crdt.Applied
	err := s.commitLocked(ctx, true, func(b *batch) error {
		if err := b.sealPending(); err != nil { // somebody wrote in between
			return err
		}
		all, err := b.heldRecords("")
		if err != nil {
			return err
		}
		var out []crdt.Record
		for _, h := range all {
			if keys != nil && !slices.Contains(keys, h.rec.Key) {
				continue
			}
			now, ahead := split(h.rec, limit)
			if now.Key == (crdt.Key{}) {
				continue
			}
			if err := b.unhold(h.rec); err != nil {
				return err
			}
			if ahead.Key != (crdt.Key{}) {
				if err := b.hold([]crdt.Record{ahead}, h.peer); err != nil {
					return err
				}
			}
			out = append(out, now)
		}
		if !merge {
			return nil
		}
		return b.merge(out, merging{limit: limit, within: b.limit(), release: true}, &done)
	})
	if err != nil {
		return err
	}
	a.Changed, a.Conflicts, a.Refused = done.Changed, done.Conflicts, done.Refused
	return s.explain("read", s.replica.loadHeld(ctx, s.writer))
}

// Quarantine lists what waits, in the order of keys.
func (s *Store) Quarantine(ctx context.Context) (list []Held, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		if p.held == 0 {
			return nil
		}
		all, err := p.readHeld(ctx, s.writer, "")
		now := p.Now()
		for _, h := range all {
			top, _ := newest(h.rec)
			held := Held{Key: h.rec.Key, Time: top.Time, From: h.peer}
			held.Ahead = time.Duration(min(top.Time.Milli()-now, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
			held.Reason = fmt.Sprintf("stamped %v ahead of mesh time by %s: check its clock", held.Ahead, top.Origin)
			list = append(list, held)
		}
		slices.SortFunc(list, func(a, b Held) int { return a.Key.Compare(b.Key) })
		return s.explain("read", err)
	})
	return list, err
}
