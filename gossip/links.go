package gossip

import (
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/overlay"
)

// class is what a stream is used for, which follows from what both sides make
// of it:
//
//	full  up to Config.FanoutLimit POPs: each sends what is its own to all
//	tree  above: what is new is passed on, along the trees of package overlay
//	line  above, no neighbour: heads, pulls and notes
type class int

const (
	classFull class = iota
	classTree
	classLine
)

// chooseLocked finds out whether the mesh is a large one, and who are the
// neighbours then; it says when that is to be looked at again.
func (m *Mesh) chooseLocked(now time.Time) (next time.Time) {
	if !m.rechoose && (m.chooseAt.IsZero() || now.Before(m.chooseAt)) {
		return m.chooseAt
	}
	m.rechoose, m.chooseAt = false, time.Time{}
	later := func(at time.Time) {
		if m.chooseAt.IsZero() || at.Before(m.chooseAt) {
			m.chooseAt = at
		}
	}
	var peers []overlay.Peer
	m.count = 1
	for _, p := range m.peers {
		if !p.listed {
			continue
		}
		m.count++
		switch {
		case p.meshed: // it is no link of the overlay, and dialed in any case
		case now.Before(p.fullUntil):
			later(p.fullUntil)
		default:
			peers = append(peers, overlay.Peer{Node: p.node, RTT: p.rtt, Down: p.stream == nil && (p.down || p.err != "")})
		}
	}
	was := m.large
	m.large = m.count > m.cfg.FanoutLimit
	if !m.large && !was {
		for _, p := range m.peers {
			p.dial = true
		}
		return m.chooseAt
	}
	wanted := map[string]bool{}
	if m.large {
		for _, node := range overlay.Choose(m.cfg.Node, peers) {
			wanted[node] = true
		}
	}
	for node, p := range m.peers {
		called := p.called.Add(m.cfg.Forget)
		if m.large && now.Before(called) {
			later(called)
		}
		dial := !m.large || p.meshed || wanted[node] || now.Before(called)
		if p.wanted = wanted[node]; p.dial != dial {
			p.dial = dial
			notify(p.kick)
		}
		m.relinkLocked(p.stream, now)
	}
	for _, p := range m.peers { // once all of them know what they are
		if at := m.idleLocked(p, now); !at.IsZero() {
			later(at)
		}
	}
	if was != m.large {
		m.voice.at, m.pending = time.Time{}, nil // its first beat is a whole one
		m.log.Info().Bool("overlay", m.large).Int("pops", m.count).Msg("record streams: full mesh or overlay")
		notify(m.beating)
	}
	return m.chooseAt
}

// idleLocked ends a stream that neither side has needed for Config.Forget, and
// says when to look at it.
func (m *Mesh) idleLocked(p *peer, now time.Time) time.Time {
	s := p.stream
	if s == nil || s.class != classLine {
		return time.Time{}
	}
	until := s.idle
	if p.called.After(until) {
		until = p.called
	}
	if until = until.Add(m.cfg.Forget); now.Before(until) {
		return until
	}
	s.close(errIdle)
	return time.Time{}
}

// rechooseLocked has the neighbours looked at.
func (m *Mesh) rechooseLocked() {
	m.rechoose = true
	notify(m.changed)
}

// relinkLocked says what this side makes of the stream, where that changed, and
// uses it as what both say.
func (m *Mesh) relinkLocked(s *stream, now time.Time) {
	if s == nil || !m.standsLocked(s) {
		return
	}
	mine := m.modeLocked(s)
	if mine != s.mine && s.protocol >= protocolOverlay {
		s.send(appendFrame(nil, kindLink, appendLink(mine)))
	}
	s.mine = mine
	class := m.classLocked(s)
	if meshed := class == classFull; m.large && meshed != s.peer.meshed {
		s.peer.meshed = meshed
		m.rechooseLocked()
	}
	if class == s.class && s.classed {
		return
	}
	if s.class == classTree {
		m.unlinkLocked(s)
	}
	first := !s.classed
	s.class, s.classed = class, true
	switch {
	case class == classTree:
		m.trees.Up(s.node)
		notify(s.wake)    // for the census
		notify(m.beating) // for what is to be asked for
	case class == classLine:
		s.idle = now
		m.rechooseLocked()
	case !first: // it was told of our load by others until now
		s.wholeDue.Store(true)
		notify(s.wake)
	}
}

func (m *Mesh) classLocked(s *stream) class {
	switch {
	case !m.large || s.protocol < protocolOverlay || s.theirs == linkMesh:
		return classFull
	case s.theirs == linkUnsaid || s.mine == linkFull || s.theirs == linkFull || s.mine != linkYes && s.theirs != linkYes:
		return classLine
	}
	return classTree
}

// standsLocked says whether it is its peer's stream, and that is a peer.
func (m *Mesh) standsLocked(s *stream) bool {
	return m.peers[s.node] == s.peer && s.peer.stream == s
}

// modeLocked is what this side makes of a stream.
func (m *Mesh) modeLocked(s *stream) linkMode {
	switch {
	case !m.large:
		return linkMesh
	case s.peer.wanted:
		return linkYes
	case s.theirs == linkYes && s.mine == linkFull:
		return linkFull // it looks elsewhere, and asks again
	case s.theirs == linkYes && s.class != classTree && len(m.trees.Links()) >= overlay.Most(m.count):
		return linkFull
	}
	return linkNo
}

