package gossip

import (
	"context"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/internal/progress"
)

const (
	applyRetry  = time.Second      // after the store could not take something
	warnEvery   = 10 * time.Second // per peer
	namedInLogs = 5                // records that a message names
)

// applyAll is the only goroutine that stores what comes from peers.
func (m *Mesh) applyAll(ctx context.Context) {
	ctx = progress.With(ctx, &m.Applying)
	for s := m.applier.next(ctx); s != nil; s = m.applier.next(ctx) {
		m.Applying.Begin()
		m.storing.Begin(time.Now())
		items := s.collect()
		for len(items) > 0 && ctx.Err() == nil {
			if items[0].pulled != nil {
				m.finishPull(ctx, s, *items[0].pulled)
				items = items[1:]
				continue
			}
			n := 1
			for n < len(items) && items[n].pulled == nil && items[n].repair == items[0].repair {
				n++
			}
			m.applyDeltas(ctx, s, items[:n])
			items = items[n:]
		}
		m.storing.End(time.Now())
		m.Applying.End()
	}
}

// applyDeltas stores consecutive deltas as one.
func (m *Mesh) applyDeltas(ctx context.Context, s *stream, items []item) {
	d := crdt.Delta{Declared: s.tables(), Repair: items[0].repair}
	var refused []crdt.Refusal
	for n := range items {
		i := &items[n]
		d.Records = append(d.Records, i.delta.Records...)
		d.Ranges = append(d.Ranges, m.rangesOf(s, i)...)
		refused = append(refused, i.refused...)
	}
	applied, err := m.cfg.Store.Apply(ctx, s.node, d)
	if err != nil {
		m.lose(ctx, s, err)
		return
	}
	m.unable.Store(nil)
	applied.Refused = append(refused, applied.Refused...)
	s.peer.traffic.recordsIn.Add(uint64(len(d.Records)))
	m.afterApply(s, applied, items[0].repair)
	if m.cfg.Applied != nil {
		m.cfg.Applied(s.node, applied)
	}
	if len(d.Ranges) > 0 {
		if err := m.refresh(ctx); err != nil {
			m.markStale()
		}
	}
	for _, i := range items {
		m.forward(s, i)
	}
}

// Unable says why the store does not take what peers send, nothing where it
// does. What it did not take is pulled again each second, as long as there is
// a peer to pull it from.
func (m *Mesh) Unable() string {
	why := m.unable.Load()
	if why == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.stream != nil && p.stream.gap {
			return *why
		}
	}
	return ""
}

// Lag is how far what is stored may be behind what peers have sent: a disk may
// give no error and take no end. What comes while one batch is being stored waits
// for that, and takes as long.
func (m *Mesh) Lag() time.Duration { return 2 * m.storing.Takes(time.Now()) }

// rangesOf are the ranges of a delta that may move a head, and takes note of
// what a pull that is under way will need at its end.
func (m *Mesh) rangesOf(s *stream, i *item) []crdt.Range {
	m.mu.Lock()
	defer m.mu.Unlock()
	i.fresh = nil
	for _, r := range i.delta.Ranges {
		if m.own[r.Origin] < r.To {
			i.fresh = append(i.fresh, r)
		}
	}
	if i.pull == 0 {
		m.noteCopiesLocked(s, i.delta.Ranges)
	}
	if i.pull != 0 {
		if s.pull == nil || s.pull.failed {
			return nil
		}
		s.pull.see(*i)
		if i.snapshot { // all of it or nothing: what it does not hold is to be purged
			return nil
		}
		return i.delta.Ranges
	}
	if s.gap {
		return nil
	}
	if s.pull != nil && len(s.pull.loose) < m.cfg.QueueKeys {
		s.pull.loose = append(s.pull.loose, i.delta.Ranges...)
	}
	return i.delta.Ranges
}

// lose gives up what the store did not take. No later range from this peer
// counts until it has been pulled.
func (m *Mesh) lose(ctx context.Context, s *stream, err error) {
	if ctx.Err() != nil {
		return
	}
	m.stats.applyErrors.Add(1)
	m.unable.Store(new(err.Error()))
	m.mu.Lock()
	s.gap = true
	if s.pull != nil {
		s.pull.failed = true
	}
	s.wantLocked(time.Now().Add(applyRetry))
	m.mu.Unlock()
	if m.mayWarn(s.peer, "store") {
		m.log.Error().Err(err).Str("peer", s.node).Msg("records not stored, pulled again")
	}
}

func (m *Mesh) afterApply(s *stream, a crdt.Applied, repair bool) {
	if n := len(a.Refused); n > 0 {
		m.stats.recordsRefused.Add(uint64(n))
		if m.mayWarn(s.peer, "refused") {
			var names []string
			for _, f := range a.Refused[:min(n, namedInLogs)] {
				names = append(names, f.Error())
			}
			m.log.Warn().Str("peer", s.node).Int("records", n).Strs("refused", names).Msg("records refused")
		}
	}
	if n := len(a.Changed); repair && n > 0 {
		m.stats.repairs.Add(uint64(n))
		if m.mayWarn(s.peer, "repaired") {
			var names []string
			for _, rec := range a.Changed[:min(n, namedInLogs)] {
				names = append(names, rec.Key.String())
			}
			m.log.Warn().Str("peer", s.node).Int("records", n).Strs("repaired", names).Msg("damaged records repaired")
		}
	}
}

// forward passes on what was new and came whole in one frame, in a mesh that is
// not a full one. Of longer deltas the receivers learn from our heads.
func (m *Mesh) forward(s *stream, i item) {
	whole := !s.partial
	s.partial = len(i.delta.Ranges) == 0
	if !whole || len(i.fresh) == 0 || i.snapshot || i.repair {
		return
	}
	m.mu.Lock()
	onward := m.onwardLocked(s, i)
	m.mu.Unlock()
	for t, ranges := range onward {
		t.put(narrowed(i.delta, ranges))
	}
}

// mayWarn limits what one peer can make us log.
func (m *Mesh) mayWarn(p *peer, of string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if at, ok := p.warned[of]; ok && now.Sub(at) < warnEvery {
		return false
	}
	if p.warned == nil {
		p.warned = map[string]time.Time{}
	}
	p.warned[of] = now
	return true
}

func (m *Mesh) markStale() {
	m.mu.Lock()
	m.stale = true
	m.mu.Unlock()
	notify(m.changed)
}
