package sqlite

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// attachLocked makes the file that is open this replica's: after Replicate,
// after the file was opened anew, and after a transaction that failed.
func (s *Store) attachLocked(ctx context.Context, p *replica) error {
	k, err := readControl(ctx, s.writer)
	if err != nil {
		return s.explain("read", err)
	}
	// A commit of ours of which we do not know may have been the last.
	if p.started && !p.outrun && !p.ahead && k.found && k.nonce == p.Life.Nonce && (k.version == p.version || k.version == p.version+1) {
		if p.doubt || k.version != p.version {
			if err := p.load(ctx, s.writer); err != nil {
				return s.explain("read", err)
			}
		}
		p.attached, p.doubt, p.carried = true, false, nil
		return nil
	}
	life, why := p.life(k)
	begun := &Begun{NewEpoch: life.Epoch != p.Life.Epoch, Why: why}
	restarted, first := !p.started, p.Life.Epoch == 0 && !k.found
	before := p.Life
	save := func() error {
		if err := p.Save(life); err != nil {
			p.Life = before
			return fmt.Errorf("save the epoch of %s: %w", s.path, err)
		}
		return nil
	}
	// Before the file: a crash in between leaves a nonce that does not match,
	// which costs an epoch and no number. Only the very first start is to be
	// one until the rows are adopted.
	if !first {
		if err := save(); err != nil {
			return err
		}
	}
	p.Life, p.self = life, crdt.Origin{Node: life.Node, Epoch: life.Epoch}
	p.started, p.doubt = true, true
	if err := s.writer.durable(ctx, true); err != nil {
		return s.explain("write", err)
	}
	// The numbers of a life that goes on were told before; the file's may be higher.
	told := p.told
	err = s.writeLocked(ctx, func(*Tx) error {
		b := &batch{replica: p, ctx: context.WithoutCancel(ctx), c: s.writer, moved: map[crdt.Origin]bool{}}
		if err := b.found(k); err != nil {
			return err
		}
		p.version = k.version + 1
		switch {
		case begun.NewEpoch:
			told = 0
		case restarted:
			told = p.seq()
		}
		if err := b.install(begun, k.found, first); err != nil {
			return err
		}
		if p.ahead {
			if err := b.correct(); err != nil {
				return err
			}
		}
		return b.end()
	})
	if err != nil {
		p.started = !restarted // and the nonce is new: the next try begins an epoch
		if first {
			p.Life = before
		}
		return err
	}
	if first {
		if err := save(); err != nil {
			p.started = false
			return err
		}
	}
	p.version++
	begun.Origin = p.self
	p.told, p.begun, p.carried, p.outrun, p.ahead = told, begun, nil, false, false
	if err := p.load(ctx, s.writer); err != nil {
		return s.explain("read", err)
	}
	p.attached, p.doubt = true, false
	s.listTablesLocked()
	return nil
}

// reinstallLocked sees to the triggers where somebody has changed the schema
// while the replica ran: the rows of a table that was made anew are to be back
// before anybody reads it.
func (s *Store) reinstallLocked(ctx context.Context, p *replica) error {
	var now int64
	if _, err := s.writer.one(ctx, []any{&now}, "PRAGMA schema_version"); err != nil || now == p.schema {
		return s.explain("read", err)
	}
	begun := &Begun{Origin: p.self, Why: "the schema was changed"}
	switch intact, err := s.intactLocked(ctx, p, begun); {
	case err != nil:
		return err
	case intact:
		p.schema = now
	default:
		p.begun = begun
	}
	return nil
}

// intactLocked says whether the triggers are as they should be. Where they are
// not it puts them back, and says in begun what followed.
func (s *Store) intactLocked(ctx context.Context, p *replica, begun *Begun) (intact bool, err error) {
	if intact, err = p.intact(ctx, s.writer); intact || err != nil {
		return intact, s.explain("read", err)
	}
	return false, s.commitLocked(ctx, true, func(b *batch) error { return b.install(begun, true, false) })
}

