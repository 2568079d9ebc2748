package node

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// tellEvery is how often telemetry is written into the file, where it changes.
const tellEvery = time.Second

// tell writes what is known of the POPs into the file. It is the watcher's, or
// called where there is none yet; what fails here is no reason not to serve.
func (p *picture) tell(ctx context.Context, now time.Time) {
	if p.telemetry == nil {
		return
	}
	err, text := p.store.WriteTelemetry(ctx, p.telemetry(now), now), ""
	if errors.Is(err, sqlite.ErrLocked) {
		return // what was said before may still hold
	}
	if err != nil && ctx.Err() == nil {
		text = err.Error()
		if text != p.untold {
			p.log.Warn().Err(err).Msg("telemetry is not in the database, or not all of it")
		}
	}
	p.untold = text
}

// telemetry is what the tables of the database show.
func (m *replication) telemetry(now time.Time) sqlite.Telemetry {
	var t sqlite.Telemetry
	regions := map[string]string{m.node: m.cfg.Region}
	reported := m.reported(now)
	if len(reported) > 1 { // so the membership has begun
		for _, member := range m.ring.Members() {
			regions[member.Name] = member.Tags[tagRegion]
		}
	}
	for _, r := range reported {
		incarnation, seq := integer(r.Incarnation), integer(r.Seq)
		t.POPs = append(t.POPs, sqlite.POP{
			Node: r.POP, Region: regions[r.POP], Self: r.POP == m.node,
			Incarnation: incarnation, Connections: r.Connections(), Seq: seq, Seen: r.At,
		})
		for id, n := range r.Counts {
			t.Load = append(t.Load, sqlite.Load{POP: r.POP, Backend: id, Connections: n, Incarnation: incarnation, Seq: seq})
		}
	}
	t.Health = m.vigil.rows()
	return t
}

// integer is a number that a peer chose, as SQLite can hold it.
func integer(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// reported is what counts of every POP, this one first.
func (m *replication) reported(now time.Time) []route.Reported {
	own := ownLoad(m.router, now)
	own.POP, own.Incarnation, own.Seq = m.node, m.vigil.life, m.streams.LoadSeq()
	return append([]route.Reported{own}, m.router.Reported(now)...)
}

// ownLoad is what a router counts by itself.
func ownLoad(r *route.Router, now time.Time) route.Reported {
	own := route.Reported{At: now, Counts: map[string]int64{}}
	for _, s := range r.Slots.Stats() {
		if s.Connections > 0 {
			own.Counts[s.ID] = s.Connections
		}
	}
	for _, rate := range r.Rates(now) {
		own.Rate += rate
	}
	return own
}
