package gossip

import (
	"context"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// Above Config.FanoutLimit nobody hears the heads of all POPs. Now and then one
// of them sends its own round as a census; each POP that has all of that says so
// in its beats from then on. What all have seen may be forgotten.

const (
	censusEvery  = time.Minute     // until somebody asks for the next,
	censusSpread = time.Minute / 2 // and so much later, by chance
	censusAhead  = time.Minute     // one of later than this from now is not taken
	censusPace   = time.Second     // between two to one neighbour, whoever asks how often
)

// meshTimeLocked is in ms since 1970.
func (m *Mesh) meshTimeLocked() int64 { return m.timeLocked().Mesh.UnixMilli() }

// askCensusLocked begins a census where nobody has for long.
func (m *Mesh) askCensusLocked(now time.Time) {
	if m.censusAt.IsZero() {
		m.laterCensusLocked(now)
	}
	if now.Before(m.censusAt) || len(m.trees.Links()) == 0 {
		return
	}
	m.newCensusLocked(censusFrame{id: m.meshTimeLocked(), heads: m.own.Clone()}, now)
}

func (m *Mesh) laterCensusLocked(now time.Time) {
	m.censusAt = now.Add(censusEvery + time.Duration(float64(censusSpread)*m.cfg.Rand()))
}

// newCensusLocked goes to all neighbours. A later one replaces it, wherever it is.
func (m *Mesh) newCensusLocked(f censusFrame, now time.Time) {
	if f.id <= m.census.id || f.id > m.meshTimeLocked()+censusAhead.Milliseconds() {
		return
	}
	m.census = f
	m.laterCensusLocked(now)
	for _, node := range m.trees.Links() {
		notify(m.peers[node].stream.wake)
	}
}

// takeCensus adds the latest census where a neighbour has not told of it, nor
// was told.
func (s *stream) takeCensus(b []byte, now time.Time, soon *schedule) []byte {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.class != classTree || s.m.census.id <= s.census {
		return b
	}
	if at := s.censusAt.Add(censusPace); now.Before(at) {
		soon.by(at)
		return b
	}
	s.census, s.censusAt = s.m.census.id, now
	return appendFrame(b, kindCensus, s.m.census.append)
}

func (s *stream) tookCensus(f censusFrame) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.m.standsLocked(s) {
		return nil
	}
	if err := checkHeads(f.heads); err != nil {
		return err
	}
	s.census = max(s.census, f.id)
	s.m.newCensusLocked(f, time.Now())
	return nil
}

// countedLocked lowers heads to what a POP of the roster has said it has.
func (m *Mesh) countedLocked(node string, heads crdt.Heads) bool {
	p := m.peers[node]
	switch {
	case p == nil:
		return false
	case m.large && m.census.id > 0 && p.voice.census == m.census.id:
		heads.Lower(m.census.heads)
		return true
	case p.heads == nil || m.large && (p.stream == nil || p.stream.class != classFull):
		return false
	}
	heads.Lower(p.heads)
	return true
}

// Confirmed is up to where every node of the roster, and every connected one,
// has acknowledged the writes of each origin, this POP included: what may be forgotten. False: one
// of them was never heard of since this POP started, or has not taken part in
// the last census yet. What they sent on their own streams before they did so is
// applied: it may be an earlier state of what is forgotten then.
func (m *Mesh) Confirmed(ctx context.Context, roster []string) (crdt.Heads, bool) {
	heads, ok := m.confirmed(roster)
	return heads, ok && m.applier.settle(ctx)
}

// Known is up to where anybody is known to have each origin's writes.
func (m *Mesh) Known() crdt.Heads {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.own.Clone()
	all.Raise(m.census.heads)
	for _, p := range m.peers {
		all.Raise(p.heads)
	}
	return all
}

func (m *Mesh) confirmed(roster []string) (crdt.Heads, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.own.Clone()
	for _, node := range roster {
		if node != m.cfg.Node && !m.countedLocked(node, all) {
			return nil, false
		}
	}
	for _, p := range m.peers { // also who came before the roster knew of it
		if p.stream != nil {
			all.Lower(p.heads)
		}
	}
	return all, true
}
