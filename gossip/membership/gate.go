package membership

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// What one who can reach the port, with or without a key, may use of us.
const (
	streamsIn   = 128     // at once; more are closed
	streamsEach = 16      // of them from one address, loopback aside
	streamBytes = 4 << 20 // read from one stream; 1,000 members with full tags are 0.8 MB

	// packetBytes is more than any node sends in a packet (1,400, and the cipher's
	// 45). memberlist unpacks what is compressed, as serf's own agents send it, up
	// to 40 MB, and one after the other: twenty packets of 60 kB kept a POP from
	// answering for ten seconds, and its peers suspected it.
	packetBytes = 2048
)

// memberlist's framing of what is encrypted: a stream begins with the type,
// the length (big endian) and the version of the cipher text; a packet is
// cipher text. The cipher text of nothing has 29 bytes: version, nonce, tag.
const (
	encryptMsg    = 10
	cipherVersion = 1 // 0 is the same with padding, which only ancient nodes send
	cipherNothing = 29
)

var errFrame = errors.New("gossip frame that no node of this kind sends")

// gate stands between memberlist and the transport. It holds back what arrives
// until serf is complete (serf's handlers would meet nil pointers), bounds
// dials and incoming streams, ends them at Shutdown, and keeps out the two
// encrypted frames on which memberlist panics: an empty one in a stream, and
// one with broken padding; and packets that nobody sends but to be unpacked.
type gate struct {
	memberlist.NodeAwareTransport
	sealed  bool // there are keys: all traffic is encrypted
	dial    time.Duration
	packets chan *memberlist.Packet
	streams chan net.Conn

	opened    sync.Once
	shut      sync.Once
	stop      chan struct{} // closed: nothing passes any more
	gone      chan struct{} // closed: the transport is down
	forwarder sync.WaitGroup

	mu   sync.Mutex
	all  map[*gated]struct{} // open streams, of either direction
	each map[netip.Addr]int  // incoming ones
	in   int
	down bool
}

func newGate(t memberlist.NodeAwareTransport, sealed bool, dial time.Duration) *gate {
	return &gate{
		NodeAwareTransport: t, sealed: sealed, dial: dial,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		stop:    make(chan struct{}),
		gone:    make(chan struct{}),
		all:     make(map[*gated]struct{}),
		each:    make(map[netip.Addr]int),
	}
}

// open lets traffic in.
func (g *gate) open() {
	g.opened.Do(func() {
		g.forwarder.Go(func() {
			for {
				select {
				case p := <-g.NodeAwareTransport.PacketCh():
					if len(p.Buf) > packetBytes || g.sealed && (len(p.Buf) == 0 || p.Buf[0] == 0) {
						continue
					}
					select {
					case g.packets <- p:
					case <-g.stop:
					}
				case <-g.gone:
					return
				}
			}
		})
		g.forwarder.Go(func() {
			for {
				select {
				case c := <-g.NodeAwareTransport.StreamCh():
					s := g.admit(c, true)
					if s == nil {
						_ = c.Close()
						continue
					}
					select {
					case g.streams <- s:
					case <-g.stop:
						_ = s.Close()
					}
				case <-g.gone:
					return
				}
			}
		})
	})
}

func (g *gate) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gate) StreamCh() <-chan net.Conn           { return g.streams }

func (g *gate) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return g.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout connects, or fails soon: serf tries failed members one
// after the other, and whom it tries next may be back.
func (g *gate) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := g.NodeAwareTransport.DialAddressTimeout(a, min(timeout, g.dial))
	if err != nil {
		return nil, err
	}
	s := g.admit(c, false)
	if s == nil {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	return s, nil
}

// Shutdown ends the streams and the transport, and waits for both.
func (g *gate) Shutdown() error {
	var err error
	g.shut.Do(func() {
		close(g.stop)
		g.mu.Lock()
		g.down = true
		open := make([]*gated, 0, len(g.all))
		for s := range g.all {
			open = append(open, s)
		}
		g.mu.Unlock()
		for _, s := range open {
			_ = s.Close()
		}
		g.open() // a transport may hang on what nobody takes
		err = g.NodeAwareTransport.Shutdown()
		close(g.gone)
	})
	g.forwarder.Wait()
	return err
}

// admit registers a stream; nil where there are too many.
func (g *gate) admit(c net.Conn, incoming bool) *gated {
	s := &gated{Conn: c, gate: g, incoming: incoming, left: streamBytes}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		s.from = a.AddrPort().Addr().Unmap()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.down {
		return nil
	}
	if incoming {
		if g.in >= streamsIn || g.each[s.from] >= streamsEach && !s.from.IsLoopback() {
			return nil
		}
		g.in++
		g.each[s.from]++
	}
	g.all[s] = struct{}{}
	return s
}

func (g *gate) release(s *gated) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.all, s)
	if s.incoming {
		g.in--
		if g.each[s.from]--; g.each[s.from] == 0 {
			delete(g.each, s.from)
		}
	}
}

// gated is a stream that is counted, bounded and looked at. Its Read has one
// user at a time, as memberlist reads.
type gated struct {
	net.Conn
	gate     *gate
	from     netip.Addr
	incoming bool
	once     sync.Once
	left     int // bytes that may still be read
	head     [6]byte
	seen     int // bytes of head
}

func (s *gated) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, errFrame
	}
	n, err := s.Conn.Read(b[:min(len(b), s.left)])
	s.left -= n
	if s.seen < len(s.head) && n > 0 {
		s.seen += copy(s.head[s.seen:], b[:n])
		if s.gate.sealed && s.broken() {
			return 0, errFrame
		}
	}
	return n, err
}

// broken says whether what is known of the head is one of the frames to keep
// out. Anything but an encrypted frame is memberlist's to refuse.
func (s *gated) broken() bool {
	if s.head[0] != encryptMsg {
		return false
	}
	if s.seen >= 5 && binary.BigEndian.Uint32(s.head[1:5]) <= cipherNothing {
		return true
	}
	return s.seen == len(s.head) && s.head[5] != cipherVersion
}

func (s *gated) Close() error {
	s.once.Do(func() { s.gate.release(s) })
	return s.Conn.Close()
}
