package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

// backend is a mock backend that can die and come back at its address.
type backend struct {
	id     string
	region geo.Region
	addr   *net.TCPAddr

	mu         sync.Mutex
	stop       context.CancelFunc // nil: it is dead
	ended      chan struct{}
	open, peak int // connections now, and at most
}

// Ports of backends: none that a system gives out by itself (Linux 32768 and
// up, macOS 49152 and up), so that nobody gets the port of one that is dead,
// and no connect to it meets itself.
const firstPort, lastPort = 20000, 29999

// newBackend serves one on a free port.
func newBackend(serve func(*backend) error, id string, region geo.Region) (*backend, error) {
	b := &backend{id: id, region: region}
	for range 200 {
		b.addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: firstPort + rand.IntN(lastPort-firstPort)}
		err := serve(b)
		if err == nil {
			return b, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("start backend %s: no free port between %d and %d", id, firstPort, lastPort)
}

// start listens and serves until kill or the end of ctx.
func (b *backend) start(ctx context.Context, running *sync.WaitGroup) error {
	mock, err := mockbackend.NewTCP(mockbackend.Config{ID: b.id, Region: string(b.region)})
	if err != nil {
		return err
	}
	ln, err := net.ListenTCP("tcp", b.addr)
	if err != nil {
		return fmt.Errorf("start backend %s: %w", b.id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	ctx, b.stop = context.WithCancel(ctx)
	ended := make(chan struct{})
	b.ended = ended
	running.Go(func() {
		defer close(ended)
		_ = mock.Serve(ctx, &counting{ln, b}) // ends with ctx
	})
	return nil
}

// kill ends it as the death of a process does: connections break, and connects
// are refused. It must be alive.
func (b *backend) kill() {
	b.mu.Lock()
	stop, ended := b.stop, b.ended
	b.stop = nil
	b.mu.Unlock()
	stop()
	<-ended
}

// alive says whether it serves.
func (b *backend) alive() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stop != nil
}

// now is how many connections are open.
func (b *backend) now() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open
}

// most is the greatest number of connections that were open at a time.
func (b *backend) most() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peak
}

func (b *backend) count(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open += n
	b.peak = max(b.peak, b.open)
}

// counting counts a backend's connections where they arrive: that is exact,
// whatever the POPs believe.
type counting struct {
	net.Listener
	b *backend
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.b.count(1)
	return &counted{Conn: c, closed: sync.OnceFunc(func() { l.b.count(-1) })}, nil
}

type counted struct {
	net.Conn
	closed func()
}

func (c *counted) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// pause says whether ctx outlived it.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
