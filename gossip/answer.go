package gossip

import (
	"context"
	"errors"
	"fmt"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// answerPull sends all that the peer lacks, or everything where what it has
// is older than the deletes that are remembered.
func (s *stream) answerPull(ctx context.Context, f pullFrame) error {
	s.queue.resume(nil)
	end := pulledFrame{id: f.id}
	err := s.m.refresh(ctx)
	if err == nil {
		var horizon crdt.Heads
		end.heads, horizon = s.m.state()
		have := f.have
		if end.snapshot = !have.Covers(horizon); end.snapshot {
			s.m.stats.snapshots.Add(1)
			have = crdt.Heads{}
		}
		err = s.sendSince(ctx, deltaFrame{pull: f.id, snapshot: end.snapshot}, have)
	}
	if err == nil {
		// Another file may have taken this one's place while we read, or deletes
		// may have been forgotten before they were sent.
		if err = s.m.refresh(ctx); err == nil {
			var own crdt.Heads
			own, end.horizon = s.m.state()
			end.failed = !own.Covers(end.heads) || !end.snapshot && !f.have.Covers(end.horizon)
		}
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.m.log.Error().Err(err).Str("peer", s.node).Msg("pull not answered")
		end = pulledFrame{id: f.id, failed: true}
	}
	return s.emit(ctx, appendFrame(nil, kindPulled, end.append))
}

func (s *stream) sendSince(ctx context.Context, f deltaFrame, have crdt.Heads) (err error) {
	for more := true; more; {
		if f.delta, more, err = s.m.cfg.Store.Since(ctx, have, s.m.cfg.FrameBytes); err != nil {
			return fmt.Errorf("read what the peer lacks: %w", err)
		}
		moved := false
		for _, r := range f.delta.Ranges {
			moved = have.Cover(r) || moved
		}
		if more && !moved {
			return errors.New("read what the peer lacks: a part that moves no head")
		}
		s.peer.traffic.recordsOut.Add(uint64(len(f.delta.Records)))
		if err := s.m.frames(f, func(b []byte) error { return s.emit(ctx, b) }); err != nil {
			return err
		}
	}
	return nil
}

// state is our heads and horizon, as copies.
func (m *Mesh) state() (heads, horizon crdt.Heads) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own.Clone(), m.horizon.Clone()
}
