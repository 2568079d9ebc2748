package gossip

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// pull is our question for all that a peer has and we lack, while it is
// answered. Guarded by Mesh.mu.
type pull struct {
	id       uint64
	have     crdt.Heads   // what the answer continues
	progress time.Time    // when the last part came
	done     bool         // the end has come, and waits for the parts to be stored
	failed   bool         // a part could not be stored
	loose    []crdt.Range // of deltas that came meanwhile, perhaps before what they continue

	snapshot bool
	seen     map[crdt.Key]struct{} // of a snapshot; nil when there were too many
}

// see notes the rows of a snapshot: what is not among them the peer has not.
func (p *pull) see(i item) {
	p.progress = time.Now()
	if !i.snapshot {
		return
	}
	if !p.snapshot {
		p.snapshot, p.seen = true, map[crdt.Key]struct{}{}
	}
	if len(p.seen)+len(i.delta.Records) > maxSeen {
		p.seen = nil
	}
	if p.seen == nil {
		return
	}
	for _, rec := range i.delta.Records {
		p.seen[rec.Key] = struct{}{}
	}
	for _, f := range i.refused {
		p.seen[f.Key] = struct{}{}
	}
}

// wantLocked notes that the peer has something we lack, to be pulled at that
// time if it has not come by then.
func (s *stream) wantLocked(at time.Time) {
	if s.pullAt.IsZero() || at.Before(s.pullAt) {
		s.want, s.pullAt = s.peer.heads.Clone(), at
		notify(s.wake)
	}
}

// checkLocked notes what the peer has and we lack, if anything.
func (s *stream) checkLocked(grace time.Duration) {
	if !s.m.own.Covers(s.peer.heads) {
		s.wantLocked(time.Now().Add(grace))
	}
}

// tookHeads is the peer's announcement.
func (s *stream) tookHeads(f headsFrame) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.peer.stream != s {
		return nil
	}
	if f.whole {
		s.peer.heads = crdt.Heads{}
	}
	for o, head := range f.heads {
		if s.peer.heads[o] = head; head == 0 {
			delete(s.peer.heads, o)
		}
	}
	if err := checkHeads(s.peer.heads); err != nil {
		return err
	}
	s.queue.resume(s.peer.heads)
	s.checkLocked(s.m.cfg.Grace)
	return nil
}

// checkHeads bounds the memory that a peer takes.
func checkHeads(h crdt.Heads) error {
	if len(h) > maxHeads {
		return garbage(fmt.Errorf("heads of %d origins, at most %d are taken", len(h), maxHeads))
	}
	return nil
}

// tookDelta hands a delta to the applier.
func (s *stream) tookDelta(ctx context.Context, f deltaFrame, size int) error {
	s.m.mu.Lock()
	switch {
	case f.pull != 0 && (s.pull == nil || s.pull.id != f.pull || s.pull.done):
		s.m.mu.Unlock()
		return garbage(fmt.Errorf("the answer to pull %d, which nobody made", f.pull))
	case f.pull != 0:
		s.pull.progress = time.Now()
	case s.peer.stream == s:
		raise(s.peer.heads, f.delta.Ranges)
		if err := checkHeads(s.peer.heads); err != nil {
			s.m.mu.Unlock()
			return err
		}
		s.checkLocked(s.m.cfg.Grace)
	}
	s.m.mu.Unlock()
	return s.deliver(ctx, item{deltaFrame: f, size: size})
}

// tookPulled hands the end of an answer to the applier.
func (s *stream) tookPulled(ctx context.Context, f pulledFrame, size int) error {
	s.m.mu.Lock()
	mine := s.pull != nil && s.pull.id == f.id && !s.pull.done
	if mine {
		s.pull.done, s.pull.progress = true, time.Now()
	}
	s.m.mu.Unlock()
	if !mine {
		return garbage(fmt.Errorf("the end of pull %d, which nobody made", f.id))
	}
	return s.deliver(ctx, item{pulled: &f, size: size})
}

