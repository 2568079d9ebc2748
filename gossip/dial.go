package gossip

import (
	"context"
	"errors"
	"time"
)

// keepDialing dials the peer whenever there is no stream to it. The side with
// the smaller id dials at once, the other one when that has come to nothing.
func (m *Mesh) keepDialing(ctx context.Context, p *peer) {
	retry := firstRetry
	for ctx.Err() == nil {
		s, addr, now := m.link(p)
		switch {
		case s != nil || addr == "":
			wait(ctx, p.kick, 0)
			continue
		case !now && m.cfg.Node > p.node && wait(ctx, p.kick, laterDial):
			continue // something changed: look again
		}
		s, err := m.dialPeer(ctx, p, addr)
		if err == nil {
			began := time.Now()
			m.finish(s, s.run(ctx))
			if time.Since(began) > lastRetry {
				retry = firstRetry
			}
		} else if ctx.Err() == nil {
			m.failed(p, addr, err)
		}
		pause(ctx, time.Duration(float64(retry)*(0.5+m.cfg.Rand()/2)))
		retry = min(2*retry, lastRetry)
	}
}

// link is the peer's stream and where to dial it, if it is to be dialed.
func (m *Mesh) link(p *peer) (s *stream, addr string, now bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !p.dial {
		return p.stream, "", false
	}
	return p.stream, p.addr, m.large
}

// wait says whether it was kicked. d 0: for as long as it takes.
func wait(ctx context.Context, kick <-chan struct{}, d time.Duration) bool {
	var late <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-kick:
		return true
	case <-late:
	case <-ctx.Done():
	}
	return false
}

// failed notes why a dial came to nothing; it is logged when it is news.
func (m *Mesh) failed(p *peer, addr string, err error) {
	if errors.Is(err, errDuplicate) || errors.Is(err, errReplaced) {
		return
	}
	m.stats.dialsFailed.Add(1)
	m.conflict(err, p.node, addr)
	m.countFrame(err)
	m.mu.Lock()
	first := p.stream == nil && p.err == ""
	if p.stream == nil {
		p.err = err.Error()
	}
	if first && m.large {
		m.rechooseLocked() // another stands in for it
	}
	m.mu.Unlock()
	if first {
		m.log.Info().Str("peer", p.node).Str("addr", addr).Err(err).Msg("peer not reached, tried on")
	}
}

// finish is after a stream that stood.
func (m *Mesh) finish(s *stream, err error) {
	m.countFrame(err)
	var bad *frameError
	if errors.As(err, &bad) && m.mayWarn(s.peer, "frame") {
		m.log.Warn().Err(err).Str("peer", s.node).Msg("peer sent what it should not have")
	}
	m.conflict(err, s.node, s.addr)
}

// countFrame counts what a peer should not have sent.
func (m *Mesh) countFrame(err error) {
	var bad *frameError
	switch {
	case !errors.As(err, &bad):
	case bad.oversized:
		m.stats.oversized.Add(1)
	case bad.truncated:
		m.stats.truncated.Add(1)
	default:
		m.stats.garbage.Add(1)
	}
}
