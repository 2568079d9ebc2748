package gossip

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// PeerStatus is what a person or a metric wants to know of a peer.
type PeerStatus struct {
	Node      string
	Addr      string // to dial it; where it dialed us and is on no list, where from
	Connected bool
	Neighbour bool          // in a mesh that is not a full one: news is passed on to it
	Since     time.Time     // of the stream, or of its loss
	Lag       time.Duration // how long it has lacked something that was written here
	Queued    int           // rows that wait to be sent
	RTT       time.Duration // the best of the last round trips; 0: not measured
	Offset    time.Duration // its clock minus ours
	Heads     crdt.Heads    // what it has acknowledged; nil: never heard of
	Err       string        // why there is no stream

	BytesIn, BytesOut     uint64
	RecordsIn, RecordsOut uint64
}

// Peers is every peer that is listed or connected, by name; of a mesh that is
// not a full one those with which a stream stands or should.
func (m *Mesh) Peers() []PeerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]PeerStatus, 0, len(m.peers))
	for _, node := range slices.Sorted(maps.Keys(m.peers)) {
		p := m.peers[node]
		if m.large && p.stream == nil && !p.dial {
			continue
		}
		st := PeerStatus{
			Node: node, Addr: p.addr, Connected: p.stream != nil, Since: p.since, Heads: p.heads.Clone(), Err: p.err,
			Lag:     m.marks.lag(p.heads, time.Now()),
			BytesIn: p.traffic.bytesIn.Load(), BytesOut: p.traffic.bytesOut.Load(),
			RecordsIn: p.traffic.recordsIn.Load(), RecordsOut: p.traffic.recordsOut.Load(),
		}
		if s := p.stream; s != nil {
			st.Queued, st.Neighbour = s.queue.len(), s.class == classTree
			if st.Addr == "" {
				st.Addr = s.addr
			}
			if best, ok := p.clock.best(); ok {
				st.RTT, st.Offset = best.rtt, best.offset
			}
		}
		all = append(all, st)
	}
	return all
}

// Heard says whether a node is connected or was heard of late, by neighbours.
func (m *Mesh) Heard(node string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[node]
	return p != nil && (p.stream != nil || m.large && time.Since(p.voice.heard) < heardFor)
}

// heardFor is for how long a POP counts as heard.
const heardFor = 3*mostBeat + time.Second

// antiEntropy looks at what the store really has, and pulls from a near and
// from a random peer what they have beyond it. Both are told all our heads.
func (m *Mesh) antiEntropy(ctx context.Context) {
	m.stats.rounds.Add(1)
	if err := m.refresh(ctx); err != nil && ctx.Err() == nil {
		m.log.Error().Err(err).Msg("heads not read, tried again")
		return
	}
	all := m.streams()
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := m.own.Clone()
	for _, p := range m.peers {
		if !m.large || p.stream != nil {
			seen.Lower(p.heads)
		}
	}
	m.marks.acknowledged(seen)
	for _, s := range m.twoOfLocked(all) {
		s.sayAll = true
		s.checkLocked(0)
		notify(s.wake)
	}
}

// twoOfLocked is the nearest peer by round trip and a random one.
func (m *Mesh) twoOfLocked(all []*stream) []*stream {
	if len(all) <= 2 {
		return all
	}
	near := slices.MinFunc(all, func(a, b *stream) int {
		x, _ := a.peer.clock.best()
		y, _ := b.peer.clock.best()
		return int(x.rtt - y.rtt)
	})
	all = slices.DeleteFunc(all, func(s *stream) bool { return s == near })
	return []*stream{near, all[int(m.cfg.Rand()*float64(len(all)))%len(all)]}
}

// stray opens a stream to some POP that is no neighbour. Its hello, and ours,
// shows what either side lacks. So what was written arrives in the end were the
// neighbours to keep it from us, or the links to fall apart.
func (m *Mesh) stray(context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.large {
		return
	}
	var others []string
	for node, p := range m.peers {
		if p.listed && !p.dial && !p.down && p.stream == nil {
			others = append(others, node)
		}
	}
	if slices.Sort(others); len(others) > 0 {
		m.openLocked(m.peers[others[int(m.cfg.Rand()*float64(len(others)))%len(others)]], time.Now())
	}
}

// counters are Stats while they count.
type counters struct {
	handshakesRefused, dialsFailed, conflicts, keyringsRefused, notesRefused atomic.Uint64
	garbage, oversized, truncated, recordsRefused, applyErrors               atomic.Uint64
	rounds, pulls, snapshots, purged, dropped                                atomic.Uint64
	digests, digestsDiffer, repairs                                          atomic.Uint64
}

// Stats counts since the start.
type Stats struct {
	HandshakesRefused uint64 // of those who dialed us
	DialsFailed       uint64
	Conflicts         uint64 // encounters of two live nodes with one id
	KeyringsRefused   uint64
	NotesRefused      uint64

	Garbage        uint64 // frames that made no sense; each ended its stream
	Oversized      uint64 // frames longer than Config.MaxFrame
	Truncated      uint64 // streams that ended within a frame
	RecordsRefused uint64
	ApplyErrors    uint64 // deltas that the store failed to take

	Rounds    uint64 // of anti-entropy
	Pulls     uint64 // that we made
	Snapshots uint64 // that we sent
	Purged    uint64 // rows whose delete is forgotten
	Dropped   uint64 // records that did not fit into a queue, for the peer to pull

	Digests       uint64 // comparisons that we began
	DigestsDiffer uint64 // and that found a difference
	Repairs       uint64 // rows that one changed here
}

// Stats reads the counters.
func (m *Mesh) Stats() Stats {
	c := &m.stats
	return Stats{
		HandshakesRefused: c.handshakesRefused.Load(), DialsFailed: c.dialsFailed.Load(), Conflicts: c.conflicts.Load(), KeyringsRefused: c.keyringsRefused.Load(), NotesRefused: c.notesRefused.Load(),
		Garbage: c.garbage.Load(), Oversized: c.oversized.Load(), Truncated: c.truncated.Load(), RecordsRefused: c.recordsRefused.Load(), ApplyErrors: c.applyErrors.Load(),
		Rounds: c.rounds.Load(), Pulls: c.pulls.Load(), Snapshots: c.snapshots.Load(), Purged: c.purged.Load(), Dropped: c.dropped.Load(),
		Digests: c.digests.Load(), DigestsDiffer: c.digestsDiffer.Load(), Repairs: c.repairs.Load(),
	}
}
