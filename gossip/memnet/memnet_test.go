package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"go.uber.org/goleak"
)

const seed = 7

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f in virtual time on a network that is closed behind it.
func bubble(t *testing.T, cfg memnet.Config, f func(t *testing.T, n *memnet.Net)) {
	t.Helper()
	cfg.Seed = seed
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(cfg)
		defer n.Close()
		f(t, n)
	})
}

// pair is a stream from 10.0.0.2 to 10.0.0.1:80.
func pair(t *testing.T, n *memnet.Net) (client, server net.Conn) {
	t.Helper()
	ln, err := n.Host("10.0.0.1").Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if client, err = n.Host("10.0.0.2").Dial(t.Context(), "10.0.0.1:80"); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, server
}

func took(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func between(t *testing.T, what string, d, low, high time.Duration) {
	t.Helper()
	if d < low || d > high {
		t.Errorf("%s took %v, want %v to %v", what, d, low, high)
	}
}

func TestStreamLatencyAndEnd(t *testing.T) {
	const way = 50 * time.Millisecond
	bubble(t, memnet.Config{Latency: way}, func(t *testing.T, n *memnet.Net) {
		var client, server net.Conn
		between(t, "dial", took(func() { client, server = pair(t, n) }), 2*way, 2*way)
		if got, want := server.RemoteAddr().String(), client.LocalAddr().String(); got != want {
			t.Errorf("server sees %s, client is %s", got, want)
		}
		if _, err := client.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		client.(interface{ CloseWrite() error }).CloseWrite()
		between(t, "delivery", took(func() {
			if b, err := io.ReadAll(server); err != nil || string(b) != "question" {
				t.Errorf("server read %q, %v", b, err)
			}
		}), way, way)
		server.Write([]byte("answer"))
		server.Close()
		if b, err := io.ReadAll(client); err != nil || string(b) != "answer" {
			t.Errorf("client read %q, %v: data written before Close must arrive", b, err)
		}
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after own Close: %v", err)
		}
		if _, err := client.Write([]byte("x")); err == nil {
			t.Error("write after CloseWrite worked")
		}
	})
}

func TestStreamWritePastReader(t *testing.T) {
	bubble(t, memnet.Config{}, func(t *testing.T, n *memnet.Net) {
		client, server := pair(t, n)
		server.Close()
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed peer: %v, want EPIPE", err)
		}
		if _, err := client.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read from a closed peer: %v, want EOF", err)
		}
	})
}

// A lossy, jittery line gives the bytes in order all the same, late.
func TestStreamOrderOverBadLine(t *testing.T) {
	cfg := memnet.Config{Latency: 20 * time.Millisecond, Jitter: 30 * time.Millisecond, Loss: 0.2, Duplicate: 0.2, Reorder: 0.5}
	bubble(t, cfg, func(t *testing.T, n *memnet.Net) {
		client, server := pair(t, n)
		want := make([]byte, 2<<20)
		rnd := rand.New(rand.NewPCG(seed, 0))
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		go func() {
			for rest := want; len(rest) > 0; {
				k := min(len(rest), 1+rnd.IntN(60_000))
				client.Write(rest[:k])
				rest = rest[k:]
			}
			client.Close()
		}()
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("read %d bytes of %d, equal %v, %v", len(got), len(want), bytes.Equal(got, want), err)
		}
	})
}

func TestStreamBackPressureAndDeadlines(t *testing.T) {
	bubble(t, memnet.Config{Latency: time.Millisecond}, func(t *testing.T, n *memnet.Net) {
		client, server := pair(t, n)
		client.SetWriteDeadline(time.Now().Add(time.Second))
		var sent int
		var err error
		between(t, "blocked write", took(func() { sent, err = client.Write(make([]byte, 10<<20)) }), time.Second, time.Second)
		if !errors.Is(err, os.ErrDeadlineExceeded) || sent == 0 || sent > 1<<20 {
			t.Errorf("wrote %d, %v: want a bounded part and a timeout", sent, err)
		}
		var ne net.Error
		if !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("%v is no timeout to package net's users", err)
		}
		client.SetReadDeadline(time.Now().Add(time.Second))
		between(t, "silent read", took(func() { _, err = client.Read(make([]byte, 1)) }), time.Second, time.Second)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("silent read: %v", err)
		}
		// A deadline set while the read waits counts too.
		client.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { client.SetReadDeadline(time.Now()) })
		if _, err = client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read under a later deadline: %v", err)
		}
		server.Close()
	})
}

func TestCutStallsStreams(t *testing.T) {
	for name, cut := range map[string]func(*memnet.Net){
		"both ways": func(n *memnet.Net) { n.Cut("10.0.0.1", "10.0.0.2") },
		"data":      func(n *memnet.Net) { n.CutOneWay("10.0.0.2", "10.0.0.1") },
		"partition": func(n *memnet.Net) { n.Partition("10.0.0.1") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, memnet.Config{Latency: time.Millisecond}, func(t *testing.T, n *memnet.Net) {
				client, server := pair(t, n)
				cut(n)
				client.Write([]byte("x"))
				server.SetReadDeadline(time.Now().Add(time.Minute))
				b := make([]byte, 1)
				if _, err := server.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("read over a cut line: %v", err)
				}
				server.SetReadDeadline(time.Time{})
				time.AfterFunc(time.Minute, n.HealAll)
				between(t, "read after healing", took(func() {
					if _, err := server.Read(b); err != nil {
						t.Error(err)
					}
				}), time.Minute, time.Minute+time.Second)
			})
		})
	}
}

// With the way back cut, data arrives but the writer's window never moves on.
func TestCutAcknowledgements(t *testing.T) {
	bubble(t, memnet.Config{}, func(t *testing.T, n *memnet.Net) {
		client, server := pair(t, n)
		n.CutOneWay("10.0.0.1", "10.0.0.2")
		go io.Copy(io.Discard, server)
		client.SetWriteDeadline(time.Now().Add(time.Second))
		if sent, err := client.Write(make([]byte, 10<<20)); !errors.Is(err, os.ErrDeadlineExceeded) || sent > 1<<20 {
			t.Errorf("wrote %d, %v", sent, err)
		}
		server.Close()
	})
}

func TestDial(t *testing.T) {
	bubble(t, memnet.Config{Latency: 10 * time.Millisecond}, func(t *testing.T, n *memnet.Net) {
		a, b := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		if _, err := b.Dial(t.Context(), "10.0.0.1:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		ln, err := a.Listen(80)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Listen(80); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("port taken twice: %v", err)
		}
		for _, addr := range []string{"10.0.0.1:80", "10.9.9.9:80"} { // cut; no such host
			n.Cut("10.0.0.1", "10.0.0.2")
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			between(t, "dial into nothing", took(func() { _, err = b.Dial(ctx, addr) }), 5*time.Second, 5*time.Second)
			cancel()
			var ne net.Error
			if !errors.As(err, &ne) || !ne.Timeout() {
				t.Errorf("dial %s: %v, want a timeout", addr, err)
			}
		}
		time.AfterFunc(3*time.Second, func() { n.Heal("10.0.0.1", "10.0.0.2") })
		var c net.Conn
		between(t, "dial until healed", took(func() { c, err = b.Dial(t.Context(), "10.0.0.1:80") }), 3*time.Second, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		ln.Close()
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
		if _, err := a.Listen(80); err != nil {
			t.Errorf("a closed port is free again: %v", err)
		}
		n.Close()
		if _, err := b.Dial(t.Context(), "10.0.0.1:80"); err == nil {
			t.Error("dial on a closed network worked")
		}
	})
}
