package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	packetLimit = 65507 // bytes of payload that fit a UDP packet over IPv4
	packetQueue = 1024  // arrived and unread; more are dropped, as by a full socket buffer
)

// Transport carries memberlist's packets and streams on one port of a host.
type Transport struct {
	host     *Host
	at       netip.AddrPort
	listener *listener
	packets  chan *memberlist.Packet
	streams  chan net.Conn
	once     sync.Once
	stop     chan struct{}
	accepted sync.WaitGroup
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// Transport listens for packets and streams on port; 0 takes a free one. It
// panics where the port is taken: a test that means that uses Listen.
func (h *Host) Transport(port uint16) *Transport {
	l, err := h.listen(port)
	if err != nil {
		panic(fmt.Sprintf("memnet: transport on %s:%d: %v", h.addr, port, err))
	}
	t := &Transport{
		host: h, at: l.at, listener: l,
		packets: make(chan *memberlist.Packet, packetQueue),
		streams: make(chan net.Conn),
		stop:    make(chan struct{}),
	}
	h.mu.Lock()
	h.packets[t.at.Port()] = t
	h.mu.Unlock()
	t.accepted.Go(t.accept)
	return t
}

func (t *Transport) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- c:
		case <-t.stop:
			_ = c.Close()
		}
	}
}

// Addr is where it listens.
func (t *Transport) Addr() netip.AddrPort { return t.at }

// FinalAdvertiseAddr is memberlist's question for our address.
func (t *Transport) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	if ip == "" {
		return t.at.Addr().AsSlice(), int(t.at.Port()), nil
	}
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, fmt.Errorf("advertise: %w", err)
	}
	return a.Unmap().AsSlice(), port, nil
}

// WriteTo sends a packet that may arrive, late, twice or never.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("send to %s: %w", addr, err)
	}
	select {
	case <-t.stop:
		return time.Time{}, net.ErrClosed
	default:
	}
	if len(b) > packetLimit {
		return time.Time{}, &net.OpError{Op: "write", Net: "udp", Addr: net.UDPAddrFromAddrPort(to), Err: syscall.EMSGSIZE}
	}
	t.host.net.send(t.at, to, append([]byte(nil), b...))
	return time.Now(), nil
}

// WriteToAddress is WriteTo; names are not needed here.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh gives what arrives.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout opens a stream.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.host.dial(ctx, t.stop, addr)
}

// DialAddressTimeout is DialTimeout; names are not needed here.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// StreamCh gives the streams that others open.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown frees the port and waits for the goroutine that accepts. Streams
// that are open stay so, as those of a process would not: close them.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		close(t.stop)
		t.host.mu.Lock()
		delete(t.host.packets, t.at.Port())
		t.host.mu.Unlock()
		_ = t.listener.Close()
	})
	t.accepted.Wait()
	return nil
}

// send puts a packet on its way, or loses it.
func (n *Net) send(from, to netip.AddrPort, b []byte) {
	l := line{from.Addr(), to.Addr()}
	n.mu.Lock()
	if n.closed || n.cuts[l] {
		n.mu.Unlock()
		return
	}
	k := n.linkLocked(l)
	copies := 1
	if n.chanceLocked(k.Loss) {
		copies--
	}
	if n.chanceLocked(k.Duplicate) {
		copies++
	}
	delays := make([]time.Duration, copies)
	for i := range delays {
		delays[i] = n.delayLocked(k)
		if n.chanceLocked(k.Reorder) { // late by up to another such way: what is sent meanwhile overtakes it
			delays[i] += time.Millisecond + time.Duration(n.rnd.Int64N(int64(k.Latency+k.Jitter)+1))
		}
	}
	n.mu.Unlock()
	for _, d := range delays {
		if d <= 0 {
			n.arrive(from, to, b)
			continue
		}
		time.AfterFunc(d, func() { n.arrive(from, to, b) })
	}
}

// arrive hands the packet over, unless the line was cut under it or nobody is
// there; a full queue drops it. Each copy gets bytes of its own: memberlist
// decrypts in place.
func (n *Net) arrive(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	h, lost := n.hosts[to.Addr()], n.closed || n.cuts[line{from.Addr(), to.Addr()}]
	n.mu.Unlock()
	if h == nil || lost {
		return
	}
	h.mu.Lock()
	t := h.packets[to.Port()]
	h.mu.Unlock()
	if t == nil {
		return
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
	select {
	case t.packets <- p:
	default:
	}
}