// unlinkLocked is after a neighbour's stream: what came by it alone is asked
// for at the others.
func (m *Mesh) unlinkLocked(s *stream) {
	s.class = classLine
	for node, origins := range m.trees.Down(s.node) {
		if p := m.peers[node]; p != nil && p.stream != nil {
			p.stream.turn(origins, turnGraft)
		}
	}
}

// tookLink is what the peer makes of the stream.
func (s *stream) tookLink(mode linkMode) error {
	now := time.Now()
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.m.standsLocked(s) {
		return nil
	}
	if s.theirs = mode; mode == linkFull {
		s.peer.fullUntil = now.Add(fullFor)
		s.m.rechooseLocked()
	}
	s.m.relinkLocked(s, now)
	return nil
}

// turn is what the peer is to be told about origins: whether to push us what
// they write.
type turn byte

const (
	turnPrune turn = iota
	turnGraft
	turnTell // and all that it knows of their load
)

// turn queues what the peer is told; of one origin the last word counts.
func (s *stream) turn(origins []string, to turn) {
	if len(origins) == 0 {
		return
	}
	s.mu.Lock()
	if s.turns == nil {
		s.turns = map[string]turn{}
	}
	for _, o := range origins {
		if s.turns[o] != turnTell || to == turnPrune {
			s.turns[o] = to
		}
	}
	s.mu.Unlock()
	notify(s.wake)
}

// takeTurnsLocked adds what is queued. It is called with s.mu.
func (s *stream) takeTurnsLocked(b []byte) []byte {
	if len(s.turns) == 0 {
		return b
	}
	var by [turnTell + 1][]string
	for o, to := range s.turns {
		by[to] = append(by[to], o)
	}
	s.turns = nil
	for to, origins := range by {
		slices.Sort(origins)
		for part := range slices.Chunk(origins, originsAtOnce) {
			if turn(to) == turnPrune {
				b = appendFrame(b, kindPrune, appendOrigins(part))
			} else {
				b = appendFrame(b, kindGraft, graftFrame{tell: turn(to) == turnTell, origins: part}.append)
			}
		}
	}
	return b
}

// tookPrune is that the peer gets what these origins write from others.
func (s *stream) tookPrune(origins []string) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.standsLocked(s) {
		s.m.trees.Pruned(s.node, origins)
	}
	return nil
}

// tookGraft is that it does not, or does not any more.
func (s *stream) tookGraft(f graftFrame) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if !s.m.standsLocked(s) {
		return nil
	}
	s.m.trees.Grafted(s.node, f.origins)
	if f.tell {
		s.m.tellLocked(s, f.origins, time.Now())
	}
	return nil
}

// noteCopiesLocked learns from which ranges came first by a neighbour's stream
// and which came again.
func (m *Mesh) noteCopiesLocked(s *stream, ranges []crdt.Range) {
	if s.class != classTree {
		return
	}
	for _, r := range ranges {
		origin := []string{r.Origin.Node}
		switch {
		case m.own[r.Origin] < r.To:
			if m.trees.First(r.Origin.Node, s.node) {
				s.turn(origin, turnGraft)
			}
		case m.trees.Again(r.Origin.Node, s.node):
			s.turn(origin, turnPrune)
		}
	}
}

// targetsLocked are the streams on which what was written here is sent.
func (m *Mesh) targetsLocked() []*stream {
	var targets []*stream
	for _, s := range m.streamsLocked() {
		if s.class == classFull {
			targets = append(targets, s)
		}
	}
	if m.large {
		for _, node := range m.trees.Targets(nil, m.cfg.Node, "") {
			targets = append(targets, m.peers[node].stream)
		}
	}
	return targets
}

// onwardLocked is what of a delta from that stream is passed on, and to whom:
// the ranges that were new here, to neighbours that want them and are not known
// to have them.
func (m *Mesh) onwardLocked(s *stream, i item) map[*stream][]crdt.Range {
	if !m.large {
		return nil
	}
	onward := map[*stream][]crdt.Range{}
	var to []string
	for _, r := range i.fresh {
		if m.own[r.Origin] < r.To { // we would claim what we have not
			continue
		}
		to = m.trees.Targets(to[:0], r.Origin.Node, s.node)
		for _, node := range to {
			if p := m.peers[node]; p.heads[r.Origin] < r.To {
				onward[p.stream] = append(onward[p.stream], r)
			}
		}
	}
	return onward
}

// narrowed is the delta for a peer that is sent only these of its ranges: with
// the records that they are about. What beat such a record and is in another
// range the peer knows to lack.
func narrowed(d crdt.Delta, ranges []crdt.Range) crdt.Delta {
	if len(ranges) == len(d.Ranges) {
		return d
	}
	part := crdt.Delta{Ranges: ranges}
	for _, rec := range d.Records {
		in := false
		rec.Owners(func(st crdt.Stamp) bool {
			in = slices.ContainsFunc(ranges, func(r crdt.Range) bool {
				return r.Origin == st.Origin && st.Seq > r.From && st.Seq <= r.To
			})
			return !in
		})
		if in {
			part.Records = append(part.Records, rec)
		}
	}
	return part
}
