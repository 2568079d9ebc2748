package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// backend is a listener that a case or its handler plays the backend on.
type backend struct {
	addr   netip.AddrPort
	ln     *net.TCPListener
	queue  chan *net.TCPConn
	handle func(*net.TCPConn)

	mu      sync.Mutex
	conns   []*net.TCPConn
	handled int // connections that handle has returned from
	work    sync.WaitGroup
}

// newBackend accepts connections for handle, in a goroutine for each; without
// one the case takes them with next.
func newBackend(t testing.TB, handle func(*net.TCPConn)) *backend {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	// The queue is as long as the kernel's, so that accepting never waits for the case.
	b := &backend{addr: ln.Addr().(*net.TCPAddr).AddrPort(), ln: ln, queue: make(chan *net.TCPConn, 4096), handle: handle}
	b.work.Go(b.accept)
	t.Cleanup(b.close)
	return b
}

func (b *backend) accept() {
	for {
		c, err := b.ln.AcceptTCP()
		if err != nil {
			return
		}
		b.mu.Lock()
		b.conns = append(b.conns, c)
		b.mu.Unlock()
		_ = c.SetDeadline(time.Now().Add(patience))
		if b.handle == nil {
			b.queue <- c
			continue
		}
		b.work.Go(func() {
			b.handle(c)
			c.Close()
			b.mu.Lock()
			b.handled++
			b.mu.Unlock()
		})
	}
}

// done waits until all connections that were accepted have been handled.
func (b *backend) done(t testing.TB) {
	t.Helper()
	eventually(t, "the backend has handled its connections", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.handled == len(b.conns)
	})
}

func (b *backend) accepted() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.conns)
}

func (b *backend) close() {
	b.ln.Close()
	b.mu.Lock()
	for _, c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.work.Wait()
}

// next is the next connection that the relay has opened.
func (b *backend) next(t testing.TB) *net.TCPConn {
	t.Helper()
	select {
	case c := <-b.queue:
		return c
	case <-time.After(patience):
		t.Fatalf("no connection has reached the backend in %v", patience)
		return nil
	}
}

// one is the only row of a table of backends.
func (b *backend) one() []target { return []target{{id: "b", addr: b.addr}} }

func echo(c *net.TCPConn) { _, _ = io.Copy(c, c) }

// refusing is an address at which nothing listens: all tests listen on 127.0.0.1.
func refusing() netip.AddrPort { return netip.MustParseAddrPort("127.77.0.1:9") }

// silent is an address whose kernel drops every SYN: a listener whose queue,
// as short as can be, is full.
func silent(t testing.TB) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fd)
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in4 := sa.(*unix.SockaddrInet4)
	addr := netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), uint16(in4.Port))
	for range 10 {
		c, err := net.DialTimeout("tcp", addr.String(), 250*time.Millisecond)
		if err != nil {
			return addr // the queue is full
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("a listener with a queue of 0 took 10 connections")
	return addr
}

// dial connects to the relay. Nothing on the connection waits for longer than patience.
func dial(t testing.TB, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// pair is a client's connection through the relay and its other end.
func pair(t testing.TB, r *relay, b *backend) (client, server *net.TCPConn) {
	t.Helper()
	return dial(t, r.addr), b.next(t)
}

func send(t testing.TB, c *net.TCPConn, data string) {
	t.Helper()
	if _, err := c.Write([]byte(data)); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func closeWrite(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatalf("half-close: %v", err)
	}
}

// expect reads exactly want.
func expect(t testing.TB, c *net.TCPConn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read %q, %v; want %q", got[:n], err, want)
	}
}

// expectEOF asks for the end of the stream, a FIN, without another byte.
func expectEOF(t testing.TB, c *net.TCPConn) {
	t.Helper()
	var b [1]byte
	if n, err := c.Read(b[:]); n != 0 || err != io.EOF {
		t.Fatalf("read %d bytes, %v; want EOF", n, err)
	}
}

// expectReset reads what is there and asks for a reset after it.
func expectReset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if n, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d bytes, then %v; want a reset", n, err)
	}
}

// expectClosed asks for an end without a byte, in whatever way.
func expectClosed(t testing.TB, c *net.TCPConn) {
	t.Helper()
	var b [1]byte
	if n, err := c.Read(b[:]); n != 0 || err != io.EOF && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read %d bytes, %v; want the connection closed", n, err)
	}
}

// reset aborts the connection.
func reset(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// roundTrip says that a connection to an echo backend works.
func roundTrip(t testing.TB, c *net.TCPConn) {
	t.Helper()
	send(t, c, "ping")
	expect(t, c, "ping")
}

// fill writes until nobody takes any more for a while, and returns how much that was.
func fill(c *net.TCPConn, s *stream) (written int64, err error) {
	chunk := make([]byte, 64<<10)
	for {
		s.read(chunk)
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := c.Write(chunk)
		written += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = c.SetWriteDeadline(time.Now().Add(patience))
			return written, nil
		}
		if err != nil {
			return written, err
		}
		if written > 256<<20 {
			return written, errors.New("nobody reads and yet somebody takes it all")
		}
	}
}

func mustFill(t testing.TB, c *net.TCPConn, s *stream) int64 {
	t.Helper()
	n, err := fill(c, s)
	if err != nil {
		t.Fatalf("write of what nobody reads: %d bytes, %v", n, err)
	}
	return n
}

// stream is an endless sequence of bytes that no other stream's equals: what
// is lost, doubled, out of order or somebody else's does not match it.
type stream struct {
	block []byte
	at    int
}

// newStream makes the stream of an id. A block's length has no common factor
// with any buffer's.
func newStream(id uint64) *stream {
	const size = 65537
	s := &stream{block: make([]byte, size)}
	x := id
	for i := range s.block {
		if i%8 == 0 {
			x += 0x9e3779b97f4a7c15
		}
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		s.block[i] = byte(z >> (8 * (i % 8)))
	}
	return s
}

// read fills b with the next bytes.
func (s *stream) read(b []byte) {
	for len(b) > 0 {
		n := copy(b, s.block[s.at:])
		b = b[n:]
		s.at = (s.at + n) % len(s.block)
	}
}

// matches says whether b is what comes next.
func (s *stream) matches(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(s.block)-s.at)
		if !bytes.Equal(b[:n], s.block[s.at:s.at+n]) {
			return false
		}
		b = b[n:]
		s.at = (s.at + n) % len(s.block)
	}
	return true
}
