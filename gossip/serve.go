package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	firstPause = 5 * time.Millisecond // after a failed accept, doubling
	lastPause  = time.Second
)

// Serve takes the streams of peers that dial us, until ctx or Run ends, and
// waits for them. It closes the listener.
func (m *Mesh) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-ctx.Done():
		case <-m.ended:
		}
		cancel()
		_ = ln.Close()
	})
	config := m.cfg.Credentials.ServerTLS()
	handshakes := make(chan struct{}, m.cfg.Handshakes) // one for each that is under way
	for retry := firstPause; ; {
		select {
		case handshakes <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		if err == nil {
			retry = firstPause
			wg.Go(func() {
				s, err := m.acceptPeer(ctx, conn, config)
				<-handshakes
				if err != nil {
					m.refused(ctx, conn.RemoteAddr().String(), err)
					return
				}
				m.finish(s, s.run(ctx))
			})
			continue
		}
		<-handshakes
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept peers: %w", err)
		}
		m.log.Error().Err(err).Msg("peers not accepted, tried again")
		pause(ctx, retry)
		retry = min(2*retry, lastPause)
	}
}

// refused is after a handshake that came to nothing. Anybody can cause it.
func (m *Mesh) refused(ctx context.Context, addr string, err error) {
	if ctx.Err() != nil || errors.Is(err, errDuplicate) || errors.Is(err, errReplaced) {
		return
	}
	m.stats.handshakesRefused.Add(1)
	m.countFrame(err)
	var r *refusal
	node := ""
	if errors.As(err, &r) {
		node = r.node
	}
	m.conflict(err, node, addr)
	if m.mayWarn(&m.strangers, "refused") {
		m.log.Warn().Err(err).Str("peer", node).Str("addr", addr).Msg("peer refused")
	}
}

// refusal is an error about a peer that has proved who it is.
type refusal struct {
	node string
	err  error
}

func (r *refusal) Error() string { return fmt.Sprintf("node %q: %v", r.node, r.err) }
func (r *refusal) Unwrap() error { return r.err }
