// Package memnet is a network in memory: hosts, packets and streams with
// latency, loss and cuts, as a value that a test builds and breaks.
//
//	net := memnet.New(memnet.Config{Latency: 40 * time.Millisecond, Loss: 0.02, Seed: seed})
//	defer net.Close()
//	ln, err := net.Host("10.0.0.1").Listen(7947)
//	c, err := net.Host("10.0.0.2").Dial(ctx, "10.0.0.1:7947")
//	cfg.Transport = net.Host("10.0.0.1").Transport(7946) // for memberlist
//	net.Cut("10.0.0.1", "10.0.0.2")                      // streams stall, packets vanish, dials time out
//	net.Heal("10.0.0.1", "10.0.0.2")                     // stalled streams go on
//
// Packets may be lost, doubled and reordered. Streams are what TCP makes of
// such a line: in order, complete, late; a full buffer blocks the writer.
// It uses nothing but timers and channels, so that it works inside a
// testing/synctest bubble, where it must be made and closed. All its
// randomness comes from the seed; which packet draws which number depends on
// the order in which goroutines send. There is no bandwidth and no routing:
// every host reaches every other one directly.
package memnet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Config says how a line between any two hosts behaves unless SetLink says
// otherwise. The zero value is a perfect network.
type Config struct {
	Latency   time.Duration // one way: half a round trip
	Jitter    time.Duration // added to it, uniformly from [0, Jitter)
	Loss      float64       // share of packets that vanish, 0 to 1; for streams, of segments sent again
	Duplicate float64       // share of packets that arrive twice
	Reorder   float64       // share of packets that later ones may overtake
	Seed      uint64
}

// Link is one line, in one direction.
type Link struct {
	Latency   time.Duration
	Jitter    time.Duration
	Loss      float64
	Duplicate float64
	Reorder   float64
}

type line struct{ from, to netip.Addr }

// Net is the network. Its methods are safe for concurrent use.
type Net struct {
	standard Link
	done     chan struct{} // closed by Close

	mu      sync.Mutex
	rnd     *rand.Rand
	hosts   map[netip.Addr]*Host
	links   map[line]Link
	cuts    map[line]bool
	changed chan struct{} // closed and made anew when a cut or a link changes
	closed  bool
}

// New makes a network without hosts.
func New(cfg Config) *Net {
	return &Net{
		standard: Link{Latency: cfg.Latency, Jitter: cfg.Jitter, Loss: cfg.Loss, Duplicate: cfg.Duplicate, Reorder: cfg.Reorder},
		done:     make(chan struct{}),
		rnd:      rand.New(rand.NewPCG(cfg.Seed, 0x6d656d6e6574)),
		hosts:    make(map[netip.Addr]*Host),
		links:    make(map[line]Link),
		cuts:     make(map[line]bool),
		changed:  make(chan struct{}),
	}
}

// address reads what a test wrote; a typing error there is worth a panic.
func address(s string) netip.Addr {
	a, err := netip.ParseAddr(s)
	if err != nil {
		panic(fmt.Sprintf("memnet: host %q: want an IP address like 10.0.0.1", s))
	}
	return a
}

// Host returns the host with that IP address and adds it the first time.
func (n *Net) Host(ip string) *Host {
	a := address(ip)
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[a]
	if h == nil {
		h = &Host{net: n, addr: a, streams: make(map[uint16]*listener), packets: make(map[uint16]*Transport)}
		n.hosts[a] = h
	}
	return h
}

// SetLink gives the line between a and b, both ways, properties of its own.
// It leaves a cut as it is. What is under way is not affected.
func (n *Net) SetLink(a, b string, l Link) {
	n.change(func() {
		n.links[line{address(a), address(b)}] = l
		n.links[line{address(b), address(a)}] = l
	})
}

// Cut breaks the line between a and b in both directions until Heal.
func (n *Net) Cut(a, b string) {
	n.CutOneWay(a, b)
	n.CutOneWay(b, a)
}

// CutOneWay breaks the line in one direction only.
func (n *Net) CutOneWay(from, to string) {
	n.change(func() { n.cuts[line{address(from), address(to)}] = true })
}

// Heal mends the line between a and b in both directions.
func (n *Net) Heal(a, b string) {
	n.change(func() {
		delete(n.cuts, line{address(a), address(b)})
		delete(n.cuts, line{address(b), address(a)})
	})
}

// Partition cuts every line between one of these hosts and one of the rest.
func (n *Net) Partition(side ...string) {
	inside := make(map[netip.Addr]bool)
	for _, s := range side {
		inside[address(s)] = true
	}
	n.change(func() {
		for a := range n.hosts {
			for b := range n.hosts {
				if inside[a] != inside[b] {
					n.cuts[line{a, b}] = true
				}
			}
		}
	})
}

// HealAll mends every line.
func (n *Net) HealAll() { n.change(func() { clear(n.cuts) }) }

func (n *Net) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Close ends everything: transports, listeners and streams, on all hosts.
// It waits for the goroutines of the network; it is safe twice.
func (n *Net) Close() {
	n.mu.Lock()
	if !n.closed {
		n.closed = true
		close(n.done)
	}
	hosts := slices.Collect(maps.Values(n.hosts))
	n.mu.Unlock()
	for _, h := range hosts {
		h.mu.Lock()
		transports := slices.Collect(maps.Values(h.packets))
		h.mu.Unlock()
		for _, t := range transports {
			_ = t.Shutdown()
		}
	}
}

// passable says whether the line is whole, and hands a channel that is closed
// at the next change of any line.
func (n *Net) passable(l line) (bool, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cuts[l], n.changed
}

func (n *Net) linkLocked(l line) Link {
	if k, ok := n.links[l]; ok {
		return k
	}
	return n.standard
}

// chanceLocked draws once: true with probability p.
func (n *Net) chanceLocked(p float64) bool { return p > 0 && n.rnd.Float64() < p }

func (n *Net) delayLocked(k Link) time.Duration {
	if k.Jitter <= 0 {
		return k.Latency
	}
	return k.Latency + time.Duration(n.rnd.Int64N(int64(k.Jitter)))
}

// segmentDelay is how long a piece of a stream is under way; one that is lost
// is sent again after TCP's shortest retransmission timeout (RFC 6298 as Linux
// has it: 200 ms or a round trip, whichever is longer).
func (n *Net) segmentDelay(l line) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := n.linkLocked(l)
	d := n.delayLocked(k)
	if n.chanceLocked(k.Loss) {
		d += max(200*time.Millisecond, 2*k.Latency)
	}
	return d
}
