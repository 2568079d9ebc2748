package node

import (
	"context"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/prometheus/client_golang/prometheus"
)

// lateAfter is from when on a record was not under way but kept: for a POP
// that was off, or in a snapshot.
const lateAfter = time.Minute

// meshCounts counts what came from other POPs.
type meshCounts struct {
	propagation prometheus.Histogram

	mu        sync.Mutex
	changed   uint64
	late      uint64
	conflicts uint64
	refused   uint64
	held      uint64
}

func newMeshCounts() *meshCounts {
	return &meshCounts{propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "edgeproxy_propagation_seconds",
		Help:    "From a write's stamp on another POP until it is in this POP's database, clocks' offsets included.",
		Buckets: []float64{.002, .005, .01, .015, .02, .025, .035, .05, .075, .1, .15, .2, .3, .5, 1, 2, 5, 10, 30},
	})}
}

// applied counts what a delta did; now is mesh time in milliseconds.
func (c *meshCounts) applied(a crdt.Applied, now int64) {
	late := uint64(0)
	for _, rec := range a.Changed {
		took := time.Duration(now-rec.Latest().Milli()) * time.Millisecond
		if took > lateAfter {
			late++
			continue
		}
		c.propagation.Observe(max(took, 0).Seconds())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed += uint64(len(a.Changed))
	c.late += late
	c.conflicts += uint64(a.Conflicts)
	c.refused += uint64(len(a.Refused))
	c.held += uint64(a.Held)
}

var (
	descMembers    = desc("members", "Members of the mesh by status, this POP included.", "status")
	descRecords    = desc("records", "Rows that are replicated.")
	descTombstones = desc("records_deleted", "Deletes that are remembered until every POP has seen them.")
	descQuarantine = desc("records_quarantined", "Records that wait because their stamp lies in the future.")
	descMissing    = desc("records_missing", "Writes that peers are known to have and this POP lacks.")
	descApplied    = desc("records_applied_total", "Records from other POPs that changed a row.")
	descLate       = desc("records_late_total", "Those of them that were older than a minute: for a POP that was off, or in a snapshot.")
	descConflicts  = desc("record_conflicts_total", "Records where each side had a later write than the other.")
	descRefused    = desc("records_refused_total", "Records that were refused by name.")
	descHeld       = desc("records_held_total", "Records that were put into quarantine.")
	descOffset     = desc("clock_offset_seconds", "Mesh time minus this machine's clock.")

	descPeerUp      = desc("peer_connected", "1 while the record stream to the POP stands.", "peer")
	descPeerLag     = desc("peer_lag_seconds", "How long the POP has been behind what was written here.", "peer")
	descPeerQueue   = desc("peer_queue_records", "Records that wait to be sent to the POP.", "peer")
	descPeerOffset  = desc("peer_clock_offset_seconds", "The POP's clock minus this machine's.", "peer")
	descPeerBytes   = desc("peer_bytes_total", "Bytes of record streams, by direction seen from here.", "peer", "direction")
	descPeerRecords = desc("peer_records_total", "Records exchanged, by direction seen from here.", "peer", "direction")
	descStream      = desc("streams_total", "What happened on the record streams, by event.", "event")
)

// mesh reports this POP's part in the mesh.
func (c *collector) mesh(gauge, counter func(*prometheus.Desc, float64, ...string), out chan<- prometheus.Metric) {
	m := c.n.mesh()
	status := map[string]int{membership.StatusAlive: 0, membership.StatusFailed: 0, membership.StatusLeft: 0, membership.StatusLeaving: 0}
	for _, x := range m.ring.Members() {
		status[x.Status]++
	}
	for word, n := range status {
		gauge(descMembers, float64(n), word)
	}
	if d, err := m.store.Digest(context.Background()); err == nil {
		gauge(descRecords, float64(d.Rows))
		gauge(descTombstones, float64(d.Tombstones))
		gauge(descQuarantine, float64(d.Quarantined))
	}
	gauge(descMissing, float64(m.missing()))
	gauge(descOffset, m.streams.Offset().Seconds())
	m.counts.mu.Lock()
	changed, late, conflicts, refused, held := m.counts.changed, m.counts.late, m.counts.conflicts, m.counts.refused, m.counts.held
	m.counts.mu.Unlock()
	counter(descApplied, float64(changed))
	counter(descLate, float64(late))
	counter(descConflicts, float64(conflicts))
	counter(descRefused, float64(refused))
	counter(descHeld, float64(held))
	out <- m.counts.propagation
	for _, p := range m.streams.Peers() {
		gauge(descPeerUp, truth(p.Connected), p.Node)
		gauge(descPeerLag, p.Lag.Seconds(), p.Node)
		gauge(descPeerQueue, float64(p.Queued), p.Node)
		gauge(descPeerOffset, p.Offset.Seconds(), p.Node)
		counter(descPeerBytes, float64(p.BytesIn), p.Node, "in")
		counter(descPeerBytes, float64(p.BytesOut), p.Node, "out")
		counter(descPeerRecords, float64(p.RecordsIn), p.Node, "in")
		counter(descPeerRecords, float64(p.RecordsOut), p.Node, "out")
	}
	for event, n := range streamEvents(m.streams.Stats()) {
		counter(descStream, float64(n), event)
	}
}

func streamEvents(s gossip.Stats) map[string]uint64 {
	return map[string]uint64{
		"handshake_refused": s.HandshakesRefused, "dial_failed": s.DialsFailed, "conflict": s.Conflicts, "keyring_refused": s.KeyringsRefused, "note_refused": s.NotesRefused,
		"garbage": s.Garbage, "oversized": s.Oversized, "truncated": s.Truncated,
		"apply_error": s.ApplyErrors, "anti_entropy_round": s.Rounds, "pull": s.Pulls, "snapshot_sent": s.Snapshots,
		"queue_dropped": s.Dropped, "digest": s.Digests, "digest_differs": s.DigestsDiffer, "purged": s.Purged, "repaired": s.Repairs,
	}
}
