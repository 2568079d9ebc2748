package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// serve accepts one connection and hands it to f.
func (p *pop) serve(t testing.TB, at netip.AddrPort, f func(net.Conn) error) (done <-chan error) {
	t.Helper()
	l, err := p.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		l.Close()
		if err == nil {
			err = f(c)
		}
		result <- err
	}()
	return result
}

func (p *pop) dialTCP(t testing.TB, to netip.AddrPort) *stackConn {
	t.Helper()
	c, err := p.DialContext(within(t, 20*time.Second), "tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*stackConn)
}

func TestTransfer(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	for family, at := range b.families(80) {
		t.Run(family, func(t *testing.T) {
			const size = 50 << 20
			sum := sha256.New()
			done := b.serve(t, at, func(c net.Conn) error {
				defer c.Close()
				n, err := io.Copy(sum, c)
				if err == nil && n != size {
					err = fmt.Errorf("%d bytes arrived", n)
				}
				return err
			})
			c := a.dialTCP(t, at)
			sent := sha256.New()
			random := mathrand.NewChaCha8([32]byte{1})
			start := time.Now()
			if _, err := io.CopyN(io.MultiWriter(sent, c), random, size); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			t.Logf("%.0f MB/s", size/1e6/time.Since(start).Seconds())
			if !bytes.Equal(sum.Sum(nil), sent.Sum(nil)) {
				t.Error("what arrived is not what was sent")
			}
		})
	}
}

func TestHalfClose(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	for family, at := range b.families(80) {
		t.Run(family+", who dials first", func(t *testing.T) {
			done := b.serve(t, at, func(c net.Conn) error {
				defer c.Close()
				got, err := io.ReadAll(c)
				if err != nil {
					return err
				}
				_, err = c.Write(append(got, " yes"...))
				return err
			})
			c := a.dialTCP(t, at)
			fmt.Fprint(c, "question")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
				t.Errorf("write after CloseWrite: %v, want EPIPE", err)
			}
			if got, err := io.ReadAll(c); string(got) != "question yes" || err != nil {
				t.Errorf("answer %q, %v", got, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Run(family+", who accepts first", func(t *testing.T) {
			done := b.serve(t, at, func(c net.Conn) error {
				defer c.Close()
				if err := c.(*stackConn).CloseWrite(); err != nil {
					return err
				}
				got, err := io.ReadAll(c)
				if string(got) != "still here" {
					return fmt.Errorf("read %q, %w", got, err)
				}
				return err
			})
			c := a.dialTCP(t, at)
			if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			fmt.Fprint(c, "still here")
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReset(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	for family, at := range b.families(80) {
		t.Run(family, func(t *testing.T) {
			done := b.serve(t, at, func(c net.Conn) error {
				if _, err := c.Read(make([]byte, 5)); err != nil {
					return err
				}
				if err := c.(*stackConn).SetLinger(0); err != nil {
					return err
				}
				return c.Close()
			})
			c := a.dialTCP(t, at)
			fmt.Fprint(c, "hello")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read: %v, want ECONNRESET", err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read once more: %v, want ECONNRESET: what was cut off is no end", err)
			}
		})
	}
}

func TestDialErrors(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	for family, at := range b.families(81) {
		if _, err := a.DialContext(within(t, 20*time.Second), "tcp", at.String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, nobody listens: %v, want ECONNREFUSED", family, err)
		}
	}
	start := time.Now()
	_, err := a.DialContext(within(t, 50*time.Millisecond), "tcp", "10.50.0.99:80")
	if timeout := net.Error(nil); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("no such peer: %v, want a timeout", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the timeout of 50 ms took %v", took)
	}
	if _, err := a.DialContext(within(t, 20*time.Second), "tcp", "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("outside of the network: %v, want it unreachable", err)
	}
	for _, bad := range []struct{ network, addr string }{{"tcp", "name:80"}, {"tcp", "10.50.0.2"}, {"udp", "10.50.0.2:80"}, {"tcp6", "10.50.0.2:80"}} {
		if c, err := a.DialContext(t.Context(), bad.network, bad.addr); err == nil {
			c.Close()
			t.Errorf("dialed %s %s", bad.network, bad.addr)
		}
	}
}

func TestDeadlinesAndClose(t *testing.T) {
	a, b := newPOP(t, 1), newPOP(t, 2)
	join(t, a, b)
	hold := make(chan struct{})
	done := b.serve(t, b.at(80), func(c net.Conn) error { <-hold; return c.Close() })
	c := a.dialTCP(t, b.at(80))
	c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want a timeout", err)
	}
	c.SetReadDeadline(time.Time{})
	result := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); result <- err }()
	c.SetReadDeadline(time.Now()) // also binds a read that waits
	if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v, want a timeout", err)
	}
	big := make([]byte, 64<<20)
	c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Write(big); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 {
		t.Errorf("write to who does not read: %d, %v, want a timeout", n, err)
	}
	c.SetDeadline(time.Time{})
	go func() { _, err := c.Read(make([]byte, 1)); result <- err }()
	c.Close()
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v, want ErrClosed", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v, want ErrClosed", err)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListen(t *testing.T) {
	a := newPOP(t, 1)
	l, err := a.Listen(t.Context(), netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if port == 0 {
		t.Error("no port")
	}
	if _, err := a.Listen(t.Context(), netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port))); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("same port: %v, want EADDRINUSE", err)
	}
	if _, err := a.Listen(t.Context(), netip.MustParseAddrPort("10.50.0.2:80")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("not ours: %v, want EADDRNOTAVAIL", err)
	}
	// Of both families, and to itself.
	for family, at := range a.families(uint16(port)) {
		c, err := a.DialContext(within(t, 10*time.Second), "tcp", at.String())
		if err != nil {
			t.Errorf("%s: %v", family, err)
			continue
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		c.Close()
	}
	result := make(chan error, 1)
	go func() { _, err := l.Accept(); result <- err }()
	l.Close()
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, want ErrClosed", err)
	}
}

func TestMTU(t *testing.T) {
	for _, mtu := range []int{minMTU6, 9000, maxMTU} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			with := func(cfg *Config) { cfg.MTU = mtu }
			a, b := newPOP(t, 1, with), newPOP(t, 2, with)
			join(t, a, b)
			b.echo(t, 80)
			for _, at := range b.families(80) {
				asks(t, a.dialTCP(t, at), string(randomBytes(200_000)))
			}
		})
	}
}

// Many connections at once, through a hub, and some that end.
func TestManyConnections(t *testing.T) {
	hub, a, b := newPOP(t, 1, forwards), newPOP(t, 2), newPOP(t, 3)
	star(t, hub, a, b)
	b.echo(t, 80)
	at := []netip.AddrPort{b.at(80), netip.AddrPortFrom(b.v6, 80)}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			c, err := a.DialContext(within(t, 30*time.Second), "tcp", at[i%2].String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(30 * time.Second))
			sent := randomBytes(1000 * (i + 1))
			go func() {
				c.Write(sent)
				c.(*stackConn).CloseWrite()
			}()
			if i%10 == 9 {
				c.(*stackConn).SetLinger(0)
				return
			}
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: %d bytes of %d came back: %v", i, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
}
