package sqlite

import (
	"context"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// deadAndWhole are deleted rows of which nothing waits in the quarantine, which
// would bring them back.
const deadAndWhole = "WHERE dead AND NOT EXISTS (SELECT 1 FROM crdt_quarantine q WHERE q.tbl = crdt_rows.tbl AND q.pk = crdt_rows.pk)"

// Collect forgets the deletes that every member has confirmed seeing, with all
// that the deleted rows consisted of, and raises the horizon over them.
func (s *Store) Collect(ctx context.Context, confirmed crdt.Heads) (collected int, err error) {
	for n := -1; n != 0; {
		err = s.replicating(ctx, func(p *replica) error {
			n = 0
			if p.dead == 0 {
				return nil
			}
			var gone []crdt.Record
			err := p.scan(ctx, s.writer, deadAndWhole, func(rec crdt.Record, err error) error {
				if err == nil && covered(confirmed, rec) && len(gone) < scanRows {
					gone = append(gone, rec)
				}
				return nil
			})
			if err != nil || len(gone) == 0 {
				return s.explain("read", err)
			}
			if err := s.forgetLocked(ctx, gone, true, func(rec crdt.Record) bool { return !rec.Live() && covered(confirmed, rec) }, &n); err != nil {
				return err
			}
			collected += n
			return nil
		})
		if err != nil {
			return collected, err
		}
	}
	return collected, nil
}

// Purge forgets, without a trace, the rows that a peer which gave us all it
// has does not have, although its heads cover everything they consist of. has
// must not call the store.
func (s *Store) Purge(ctx context.Context, peer crdt.Heads, has func(crdt.Key) bool) (purged int, err error) {
	var gone []crdt.Record
	err = s.scanAll(ctx, func(rec crdt.Record, damaged error) {
		if damaged == nil && covered(peer, rec) && !has(rec.Key) {
			gone = append(gone, rec)
		}
	})
	for len(gone) > 0 && err == nil {
		some := gone[:min(len(gone), scanRows)]
		gone = gone[len(some):]
		err = s.replicating(ctx, func(p *replica) error {
			if err := s.sealAllLocked(ctx); err != nil {
				return err
			}
			n := 0
			err := s.forgetLocked(ctx, some, false, func(rec crdt.Record) bool { return covered(peer, rec) }, &n)
			purged += n
			return err
		})
	}
	return purged, err
}

// covered says whether all that the row consists of is known under the heads.
func covered(heads crdt.Heads, rec crdt.Record) bool {
	for s := range rec.Owners {
		if !heads.Covered(s) {
			return false
		}
	}
	return true
}

// forgetLocked removes rows and their records, where they are still as still
// says. A row with captured changes stays, and one of which something waits in
// the quarantine.
func (s *Store) forgetLocked(ctx context.Context, gone []crdt.Record, raise bool, still func(crdt.Record) bool, n *int) error {
	return s.commitLocked(ctx, false, func(b *batch) error {
		*n = 0
		if yes, err := pending(b.ctx, b.c); err != nil || yes {
			return err // at the next call
		}
		keys := make([]crdt.Key, len(gone))
		for i, rec := range gone {
			keys[i] = rec.Key
		}
		now, err := b.get(keys)
		if err != nil {
			return err
		}
		for key, rec := range now {
			if !still(rec) {
				continue
			}
			waits, err := b.waits(key)
			if err != nil {
				return err
			}
			if waits {
				continue
			}
			*n++
			b.put(change{old: rec, now: crdt.Record{Key: key}, forget: true, show: rec.Live()})
			if raise && rec.Dead.Seq > b.horizon[rec.Dead.Origin] {
				b.horizon[rec.Dead.Origin] = rec.Dead.Seq
				b.moved[rec.Dead.Origin] = true
			}
		}
		return nil
	})
}
