package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// links is the network between the POPs: a relay for each address at which a
// POP reaches another, which can be cut.
//
// Why relays: a cut must be one that the POPs cannot tell from the real thing,
// without rights, on Linux and macOS. So the POPs keep their own sockets, TLS
// and timers, and everything they say passes an ordinary socket of the lab. Cut,
// it is silent: bytes wait, datagrams vanish, nobody gets an error, as when a
// cable is pulled; what TCP would send again goes on when it heals. What node
// gives is only where to send (Options.Via). A namespace would need root,
// an in-memory network would replace the sockets that are to be shown.
type links struct {
	running *sync.WaitGroup // of the relays
	dropped atomic.Int64    // datagrams

	mu     sync.Mutex
	relays map[hop]string           // where each hop's relay listens
	owner  map[string]string        // POP of a mesh address
	cuts   map[string]chan struct{} // POPs that are cut off; closed when they are not any more
	err    error                    // why a relay could not be made
}

// hop is one POP's way to one address.
type hop struct{ from, to string }

func newLinks(running *sync.WaitGroup) *links {
	return &links{running: running, relays: map[hop]string{}, owner: map[string]string{}, cuts: map[string]chan struct{}{}}
}

// via is node.Options.Via of a POP. Relays are made by whoever sends first, and
// live until ctx ends.
func (l *links) via(ctx context.Context, from string) func(addr string) string {
	return func(to string) string {
		l.mu.Lock()
		defer l.mu.Unlock()
		h := hop{from, to}
		at, ok := l.relays[h]
		if !ok {
			var err error
			if at, err = l.relay(ctx, h); err != nil {
				l.err = errors.Join(l.err, err)
				at = "127.0.0.1:0" // nowhere: never around the relay
			}
			l.relays[h] = at
		}
		return at
	}
}

// failure is why a relay could not be made; nil: all could.
func (l *links) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// own says whose the addresses are.
func (l *links) own(pop string, addrs ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addrs {
		l.owner[a] = pop
	}
}

// cut takes a POP off the mesh; heal puts it back. Each says whether that
// changed something.
func (l *links) cut(pop string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cuts[pop] != nil {
		return false
	}
	l.cuts[pop] = make(chan struct{})
	return true
}

func (l *links) heal(pop string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	healed := l.cuts[pop]
	if healed == nil {
		return false
	}
	delete(l.cuts, pop)
	close(healed)
	return true
}

// isCut says whether the POP is off the mesh now.
func (l *links) isCut(pop string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cuts[pop] != nil
}

// blocked is nil where the hop is open, else closed when something changes.
func (l *links) blocked(h hop) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.cuts[h.from]; c != nil {
		return c
	}
	if c := l.cuts[l.owner[h.to]]; c != nil {
		return c
	}
	return nil
}

// wait returns when the hop is open; false: the lab ends.
func (l *links) wait(ctx context.Context, h hop) bool {
	for {
		c := l.blocked(h)
		if c == nil {
			return ctx.Err() == nil
		}
		select {
		case <-c:
		case <-ctx.Done():
			return false
		}
	}
}

// relay opens the hop's TCP and UDP sockets on one port, as gossip wants.
func (l *links) relay(ctx context.Context, h hop) (string, error) {
	var tcp net.Listener
	var udp net.PacketConn
	var err error
	for range 20 { // a port may be free in one of the two only
		if tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			break
		}
		if udp, err = net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			break
		}
		_ = tcp.Close()
	}
	if err != nil {
		return "", fmt.Errorf("relay from %s to %s: %w", h.from, h.to, err)
	}
	l.running.Go(func() { l.datagrams(ctx, h, udp) })
	l.running.Go(func() { l.accept(ctx, h, tcp) })
	return tcp.Addr().String(), nil
}

// datagrams passes them one way: the answers take the other POP's hop.
func (l *links) datagrams(ctx context.Context, h hop, c net.PacketConn) {
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	to, err := net.ResolveUDPAddr("udp", h.to)
	if err != nil {
		_ = c.Close()
		return
	}
	buf := make([]byte, 1<<16)
	for {
		n, _, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		switch {
		case err != nil:
		case l.blocked(h) != nil:
			l.dropped.Add(1)
		default:
			_, _ = c.WriteTo(buf[:n], to) // datagrams may be lost
		}
	}
}

func (l *links) accept(ctx context.Context, h hop, ln net.Listener) {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		c, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		streams.Go(func() { l.stream(ctx, h, c) })
	}
}

// stream joins a connection with one to the address, both ways.
func (l *links) stream(ctx context.Context, h hop, near net.Conn) {
	defer near.Close()
	if !l.wait(ctx, h) {
		return
	}
	far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", h.to)
	if err != nil {
		_ = near.(*net.TCPConn).SetLinger(0) // refused, as the address itself would
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })()
	var both sync.WaitGroup
	both.Go(func() { l.copy(ctx, h, far, near) })
	both.Go(func() { l.copy(ctx, h, near, far) })
	both.Wait()
}

// copy passes bytes, an end and a break, each once the hop is open.
func (l *links) copy(ctx context.Context, h hop, dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if !l.wait(ctx, h) {
			return
		}
		if n > 0 {
			if _, failed := dst.Write(buf[:n]); failed != nil {
				_ = src.Close()
				return
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			_ = dst.(*net.TCPConn).CloseWrite()
			return
		case err != nil:
			_ = dst.Close()
			return
		}
	}
}
