package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Heads is what the POP knows of each origin, of itself the number of its
// latest sealed write.
func (s *Store) Heads(ctx context.Context) (heads crdt.Heads, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		heads = p.heads.Clone()
		return nil
	})
	return heads, err
}

// Horizon is up to which of each origin's writes deletes were forgotten.
func (s *Store) Horizon(ctx context.Context) (horizon crdt.Heads, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		horizon = p.horizon.Clone()
		return nil
	})
	return horizon, err
}

// Since is the next part of what a peer with these heads lacks, about limit
// bytes of it, and whether there is more once it has that.
func (s *Store) Since(ctx context.Context, have crdt.Heads, limit int) (d crdt.Delta, more bool, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		if err := s.correctLocked(); err != nil {
			return err
		}
		part := &part{limit: limit, sent: map[sentKey]bool{}}
		missing := have.Missing(p.heads)
		// Of whom little is missing first: who writes without end, or has written
		// for a day, keeps nobody else's row waiting.
		slices.SortStableFunc(missing, func(a, b crdt.Range) int { return cmp.Compare(a.To-a.From, b.To-b.From) })
		for _, lack := range missing {
			if part.size >= limit && len(part.delta.Ranges) > 0 {
				part.more = true
				break
			}
			if err := part.add(ctx, s.writer, p, lack); err != nil {
				return s.explain("read", err)
			}
		}
		d, more = part.delta, part.more
		return nil
	})
	return d, more, err
}

// part is a delta that grows up to a limit.
type part struct {
	delta crdt.Delta
	size  int
	limit int
	more  bool
	sent  map[sentKey]bool
}

type sentKey struct {
	crdt.Key
	held bool
}

var errEnough = errors.New("enough")

// owned finds the records that still have one of an origin's writes, in their
// order: by their newest stamp, by an older one, and in the quarantine.
const owned = `SELECT seq, tbl, pk, rec, 0 FROM crdt_rows WHERE origin = ?1 AND seq > ?2 AND seq <= ?3
	UNION ALL SELECT o.seq, o.tbl, o.pk, r.rec, 0 FROM crdt_owners o CROSS JOIN crdt_rows r ON r.tbl = o.tbl AND r.pk = o.pk
		WHERE o.origin = ?1 AND o.seq > ?2 AND o.seq <= ?3 AND o.held = 0
	UNION ALL SELECT o.seq, o.tbl, o.pk, q.rec, 1 FROM crdt_owners o CROSS JOIN crdt_quarantine q ON q.tbl = o.tbl AND q.pk = o.pk
		WHERE o.origin = ?1 AND o.seq > ?2 AND o.seq <= ?3 AND o.held = 1
	ORDER BY 1`

// add adds the records of one origin's range, and the range as far as it got.
func (g *part) add(ctx context.Context, c *conn, p *replica, lack crdt.Range) error {
	id, last := p.originIDs[lack.Origin], lack.From
	err := c.each(ctx, func(rows *sql.Rows) error {
		var seq, tbl int64
		var pk, blob sql.RawBytes
		var held bool
		if err := rows.Scan(&seq, &tbl, &pk, &blob, &held); err != nil {
			return err
		}
		if g.size >= g.limit && uint64(seq) != last && len(g.delta.Records) > 0 {
			lack.To, g.more = last, true
			return errEnough
		}
		last = uint64(seq)
		key := sentKey{p.key(tbl, pk), held}
		if g.sent[key] {
			return nil
		}
		rec, err := p.decode(key.Key, blob)
		if err != nil {
			// Damaged: Check says so, and it comes back from a peer. By name and
			// with nothing in it, which they refuse and do not take for a delete.
			if key.Table != "" && len(key.PK) <= crdt.MaxKey {
				g.sent[key] = true
				g.delta.Records = append(g.delta.Records, crdt.Record{Key: key.Key})
			}
			return nil
		}
		g.sent[key] = true
		g.size += rec.Size()
		g.delta.Records = append(g.delta.Records, rec)
		return nil
	}, owned, id, int64(lack.From), int64(lack.To))
	if errors.Is(err, errEnough) {
		err = nil
	}
	g.delta.Ranges = append(g.delta.Ranges, lack)
	return err
}
