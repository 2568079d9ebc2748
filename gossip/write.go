package gossip

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// write sends what is due, in this order: small frames, load, notes, deltas, our heads, a
// pull, and then one frame of work at a time. It ends with ctx or the stream,
// and with the last words.
func (s *stream) write(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var flushed time.Time
	for ctx.Err() == nil && !s.ended() {
		now := time.Now()
		soon := schedule{at: now.Add(s.m.cfg.Ping)}
		if s.wholeDue.Swap(false) {
			s.putWhole()
		}
		b := s.takeBeats(s.declare(s.takeNotes(s.takeLoad(s.takeControl(now), now))), now)
		if !s.queue.empty() {
			if at := flushed.Add(s.m.cfg.Flush); at.After(now) {
				soon.by(at)
			} else if err := s.flush(ctx, b); err != nil {
				return err
			} else {
				flushed, b = now, nil
			}
		}
		b = s.takeCensus(b, now, &soon)
		b = s.announce(b, now, &soon)
		b = s.pullIfDue(b, now, &soon)
		if err := s.push(ctx, b); err != nil {
			return err
		}
		timer.Reset(time.Until(soon.at))
		select {
		case <-ctx.Done():
		case <-s.closing:
		case <-s.wake:
		case <-timer.C:
		case frame := <-s.out:
			if err := s.push(ctx, s.declare(frame)); err != nil {
				return err
			}
		}
	}
	s.farewell(ctx)
	return nil
}

// schedule is the earliest of several times.
type schedule struct{ at time.Time }

func (s *schedule) by(at time.Time) {
	if at.Before(s.at) {
		s.at = at
	}
}

// push writes frames: the peer has Config.Write to take them.
func (s *stream) push(ctx context.Context, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	patience := s.m.cfg.Write
	_ = s.conn.SetWriteDeadline(time.Now().Add(patience))
	if ctx.Err() != nil || s.ended() { // run has set its deadline, perhaps before we did
		_ = s.conn.SetWriteDeadline(time.Now().Add(goodbye))
	}
	n, err := s.conn.Write(b)
	s.peer.traffic.bytesOut.Add(uint64(n))
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// takeControl is the small frames, and a ping where one is due.
func (s *stream) takeControl(now time.Time) (b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, frame := range s.control {
		b = append(b, frame...)
	}
	s.control = nil
	b = s.takeTurnsLocked(b)
	if s.pingNow || !now.Before(s.pinged.Add(s.m.cfg.Ping)) {
		s.pingNow = false
		s.pings++
		s.pinged = now
		b = appendFrame(b, kindPing, appendPing(s.pings))
	}
	return b
}

// flush sends the queue, after b. All its frames go out in one piece: nothing
// else that speaks of heads comes between records and their ranges.
func (s *stream) flush(ctx context.Context, b []byte) error {
	d := s.queue.take()
	b = s.declare(b) // what the records are of, which may be new since
	err := s.m.frames(deltaFrame{delta: d}, func(frame []byte) error {
		b = append(b, frame...)
		err := s.push(ctx, b)
		b = b[:0]
		return err
	})
	s.peer.traffic.recordsOut.Add(uint64(len(d.Records)))
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	raise(s.said, d.Ranges) // the peer concludes the same
	return err
}

// raise notes that somebody has what it sent.
func raise(heads crdt.Heads, ranges []crdt.Range) {
	for _, r := range ranges {
		heads[r.Origin] = max(heads[r.Origin], r.To)
	}
}

// frames cuts a delta into frames that a peer takes.
func (m *Mesh) frames(f deltaFrame, yield func([]byte) error) error {
	return m.framesOf(f, m.cfg.FrameBytes, yield)
}

func (m *Mesh) framesOf(f deltaFrame, limit int, yield func([]byte) error) error {
	for _, part := range f.delta.Split(limit) {
		f.delta = part
		frame := appendFrame(nil, kindDelta, f.append)
		if len(frame) > m.cfg.MaxFrame && len(part.Records) > 1 { // its size was an estimate
			if err := m.framesOf(f, limit/2, yield); err != nil {
				return err
			}
			continue
		}
		if err := yield(frame); err != nil {
			return err
		}
	}
	return nil
}

// announce tells our heads where they are not what the peer knows, which
// acknowledges its deltas and shows it what it may lack.
func (s *stream) announce(b []byte, now time.Time, soon *schedule) []byte {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.sayAll {
		s.sayAll, s.said, s.saidAt, s.saidVersion = false, s.m.own.Clone(), now, s.m.version
		return appendFrame(b, kindHeads, headsFrame{whole: true, heads: s.m.own}.append)
	}
	if s.saidVersion == s.m.version {
		return b
	}
	pace := s.m.cfg.Ack
	if s.class == classLine {
		pace = s.m.cfg.AntiEntropy // its neighbours tell it sooner
	}
	if at := s.saidAt.Add(pace); at.After(now) {
		soon.by(at)
		return b
	}
	news := crdt.Heads{}
	for o, head := range s.m.own {
		if s.said[o] != head {
			news[o] = head
		}
	}
	for o := range s.said {
		if _, ok := s.m.own[o]; !ok {
			news[o] = 0
		}
	}
	s.saidVersion = s.m.version
	if len(news) == 0 {
		return b
	}
	s.said, s.saidAt = s.m.own.Clone(), now
	return appendFrame(b, kindHeads, headsFrame{heads: news}.append)
}

// farewell sends what waits where this POP ends, and why the stream does
// where the peer does not know. run gives it a second.
func (s *stream) farewell(ctx context.Context) {
	var cause error
	if s.ended() {
		cause = s.cause
		var said *byeError
		if errors.As(cause, &said) {
			return
		}
	}
	// Without a cause it is this POP that ends, whoever noticed it first.
	if cause == nil && !s.queue.empty() && s.flush(ctx, nil) != nil {
		return
	}
	_ = s.push(ctx, appendFrame(nil, kindBye, farewellOf(cause).append))
}
