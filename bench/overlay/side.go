//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	block     = 256 << 10
	dialLimit = 20 * time.Second
	pingTurn  = 100 // requests on one way before the other's turn
)

// side is the process at one end.
type side struct {
	self, other place
	way         *way
	start       time.Time
	received    atomic.Int64

	serving   sync.WaitGroup // accepting, connections, streams
	mu        sync.Mutex
	open      map[io.Closer]struct{}
	closed    bool
	streaming []net.Conn // of the client
}

// runRole is main of a process that overlay has started.
func runRole(role string) int {
	s := &side{start: time.Now(), open: make(map[io.Closer]struct{})}
	do := s.do
	switch role {
	case roleEnd:
	case roleWireGuard:
		do = s.sealOnly
	default:
		fmt.Fprintf(os.Stderr, "overlay: unknown role %q\n", role)
		return 1
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	defer s.close()
	for {
		var o order
		if err := in.Decode(&o); errors.Is(err, io.EOF) {
			return 0
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "overlay:", err)
			return 1
		}
		a, err := do(o)
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return 1
		}
	}
}

// sealOnly is the wireguard role.
func (s *side) sealOnly(o order) (a answer, err error) {
	if o.Open == nil {
		return a, errors.New("no order for this role")
	}
	s.way, err = openLibrary(o.Open.Self, o.Open.Other)
	return a, err
}

func (s *side) do(o order) (a answer, err error) {
	switch {
	case o.Open != nil:
		s.self, s.other = o.Open.Self, o.Open.Other
		if s.way, err = openWay(s.self, s.other); err == nil && s.self.Backend {
			err = s.listen()
		}
	case o.Stream != nil:
		err = s.stream(*o.Stream)
	case o.Count:
		a.Bytes, a.At = s.received.Load(), time.Since(s.start)
	case o.Stop:
		for _, c := range s.streaming {
			s.forget(c)
		}
		s.streaming = nil
	case o.Ping > 0:
		a.Over, a.Bare, err = s.ping(o.Ping)
	default:
		err = errors.New("empty order")
	}
	return a, err
}

// keep has close also close c; false if that has been.
func (s *side) keep(c io.Closer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *side) forget(c io.Closer) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.Close()
}

func (s *side) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
	if s.way != nil {
		s.way.close()
	}
}

// listen serves both ways.
func (s *side) listen() error {
	ctx := context.Background()
	over, err := s.way.listen(ctx, netip.AddrPortFrom(s.self.inner(), overlayPort))
	if err != nil {
		return err
	}
	beside, err := listenKernel(ctx, netip.AddrPortFrom(s.self.Bare.Addr(), barePort))
	if err != nil {
		over.Close()
		return err
	}
	for _, l := range []net.Listener{over, beside} {
		if s.keep(l) {
			s.serving.Go(func() { s.accept(l) })
		}
	}
	return nil
}

func (s *side) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if s.keep(c) {
			s.serving.Go(func() {
				defer s.forget(c)
				s.serve(c)
			})
		}
	}
}

// The first byte of a connection says what it is for.
const (
	wantDownload = 'd'
	wantUpload   = 'u'
	wantEcho     = 'e'
)

func (s *side) serve(c net.Conn) {
	var what [1]byte
	if _, err := io.ReadFull(c, what[:]); err != nil {
		return
	}
	switch what[0] {
	case wantDownload:
		send(c)
	case wantUpload:
		s.receive(c)
	case wantEcho:
		for b := what[:]; ; {
			if _, err := c.Read(b); err != nil {
				return
			}
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// send ends when the other side does.
func send(c net.Conn) {
	for buf := make([]byte, block); ; {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func (s *side) receive(c net.Conn) {
	for buf := make([]byte, block); ; {
		n, err := c.Read(buf)
		s.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// dial is for the client. The byte says what for.
func (s *side) dial(dial dialFunc, to netip.AddrPort, what byte) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	defer cancel()
	c, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{what}); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (s *side) stream(o streaming) error {
	for range o.Streams {
		what := byte(wantDownload)
		if o.Up {
			what = wantUpload
		}
		c, err := s.dial(s.way.dial, netip.AddrPortFrom(s.other.inner(), overlayPort), what)
		if err != nil {
			return err
		}
		if !s.keep(c) {
			return net.ErrClosed
		}
		s.streaming = append(s.streaming, c)
		s.serving.Go(func() {
			if o.Up {
				send(c)
			} else {
				s.receive(c)
			}
		})
	}
	return nil
}

// ping measures the mode's way and the one beside it in turns.
func (s *side) ping(long time.Duration) (over, beside roundTrips, err error) {
	a, err := s.dial(s.way.dial, netip.AddrPortFrom(s.other.inner(), overlayPort), wantEcho)
	if err != nil {
		return over, beside, err
	}
	defer a.Close()
	b, err := s.dial(dialKernel, netip.AddrPortFrom(s.other.Bare.Addr(), barePort), wantEcho)
	if err != nil {
		return over, beside, err
	}
	defer b.Close()
	end := time.Now().Add(long)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(end.Add(dialLimit)); err != nil {
			return over, beside, err
		}
	}
	var tookOver, tookBeside []time.Duration
	for turn := 0; turn == 0 || len(tookOver) == 0 || time.Now().Before(end); turn++ {
		if tookOver, err = pingTurns(a, tookOver); err != nil {
			return over, beside, err
		}
		if tookBeside, err = pingTurns(b, tookBeside); err != nil {
			return over, beside, err
		}
		if turn == 0 { // warmed up
			tookOver, tookBeside = tookOver[:0], tookBeside[:0]
		}
	}
	return summarize(tookOver), summarize(tookBeside), nil
}

func pingTurns(c net.Conn, took []time.Duration) ([]time.Duration, error) {
	var b [1]byte
	for range pingTurn {
		start := time.Now()
		if _, err := c.Write(b[:]); err != nil {
			return took, err
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return took, err
		}
		took = append(took, time.Since(start))
	}
	return took, nil
}

func summarize(took []time.Duration) roundTrips {
	slices.Sort(took)
	return roundTrips{N: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99)}
}

// quantile is of a sorted list that is not empty: the smallest that at least the share q does not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}