// found puts our tables into the file, with what was carried over from the one
// before, and the row that says whose it is.
func (b *batch) found(k control) error {
	if _, err := b.c.ExecContext(b.ctx, replicaSchema); err != nil {
		return err
	}
	if !k.found && b.carried != nil {
		if err := b.carried.write(b.ctx, b.c); err != nil {
			return err
		}
	}
	err := b.c.exec(b.ctx, `INSERT INTO crdt_control (id, applying, node, epoch, nonce, version, clock) VALUES (1, 1, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET applying = 1, node = excluded.node, epoch = excluded.epoch, nonce = excluded.nonce, version = excluded.version, clock = max(clock, excluded.clock)`,
		b.Life.Node, int64(b.Life.Epoch), b.Life.Nonce, k.version+1, int64(b.clock.Last))
	if err != nil {
		return err
	}
	if err := b.load(b.ctx, b.c); err != nil {
		return err
	}
	_, err = b.origin(b.self)
	return err
}

// install sees to the triggers, and to what happened to the rows without them.
func (b *batch) install(begun *Begun, written, first bool) error {
	b.tables = nil
	for _, table := range tables {
		t, err := track(b.ctx, b.c, table)
		if err != nil {
			return err
		}
		b.tables = append(b.tables, t)
	}
	for _, t := range b.tables {
		before, known, err := t.columnsBefore(b.ctx, b.c)
		if err != nil {
			return err
		}
		if known && !slices.Equal(before, t.names()) {
			if err := b.remask(t, before); err != nil {
				return err
			}
		}
		if !known {
			before = t.names()
		}
		have, err := t.installed(b.ctx, b.c)
		if err != nil {
			return err
		}
		intact := maps.Equal(have, t.triggers())
		if !intact {
			if err := t.install(b.ctx, b.c, have); err != nil {
				return err
			}
		}
		begun.TriggersRestored = begun.TriggersRestored || written && known && len(have) < len(t.triggers())
		switch {
		case !written && b.carried == nil:
			at := "julianday('now')" // the file was replaced, and what was in the one before is not known
			if first {
				at = "0"
			}
			res, err := b.c.ExecContext(b.ctx, fmt.Sprintf("INSERT INTO crdt_inbox (tbl, pk, at, mask) SELECT ?, +%s, %s, -1 FROM %s WHERE %s IS NOT NULL", t.key, at, quoted(t.Name), t.key), t.Name)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil {
				return err
			} else if first {
				begun.Adopted += int(n)
			}
		case !written:
			// A POP alone has nobody from whom the rows could come back: there
			// the file that was put in the place of the old one is all there is.
			err = b.reconcile(t, before, !b.alone(), begun)
		case !intact:
			// Of a table that is new here the mesh has had rows before; and who
			// drops one, and makes it anew, has not deleted its rows on every POP.
			var dropped bool
			if dropped, err = t.empty(b.ctx, b.c); err == nil {
				err = b.reconcile(t, before, !known || dropped && len(have) == 0, begun)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// remask translates captured masks to the table's columns of today.
func (b *batch) remask(t *tracked, before []string) error {
	masks := map[int64]int64{}
	for _, table := range []string{"crdt_inbox", "crdt_unfit"} {
		err := b.c.eachInt(b.ctx, func(mask int64) { masks[mask] = 0 }, "SELECT DISTINCT mask FROM "+table+" WHERE tbl = ? AND mask > 0", t.Name)
		if err != nil {
			return err
		}
	}
	for old := range masks {
		for i, name := range before {
			if at := t.field(name); at >= 0 && old&t.bit(i) != 0 {
				masks[old] |= t.bit(at)
			}
		}
	}
	for _, table := range []string{"crdt_inbox", "crdt_unfit"} {
		// Below zero meanwhile, so that none is translated twice.
		for from, to := range masks {
			if err := b.c.exec(b.ctx, "UPDATE "+table+" SET mask = ? WHERE tbl = ? AND mask = ?", -2-to, t.Name, from); err != nil {
				return err
			}
		}
		if err := b.c.exec(b.ctx, "UPDATE "+table+" SET mask = -2 - mask WHERE tbl = ? AND mask < -1", t.Name); err != nil {
			return err
		}
	}
	return nil
}
