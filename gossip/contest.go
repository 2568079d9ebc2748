package gossip

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// verdict is what to do with a new stream of a peer that may have one already.
type verdict int

const (
	enters   verdict = iota // there is none
	replaces                // the new one is the one to keep
	probes                  // only if the old one is dead
)

// claim is what tells two streams of one peer apart.
type claim struct {
	nonce  string // of the peer's life
	dialer string // node id of the side that dialed
}

// contest decides the same on both sides: of two streams that were dialed at
// the same time the one stays that the smaller id dialed. Who dials again has
// lost its old stream. Another nonce is another life: the old one must be over.
func contest(old *claim, new claim, smaller string) verdict {
	switch {
	case old == nil:
		return enters
	case old.nonce != new.nonce:
		return probes
	case old.dialer == new.dialer, new.dialer == smaller:
		return replaces
	}
	return probes
}

// enter makes the stream its peer's, or says why not.
func (m *Mesh) enter(ctx context.Context, s *stream, h hello, rtt time.Duration) error {
	s.protocol = min(h.max, protocolMax)
	s.claim = claim{nonce: h.nonce, dialer: s.node}
	if s.dialed {
		s.claim.dialer = m.cfg.Node
	}
	for {
		old := m.tryEnter(s, h, rtt)
		if old == nil {
			return nil
		}
		if !old.probe(ctx) {
			old.close(fmt.Errorf("no answer, and %w", errReplaced))
			m.leave(old, errReplaced)
			continue
		}
		if old.claim.nonce != s.claim.nonce {
			return errConflict
		}
		return errDuplicate
	}
}

// tryEnter returns the stream that has to be dead first, if any.
func (m *Mesh) tryEnter(s *stream, h hello, rtt time.Duration) (old *stream) {
	m.mu.Lock()
	p := m.peerLocked(s.node)
	var had *claim
	if p.stream != nil {
		had = &p.stream.claim
	}
	verdict := contest(had, s.claim, min(m.cfg.Node, s.node))
	if verdict == probes {
		old = p.stream
		m.mu.Unlock()
		return old
	}
	replaced := p.stream
	if replaced != nil && replaced.class == classTree {
		m.unlinkLocked(replaced)
	}
	s.peer = p
	p.stream, p.err, p.gone = s, "", time.Time{}
	p.heads, p.horizon = h.heads, h.horizon
	p.clock = clockSamples{}
	p.clock.add(sampleOf(h.clock, m.clockLocked(), rtt))
	if replaced == nil {
		p.since = time.Now()
	}
	complete := m.own.Covers(h.heads)
	if !complete {
		s.wantLocked(time.Now()) // at once: nothing can be on its way yet
	}
	notify(p.kick)
	m.relinkLocked(s, time.Now())
	if replaced != nil {
		replaced.giveNotes(&p.notes)
	}
	s.moveNotes(&p.notes)
	m.rechooseLocked()
	m.mu.Unlock()
	if complete {
		m.nowSynced()
	}
	if replaced != nil {
		replaced.close(errReplaced)
	} else {
		m.log.Info().Str("peer", s.node).Str("addr", s.addr).Bool("dialed", s.dialed).Msg("peer connected")
	}
	return nil
}

// leave takes the stream off its peer, where it has not been replaced.
func (m *Mesh) leave(s *stream, err error) {
	m.mu.Lock()
	p := s.peer
	if p == nil || p.stream != s {
		m.mu.Unlock()
		return
	}
	p.stream, p.since, p.err = nil, time.Now(), ""
	if err != nil {
		p.err = err.Error()
	}
	if m.large && !p.dial {
		p.err = "" // it is none that it is missed
	}
	if s.class == classTree {
		m.unlinkLocked(s)
	}
	m.rechoose = true
	if !p.listed && p.gone.IsZero() {
		p.gone = p.since // never listed: forgotten like one that was
	}
	notify(p.kick)
	notify(m.changed)
	m.mu.Unlock()
	if !errors.Is(err, errReplaced) {
		m.log.Info().Str("peer", s.node).AnErr("err", err).Msg("peer lost")
	}
}

// conflict tells of a node id that two live nodes use, where that is why
// there is no stream to the peer. A peer that says so means our id.
func (m *Mesh) conflict(err error, peer, addr string) {
	var said *byeError
	c := Conflict{Node: peer, Addr: addr}
	switch {
	case errors.Is(err, errLater), errors.Is(err, errConflict) && errors.As(err, &said):
		c.Node, c.Later = m.cfg.Node, true
	case !errors.Is(err, errConflict):
		return
	}
	m.stats.conflicts.Add(1)
	if m.cfg.Conflict != nil {
		m.cfg.Conflict(c)
	}
}
