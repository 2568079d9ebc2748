package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	receiveBuffer = 2 << 20 // bytes the kernel may hold while memberlist is busy
	portAttempts  = 20      // for a free port that is free in TCP and in UDP
	acceptPause   = 100 * time.Millisecond
)

// sockets is a memberlist transport over UDP and TCP on one port. It differs
// from memberlist's own in that errors keep their cause, that dials end with
// it, and that a packet costs its size instead of 64 KiB.
type sockets struct {
	tcp     *net.TCPListener
	udp     *net.UDPConn
	via     func(addr string) string // Config.Via; never nil
	packets chan *memberlist.Packet
	streams chan net.Conn
	once    sync.Once
	stop    chan struct{}
	readers sync.WaitGroup
}

// listen binds both; where the port is 0, to one that both have free.
func listen(bind netip.AddrPort, via func(addr string) string) (*sockets, error) {
	if via == nil {
		via = func(addr string) string { return addr }
	}
	var tcp *net.TCPListener
	var udp *net.UDPConn
	var err error
	for range portAttempts {
		if tcp, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bind)); err != nil {
			break
		}
		at := netip.AddrPortFrom(bind.Addr(), uint16(tcp.Addr().(*net.TCPAddr).Port))
		if udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err == nil {
			break
		}
		_ = tcp.Close()
		if bind.Port() != 0 {
			break
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("gossip on %s: %w: stop what has it, or choose another port", bind, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("gossip on %s: %w: this machine does not have that address (others reach it by NAT? then bind 0.0.0.0 and advertise it)", bind, err)
	case err != nil:
		return nil, fmt.Errorf("gossip on %s: %w", bind, err)
	}
	_ = udp.SetReadBuffer(receiveBuffer) // the kernel may give less
	s := &sockets{
		tcp: tcp, udp: udp, via: via,
		packets: make(chan *memberlist.Packet),
		streams: make(chan net.Conn),
		stop:    make(chan struct{}),
	}
	s.readers.Go(s.accept)
	s.readers.Go(s.receive)
	return s, nil
}

func (s *sockets) addr() netip.AddrPort {
	a := s.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func (s *sockets) accept() {
	for {
		c, err := s.tcp.Accept()
		if err != nil {
			select {
			case <-s.stop:
				return
			case <-time.After(acceptPause): // out of descriptors, most likely
				continue
			}
		}
		select {
		case s.streams <- c:
		case <-s.stop:
			_ = c.Close()
		}
	}
}

func (s *sockets) receive() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(buf)
		now := time.Now()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n == 0 {
			continue // an ICMP error about something we sent
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: now}
		select {
		case s.packets <- p:
		case <-s.stop:
			return
		}
	}
}

func (s *sockets) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, 0, fmt.Errorf("advertise %q: %w", ip, err)
	}
	return a.Unmap().AsSlice(), port, nil
}

func (s *sockets) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(s.via(addr))
	if err != nil {
		return time.Time{}, fmt.Errorf("send to %s: %w", addr, err)
	}
	_, err = s.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

func (s *sockets) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return s.WriteTo(b, a.Addr)
}

func (s *sockets) PacketCh() <-chan *memberlist.Packet { return s.packets }
func (s *sockets) StreamCh() <-chan net.Conn           { return s.streams }

// DialTimeout ends with the sockets.
func (s *sockets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.via(addr))
}

func (s *sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return s.DialTimeout(a.Addr, timeout)
}

// Shutdown frees the port and waits for the readers.
func (s *sockets) Shutdown() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		err = errors.Join(s.tcp.Close(), s.udp.Close())
	})
	s.readers.Wait()
	return err
}
