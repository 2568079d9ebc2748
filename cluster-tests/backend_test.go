package clustertests

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

// row is a row of the table backends, its fields in the order of the columns.
type row struct {
	id, app, region string
	addr            netip.AddrPort
	healthy, weight int
	soft, hard      int
}

// at is a row with the usual figures.
func at(id, region string, addr netip.AddrPort) row {
	return row{id: id, app: "myapp", region: region, addr: addr, healthy: 1, weight: 1, soft: 100}
}

func (r row) values() string {
	return fmt.Sprintf("('%s','%s','%s','%s',%d,%d,%d,%d,%d,0)",
		r.id, r.app, r.region, r.addr.Addr(), r.addr.Port(), r.healthy, r.weight, r.soft, r.hard)
}

// insert is the statement for some rows, positional as the seed's.
func insert(rows ...row) string {
	all := make([]string, len(rows))
	for i, r := range rows {
		all[i] = r.values()
	}
	return "INSERT INTO backends VALUES " + strings.Join(all, ",") + ";"
}

// makeDB makes a routing database as an operator does, before any edgeproxy has seen it.
func makeDB(t testing.TB, path string, rows ...row) {
	t.Helper()
	text := repoFile(t, "sql/create_routing_db.sql")
	if len(rows) > 0 {
		text += insert(rows...)
	}
	script(t, path, text)
}

// seed makes the POP's database.
func (p *pop) seed(t testing.TB, rows ...row) {
	t.Helper()
	makeDB(t, p.db, rows...)
}

// backend is one that says who it is and echoes lines.
type backend struct {
	*mockbackend.TCP
	addr netip.AddrPort
}

// startBackend runs a backend until the test ends.
func startBackend(t testing.TB, id, region string) *backend {
	t.Helper()
	return serveBackend(t, id, region, listen(t))
}

// serveBackend is startBackend on a listener of the test's.
func serveBackend(t testing.TB, id, region string, ln net.Listener) *backend {
	t.Helper()
	b, err := mockbackend.NewTCP(mockbackend.Config{ID: id, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one result, fetched at the end
	go func() { done <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("backend %s: %v", id, err)
		}
	})
	return &backend{b, addrOf(ln)}
}

func (b *backend) row() row { return at(b.ID(), b.Region(), b.addr) }

// startBackendOn is startBackend on an address that others reach.
func startBackendOn(t testing.TB, id, region, host string) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	return serveBackend(t, id, region, ln).addr
}

// startBackends runs one in each region, named as in sa-1.
func startBackends(t testing.TB, regions ...string) []row {
	t.Helper()
	var rows []row
	for _, r := range regions {
		rows = append(rows, startBackend(t, r+"-1", r).row())
	}
	return rows
}

func listen(t testing.TB) *net.TCPListener {
	t.Helper()
	return listenAt(t, "127.0.0.1")
}

// listenKept listens on an address whose port nobody else is given while the listener is closed.
func listenKept(t testing.TB) *net.TCPListener {
	t.Helper()
	return listenAt(t, ownHost())
}

func listenAt(t testing.TB, host string) *net.TCPListener {
	t.Helper()
	ln, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	return ln.(*net.TCPListener)
}

func addrOf(ln net.Listener) netip.AddrPort { return ln.Addr().(*net.TCPAddr).AddrPort() }

// startHandler runs a backend that does with each connection what the test
// wants. Connections are closed when do returns, or when the test ends.
func startHandler(t testing.TB, do func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			all.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
				defer stop()
				defer c.Close()
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		ln.Close()
		all.Wait()
	})
	return addrOf(ln)
}

// refusing is an address that refuses connections until the test ends: a
// socket holds the port and does not listen.
func refusing(t testing.TB) netip.AddrPort {
	t.Helper()
	fd := boundSocket(t)
	return socketAddr(t, fd)
}

// blackhole is an address at which connects get no answer: the queue of a
// listener that never accepts is full.
func blackhole(t testing.TB) netip.AddrPort {
	t.Helper()
	fd := boundSocket(t)
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	addr := socketAddr(t, fd)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr.String(), 200*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue of a listener has no end")
	return addr
}

func boundSocket(t testing.TB) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	syscall.CloseOnExec(fd)
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	return fd
}

func socketAddr(t testing.TB, fd int) netip.AddrPort {
	t.Helper()
	sa, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	in := sa.(*syscall.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), uint16(in.Port))
}

// reset closes a connection so that the other side sees a reset.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// readAll reads to the end, whatever it is.
func readAll(c io.Reader) (string, error) {
	b, err := io.ReadAll(c)
	return string(b), err
}
