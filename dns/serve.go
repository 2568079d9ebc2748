package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// forwardGrace is how long queries that were forwarded may take still when the
// server ends.
const forwardGrace = time.Second

// Serve answers on all of the sockets until ctx ends, and closes them. What has
// been asked by then is answered.
func (s *Server) Serve(ctx context.Context, packets []net.PacketConn, listeners ...net.Listener) error {
	defer func() {
		for _, c := range packets {
			_ = c.Close()
		}
		for _, ln := range listeners {
			_ = ln.Close()
		}
	}()
	// Forwarded queries may outlive ctx, and end with forwards.
	forwards, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var asking sync.WaitGroup
	defer asking.Wait()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(forwardGrace, cancel) })
	defer stop()
	for _, c := range packets {
		u, err := newUDP(s, c, forwards, &asking)
		if err != nil {
			return fmt.Errorf("dns on %s: %w", c.LocalAddr(), err)
		}
		g.Go(func() error { return u.serve(ctx) })
	}
	for _, ln := range listeners {
		t := &tcp{Server: s, ln: ln, forwards: forwards, asking: &asking, conns: map[*tcpConn]struct{}{}}
		g.Go(func() error { return t.serve(ctx) })
	}
	return g.Wait()
}

// pause waits after an error of a socket that may pass, as when there are no
// descriptors left.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
}

// over says whether an error means that the socket is at its end.
func over(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, net.ErrClosed)
}
