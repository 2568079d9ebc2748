package gossip

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// peer is another node, whether or not there is a stream to it. What has no
// comment of its own is guarded by Mesh.mu.
type peer struct {
	node    string
	kick    chan struct{} // 1: for its dialer, that something changed
	traffic traffic       // atomic

	addr    string // where to dial it; empty: only it can dial us
	listed  bool
	gone    time.Time // since when not listed
	undial  context.CancelFunc
	stream  *stream
	since   time.Time  // of the stream, or of its loss
	heads   crdt.Heads // what it has acknowledged, also before; nil: never heard of
	horizon crdt.Heads
	clock   clockSamples
	err     string // why there is no stream
	warned  map[string]time.Time

	rtt       time.Duration // by membership, 0: not known
	down      bool          // by membership
	meshed    bool          // at last it wanted a stream with everybody, or knew nothing else
	dial      bool          // a stream is to be held
	wanted    bool          // as a neighbour
	fullUntil time.Time     // it has refused to be one
	called    time.Time     // when something was last to be told to it alone
	notes     notes         // that wait for a stream
	voice     voice
}

// Peer is a node to hold a stream with.
type Peer struct {
	Node string
	Addr string        // its sync address, host:port
	RTT  time.Duration // about; 0: not known
	Down bool          // membership does not hear it
}

// SetPeers says who there is now; this POP may be among them. A peer that is
// left out keeps its stream for Config.Forget.
func (m *Mesh) SetPeers(peers []Peer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.listed {
			p.listed, p.gone = false, time.Now()
		}
	}
	for _, listed := range peers {
		if listed.Node == "" || listed.Node == m.cfg.Node {
			continue
		}
		p := m.peerLocked(listed.Node)
		if p.down && !listed.Down {
			p.err = "" // what we last knew of it is over
		}
		p.listed, p.down = true, listed.Down
		if l, old := listed.RTT, p.rtt; l > 0 && (old == 0 || l > 2*old || l < old/2) {
			p.rtt = l // what wavers does not change who is a neighbour
		}
		if p.addr != listed.Addr {
			p.addr = listed.Addr
			notify(p.kick)
		}
	}
	m.rechooseLocked()
}

func (m *Mesh) peerLocked(node string) *peer {
	p := m.peers[node]
	if p == nil {
		p = &peer{node: node, kick: make(chan struct{}, 1), since: time.Now()}
		m.peers[node] = p
	}
	return p
}

// reconcile starts a dialer for whoever has none and lets go of whoever is
// gone; it says when it wants to be called again.
func (m *Mesh) reconcile(ctx context.Context, wg *sync.WaitGroup) (next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next = m.chooseLocked(time.Now())
	for node, p := range m.peers {
		switch until := p.gone.Add(m.cfg.Forget); {
		case p.listed && p.undial == nil && p.dial:
			dialing, cancel := context.WithCancel(ctx)
			p.undial = cancel
			wg.Go(func() {
				defer cancel()
				m.keepDialing(dialing, p)
			})
		case p.listed || p.gone.IsZero(): // it dialed us, and no list knows it yet
		case time.Now().Before(until):
			if next.IsZero() || until.Before(next) {
				next = until
			}
		default:
			if p.undial != nil {
				p.undial()
			}
			if s := p.stream; s != nil {
				if s.class == classTree {
					m.unlinkLocked(s)
				}
				s.close(errForgotten)
			}
			delete(m.peers, node)
		}
	}
	return next
}

// streams are all that stand.
func (m *Mesh) streams() []*stream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streamsLocked()
}

func (m *Mesh) streamsLocked() []*stream {
	var all []*stream
	for _, node := range slices.Sorted(maps.Keys(m.peers)) {
		if s := m.peers[node].stream; s != nil {
			all = append(all, s)
		}
	}
	return all
}

// traffic counts what went over a peer's streams.
type traffic struct {
	bytesIn, bytesOut, recordsIn, recordsOut atomic.Uint64
}
