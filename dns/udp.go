package dns

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

// udp is one socket and its readers. A query is answered by the goroutine that
// has read it; one that is forwarded gets a goroutine.
type udp struct {
	*Server
	conn     net.PacketConn
	wildcard *net.UDPConn // conn, where it has every address: answers have to come from the one asked
	forwards context.Context
	asking   *sync.WaitGroup
}

const mostReaders = 4

func newUDP(s *Server, conn net.PacketConn, forwards context.Context, asking *sync.WaitGroup) (*udp, error) {
	u := &udp{Server: s, conn: conn, forwards: forwards, asking: asking}
	c, is := conn.(*net.UDPConn)
	if !is {
		return u, nil
	}
	_ = c.SetReadBuffer(1 << 20) // as much of it as the system allows; a burst waits there
	if addr := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr(); !addr.IsUnspecified() || runtime.GOOS == "darwin" {
		return u, nil // there, answers from an address of choice unbind the socket
	}
	err6 := ipv6.NewPacketConn(c).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	err4 := ipv4.NewPacketConn(c).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	if err6 != nil && err4 != nil {
		return nil, err4
	}
	u.wildcard = c
	return u, nil
}

func (u *udp) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = u.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var g errgroup.Group
	for range min(mostReaders, runtime.GOMAXPROCS(0)) {
		g.Go(func() error { return u.read(ctx) })
	}
	return g.Wait()
}

func (u *udp) read(ctx context.Context) error {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, send, err := u.receive(buf)
		switch {
		case err != nil && over(ctx, err):
			return nil
		case err != nil: // such as an ICMP error that an answer met with
			pause(ctx)
			continue
		}
		began := time.Now()
		r := u.respondSafely(buf[:n], from, true, began)
		switch {
		case r.forward != nil:
			u.pass(r.forward, send, began)
		case r.packet == nil:
			u.metrics.dropped[byUDP].Add(1)
		default:
			send(r.packet)
			u.metrics.answered(byUDP, r.rcode, time.Since(began))
		}
	}
}

// receive reads one packet; send answers whoever sent it. What cannot be sent
// is asked for again.
func (u *udp) receive(buf []byte) (n int, from netip.Addr, send func([]byte), err error) {
	if u.wildcard != nil {
		n, session, err := dns.ReadFromSessionUDP(u.wildcard, buf)
		if err != nil {
			return 0, from, nil, err
		}
		return n, addrOf(session.RemoteAddr()), func(packet []byte) { _, _ = dns.WriteToSessionUDP(u.wildcard, packet, session) }, nil
	}
	n, addr, err := u.conn.ReadFrom(buf)
	if err != nil {
		return 0, from, nil, err
	}
	return n, addrOf(addr), func(packet []byte) { _, _ = u.conn.WriteTo(packet, addr) }, nil
}

// addrOf is the IP address of a peer; invalid where it has none.
func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// pass has another server answer.
func (u *udp) pass(req *request, send func([]byte), began time.Time) {
	answered := func(packet []byte, rcode int) {
		send(packet)
		u.metrics.answered(byUDP, rcode, time.Since(began))
	}
	if !u.forward.take() {
		answered(req.failed())
		return
	}
	u.asking.Go(func() {
		defer u.forward.end()
		answered(u.answerOf(u.forwards, req))
	})
}
