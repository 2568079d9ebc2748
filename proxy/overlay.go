package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Overlay reaches backends that the kernel does not, through a network stack in
// this process. Both methods are safe for concurrent use; Reaches is asked for
// every connection and must neither block nor allocate. What DialContext
// returns has CloseWrite and SetLinger as a *net.TCPConn does, and its Read
// takes no reset for an end, whoever was told of it before.
type Overlay interface {
	Reaches(netip.Addr) bool
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
}

// connection is what a session needs of a connection.
type connection interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

func (s *Server) dial(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (connection, time.Duration, error) {
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, began.Add(timeout))
	defer cancel()
	// Not DialTCP, which has no way to leave the local address out: it binds
	// the socket to port 0 first, for which the kernel searches a port that is
	// free towards everybody (measured: 900 µs a connect with 20,000 in use).
	dial := s.dialer.DialContext
	if s.overlay != nil && s.overlay.Reaches(addr.Addr()) {
		dial = s.overlay.DialContext
	}
	conn, err := dial(ctx, "tcp", addr.String())
	if err != nil {
		return nil, time.Since(began), err
	}
	both, ok := conn.(connection)
	if !ok {
		conn.Close()
		return nil, time.Since(began), fmt.Errorf("the overlay's %T cannot be half-closed", conn)
	}
	return both, time.Since(began), nil
}

// inProcess says that one of the two connections is no descriptor.
func (d *direction) inProcess() bool { return d.src.fd < 0 || d.dst.fd < 0 }

// copy is drain for those: without a descriptor to wait on, it holds a buffer
// while it waits.
func (d *direction) copy() error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := d.src.Read(*buf)
		if n > 0 {
			if err := d.write((*buf)[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && d.src.fd >= 0:
			return d.eof()
		case err != nil:
			return err
		}
	}
}

// writeInProcess is write to a connection that is no descriptor.
func (d *direction) writeInProcess(b []byte) error {
	d.phase.Store(writing)
	defer d.phase.Store(reading)
	n, err := d.dst.Write(b)
	d.bytes.Add(int64(n))
	if err != nil {
		return &writeError{err}
	}
	return nil
}

// closeWrite tells the other side of the socket that no more comes.
func (s *socket) closeWrite() error {
	if s.fd < 0 {
		return s.CloseWrite()
	}
	return syscall.Shutdown(s.fd, syscall.SHUT_WR)
}
