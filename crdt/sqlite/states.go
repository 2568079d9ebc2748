package sqlite

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Digest is what two POPs that agree have alike, and how much there is of it.
type Digest struct {
	Sum         crdt.Sum // over the values of the live rows
	Rows        int      // live
	Tombstones  int
	Quarantined int // rows that wait in the quarantine
}

// Digest costs nothing to ask for: it is kept as rows change. It waits for nobody
// who writes, or cannot.
func (s *Store) Digest(ctx context.Context) (d Digest, err error) {
	if known := s.digest.Load(); known != nil {
		return *known, nil
	}
	err = s.replicating(ctx, func(p *replica) error {
		d = p.digest()
		return nil
	})
	return d, err
}

func (p *replica) digest() Digest {
	return Digest{Sum: p.sum, Rows: p.rows, Tombstones: p.dead, Quarantined: p.held}
}

// tellLocked is for Digest, after anything that may have changed it. What is to be
// read anew is not told.
func (s *Store) tellLocked(p *replica) {
	if !p.attached {
		s.digest.Store(nil)
		return
	}
	if now, known := p.digest(), s.digest.Load(); known == nil || *known != now {
		s.digest.Store(&now)
	}
}

// scanRows is how many records are read before others get their turn.
const scanRows = 2000

// scanAll calls yield for all records, some at a time, so that writes go on in
// between. yield must not keep the store waiting.
func (s *Store) scanAll(ctx context.Context, yield func(crdt.Record, error)) error {
	var table, n int64
	pk := []byte{}
	for first := true; first || n == scanRows; first = false {
		err := s.replicating(ctx, func(p *replica) error {
			n = 0
			err := s.writer.each(ctx, func(rows *sql.Rows) error {
				var blob sql.RawBytes
				if err := rows.Scan(&table, &pk, &blob); err != nil {
					return err
				}
				n++
				yield(p.decode(p.key(table, pk), blob))
				return nil
			}, "SELECT tbl, pk, rec FROM crdt_rows WHERE (tbl, pk) > (?, ?) ORDER BY tbl, pk LIMIT ?", table, pk, scanRows)
			return s.explain("read", err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// States is the sum of crdt.Record.State over the rows of each bucket, without
// tombstones that the horizon covers. Nothing is read where nothing changed
// since the last time. Writes in the meantime may leave a bucket's sum that
// never was: whoever compares looks at its rows then, and finds them alike.
func (s *Store) States(ctx context.Context, horizon crdt.Heads) ([]crdt.Sum, error) {
	var sums []crdt.Sum
	var version int64
	err := s.replicating(ctx, func(p *replica) error {
		version = p.version
		if p.states != nil && p.statesOf == version && maps.Equal(p.statesAbove, horizon) {
			sums = slices.Clone(p.states)
		}
		return nil
	})
	if err != nil || sums != nil {
		return sums, err
	}
	sums = make([]crdt.Sum, crdt.Buckets)
	err = s.scanAll(ctx, func(rec crdt.Record, damaged error) {
		if damaged != nil || !rec.Live() && horizon.Covered(rec.Dead) {
			return
		}
		i := rec.Bucket()
		sums[i] = sums[i].Plus(rec.State())
	})
	if err != nil {
		return nil, err
	}
	return sums, s.replicating(ctx, func(p *replica) error {
		if p.version == version {
			p.states, p.statesOf, p.statesAbove = slices.Clone(sums), version, horizon.Clone()
		}
		return nil
	})
}

// Bucket is the rows of some buckets, deleted ones too.
func (s *Store) Bucket(ctx context.Context, buckets []int) (records []crdt.Record, err error) {
	want := make(map[int]bool, len(buckets))
	for _, b := range buckets {
		want[b] = true
	}
	err = s.scanAll(ctx, func(rec crdt.Record, damaged error) {
		if damaged == nil && want[rec.Bucket()] {
			records = append(records, rec)
		}
	})
	return records, err
}
