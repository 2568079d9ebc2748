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
}

// Peer is a node to hold a stream with.
type Peer struct {
	Node string
	Addr string // its sync address, host:port
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
		p.listed = true
		if p.addr != listed.Addr {
			p.addr = listed.Addr
			notify(p.kick)
		}
	}
	notify(m.changed)
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
	for node, p := range m.peers {
		switch until := p.gone.Add(m.cfg.Forget); {
		case p.listed && p.undial == nil:
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
			if p.stream != nil {
				p.stream.close(errForgotten)
			}
			delete(m.peers, node)
		}
	}
	return next
}

// targetsLocked are the streams on which the overlay sends what came from there.
func (m *Mesh) targetsLocked(from string) []*stream {
	connected := make([]string, 0, len(m.peers))
	for node, p := range m.peers {
		if p.stream != nil && node != from {
			connected = append(connected, node)
		}
	}
	slices.Sort(connected)
	var targets []*stream
	for _, node := range m.cfg.Overlay.Targets(from, connected) {
		if p := m.peers[node]; p != nil && p.stream != nil {
			targets = append(targets, p.stream)
		}
	}
	return targets
}

// streams are all that stand.
func (m *Mesh) streams() []*stream {
	m.mu.Lock()
	defer m.mu.Unlock()
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
