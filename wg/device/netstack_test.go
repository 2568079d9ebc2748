package device

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
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
