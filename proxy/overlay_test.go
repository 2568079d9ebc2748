package proxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// everyPath are the implementations, and the goroutines with backends that are
// reached through an overlay in this process.
func everyPath() []implementation {
	return append(slices.Clone(implementations), implementation{"in process", func(cfg Config, r *route.Router, g Geo, log zerolog.Logger) relayUnderTest {
		cfg.Relay, cfg.Overlay = Goroutines, everything{}
		return counting{New(cfg, r, g, log)}
	}})
}

// everything is an overlay that reaches every backend. Its connections are the
// kernel's, without their descriptors.
type everything struct{}

func (everything) Reaches(netip.Addr) bool { return true }

func (everything) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	raw, err := c.(*net.TCPConn).SyscallConn()
	return &hidden{Conn: c, tcp: c.(*net.TCPConn), raw: raw}, err
}

type hidden struct {
	net.Conn
	tcp   *net.TCPConn
	raw   syscall.RawConn
	ended atomic.Bool // by us
}

func (h *hidden) SetLinger(seconds int) error { return h.tcp.SetLinger(seconds) }

func (h *hidden) CloseWrite() error {
	h.ended.Store(true)
	return h.tcp.CloseWrite()
}

// Read has the overlay's contract: the kernel tells of a reset once, and that
// may have been a write. See direction.eof.
func (h *hidden) Read(b []byte) (int, error) {
	n, err := h.tcp.Read(b)
	if err == io.EOF && !h.ended.Load() {
		cut := false
		_ = h.raw.Control(func(fd uintptr) { cut = poll(int(fd))&(unix.POLLHUP|unix.POLLERR) == unix.POLLHUP })
		if cut && !h.ended.Load() {
			err = syscall.ECONNRESET
		}
	}
	return n, err
}
