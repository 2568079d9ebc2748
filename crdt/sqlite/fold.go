package sqlite

import (
	"context"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Fold seals local changes: it gives what the triggers captured stamps and
// numbers of this POP, on the disk when Fold returns, and returns it to be
// sent. It does so for a bounded number of rows; the delta is empty when there
// is no more. What Apply or Replicate sealed on their way comes out here too.
// While mesh time is not known the error is ErrUntimed where there is something to seal.
// Before any other POP was heard the delta is marked as Alone.
func (s *Store) Fold(ctx context.Context) (d crdt.Delta, err error) {
	err = s.replicating(ctx, func(p *replica) error {
		if err := s.reinstallLocked(ctx, p); err != nil {
			return err
		}
		alone := p.lonely() && !p.Heard() // asked first: else there is nothing to correct below
		if err := s.correctLocked(); err != nil {
			return err
		}
		if p.told == p.seq() {
			if p.untimed() {
				if yes, err := s.pendingLocked(ctx); err != nil || !yes {
					return err
				}
				return ErrUntimed
			}
			if _, err := s.sealLocked(ctx); err != nil {
				return err
			}
		}
		if p.told == p.seq() {
			return nil
		}
		own := crdt.Range{Origin: p.self, From: p.told, To: p.seq()}
		part := &part{limit: 1 << 20, sent: map[sentKey]bool{}}
		if err := part.add(ctx, s.writer, p, own); err != nil {
			return s.explain("read", err)
		}
		d, p.told = part.delta, part.delta.Ranges[0].To
		d.Alone = alone
		return nil
	})
	return d, err
}

// sealLocked seals some of what was captured and says how many changes it took.
func (s *Store) sealLocked(ctx context.Context) (taken int, err error) {
	p := s.replica
	if err := s.correctLocked(); err != nil {
		return 0, err
	}
	if yes, err := s.pendingLocked(ctx); err != nil || !yes {
		return 0, err
	}
	if err := p.dirty(); err != nil {
		return 0, err
	}
	begin := time.Now()
	err = s.commitLocked(ctx, true, func(b *batch) (err error) {
		taken, err = b.seal(p.batchSize)
		return err
	})
	p.adapt(taken, time.Since(begin))
	return taken, err
}

// untimed says that what is sealed now might get a wrong stamp.
func (p *replica) untimed() bool { return p.Untimed != nil && p.Untimed() }

// sealTimedLocked seals all, or nothing while mesh time is not known.
func (s *Store) sealTimedLocked(ctx context.Context) error {
	if s.replica.untimed() {
		return nil
	}
	return s.sealAllLocked(ctx)
}

// sealAllLocked seals until nothing is captured that is not sealed.
func (s *Store) sealAllLocked(ctx context.Context) error {
	for {
		if taken, err := s.sealLocked(ctx); err != nil || taken == 0 {
			return err
		}
	}
}

// sealAll does so with turns for others in between.
func (s *Store) sealAll(ctx context.Context) error {
	for taken := 1; taken > 0; {
		err := s.replicating(ctx, func(*replica) (err error) {
			taken, err = s.sealLocked(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pendingLocked also sees whether the content is still what we left.
func (s *Store) pendingLocked(ctx context.Context) (yes bool, err error) {
	p := s.replica
	var nonce string
	var version int64
	found, err := s.writer.one(ctx, []any{&nonce, &version, &yes}, "SELECT nonce, version, EXISTS (SELECT 1 FROM crdt_inbox) FROM crdt_control WHERE id = 1")
	switch {
	case resultCode(err) == codeError, err == nil && (!found || nonce != p.Life.Nonce || version != p.version):
		p.attached = false // there may be no such table
		return false, errSwapped
	}
	return yes, s.explain("read", err)
}

// sealPending seals all that is captured, within the transaction.
func (b *batch) sealPending() error {
	if yes, err := pending(b.ctx, b.c); err != nil || !yes {
		return err
	}
	if err := b.dirty(); err != nil {
		return err
	}
	if _, err := b.seal(1 << 30); err != nil {
		return err
	}
	return b.flush()
}

func pending(ctx context.Context, c *conn) (yes bool, err error) {
	var n int64
	return c.one(ctx, []any{&n}, "SELECT n FROM crdt_inbox LIMIT 1")
}
