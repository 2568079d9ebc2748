package proxy

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
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
	return hidden{c, c.(*net.TCPConn)}, nil
}

type hidden struct {
	net.Conn
	tcp *net.TCPConn
}

func (h hidden) CloseWrite() error           { return h.tcp.CloseWrite() }
func (h hidden) SetLinger(seconds int) error { return h.tcp.SetLinger(seconds) }