// pullIfDue asks for what has been lacking for long enough, one question at a
// time, and not while another peer is answering the same one.
func (s *stream) pullIfDue(b []byte, now time.Time, soon *schedule) []byte {
	m := s.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.pull != nil {
		if end := s.pull.progress.Add(pullTimeout); s.pull.done {
			return b
		} else if now.After(end) {
			s.close(errors.New("no answer to a pull"))
		} else {
			soon.by(end)
		}
		return b
	}
	if s.pullAt.IsZero() || s.peer.stream != s {
		return b
	}
	if now.Before(s.pullAt) {
		soon.by(s.pullAt)
		return b
	}
	if !s.gap && m.own.Covers(s.want) { // it came
		m.nowSynced()
		s.pullAt = time.Time{}
		s.checkLocked(m.cfg.Grace)
		return b
	}
	if m.elsewhereLocked(s, now) || m.outdatedLocked(s.peer) {
		s.pullAt = now.Add(m.cfg.Grace)
		soon.by(s.pullAt)
		return b
	}
	s.pullAt = time.Time{}
	s.pulls++
	s.pull = &pull{id: s.pulls, have: m.own.Clone(), progress: now}
	m.stats.pulls.Add(1)
	b = s.graftLocked(b)
	return appendFrame(b, kindPull, pullFrame{id: s.pulls, have: m.own}.append)
}

// graftLocked asks a neighbour to push what it had first.
func (s *stream) graftLocked(b []byte) []byte {
	if s.class != classTree {
		return b
	}
	var origins []string
	for o, head := range s.want {
		if s.m.own[o] < head && !slices.Contains(origins, o.Node) && len(origins) < originsAtOnce {
			origins = append(origins, o.Node)
		}
	}
	slices.Sort(origins)
	if len(origins) == 0 || !s.m.trees.Seek(s.node, origins) {
		return b
	}
	return appendFrame(b, kindGraft, graftFrame{origins: origins}.append)
}

// elsewhereLocked says whether another peer is sending us all that is wanted.
func (m *Mesh) elsewhereLocked(s *stream, now time.Time) bool {
	if s.gap {
		return false
	}
	for _, p := range m.peers {
		if o := p.stream; o != nil && o != s && o.pull != nil && !o.pull.failed && now.Sub(o.pull.progress) < pullStalled && p.heads.Covers(s.want) {
			return true
		}
	}
	return false
}

// outdatedLocked says whether the peer may still hold rows whose delete is
// forgotten: it must take a snapshot before anybody takes its word.
func (m *Mesh) outdatedLocked(p *peer) bool {
	return !p.heads.Covers(m.horizon) && m.own.Covers(p.horizon)
}

// finishPull moves our heads to where the peer's were: all of it is stored.
func (m *Mesh) finishPull(ctx context.Context, s *stream, f pulledFrame) {
	err := m.refresh(ctx)
	m.mu.Lock()
	p := s.pull
	// A file that lacks what we had when we asked lacks what is below the answer.
	if err != nil || f.failed || p.failed || !m.own.Covers(p.have) {
		s.pull = nil
		s.wantLocked(time.Now().Add(applyRetry))
		m.mu.Unlock()
		return
	}
	d := crdt.Delta{Horizon: f.horizon}
	for o, head := range f.heads {
		r := crdt.Range{Origin: o, To: head}
		if !f.snapshot {
			// The answer begins at what we had when we asked. A file that has
			// been replaced by an older one since is below it, and stays there.
			r.From = min(p.have[o], head)
		}
		d.Ranges = append(d.Ranges, r)
	}
	d.Ranges = append(d.Ranges, p.loose...)
	sortRanges(d.Ranges)
	before := m.own.Clone()
	m.mu.Unlock()

	// Before the heads move: with those nobody would send a snapshot again.
	if f.snapshot {
		err = m.purge(ctx, s, p, f.heads)
	}
	if err == nil {
		_, err = m.cfg.Store.Apply(ctx, s.node, d)
	}
	if err == nil {
		err = m.refresh(ctx)
	}
	m.mu.Lock()
	s.pull = nil
	m.mu.Unlock()
	if err != nil {
		m.lose(ctx, s, err)
		return
	}
	m.unable.Store(nil)
	m.mu.Lock()
	s.gap = false
	again := m.cfg.Grace
	if before.Covers(m.own) {
		again = m.cfg.AntiEntropy // it announces what it does not send
	}
	s.pullAt = time.Time{}
	s.checkLocked(again)
	m.mu.Unlock()
	notify(s.wake)
	m.nowSynced()
}

// purge forgets what a whole snapshot did not hold.
func (m *Mesh) purge(ctx context.Context, s *stream, p *pull, heads crdt.Heads) error {
	if p.seen == nil {
		m.log.Warn().Str("peer", s.node).Msg("snapshot too large to purge by")
		return nil
	}
	knows := s.knows(p.seen)
	n, err := m.cfg.Store.Purge(ctx, heads, func(k crdt.Key) bool {
		_, ok := p.seen[k]
		return ok || !knows(k.Table)
	})
	m.stats.purged.Add(uint64(n))
	if n > 0 {
		m.log.Info().Str("peer", s.node).Int("records", n).Msg("deleted elsewhere long ago, purged")
	}
	return err
}
