//go:build !linux

package proxy

import (
	"context"
	"net"
)

// hasReactor says whether this system has the reactor.
const hasReactor = false

// groups are what only the reactor has.
type groups struct{}

func (*groups) wake()         {}
func (*groups) waiting() bool { return false }

// serveReactor is never reached here.
func (s *Server) serveReactor(ctx context.Context, ln *net.TCPListener, port *Port, others []*net.TCPListener) error {
	return s.serveGoroutines(ctx, ln, port, others)
}
