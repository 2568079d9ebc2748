package node

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/rs/zerolog"
)

// TestStuckInApply: the loop that stores what other POPs send is stuck at a
// lock that nobody lets go of. Clients are served all the while; the watchdog
// replaces the part, which then knows what was written meanwhile, and is heard.
func TestStuckInApply(t *testing.T) {
	quick := patience{every: 50 * time.Millisecond, looks: 20}
	a := startWith(t, quick)
	b := startWith(t, quick, "EDGEPROXY_JOIN="+a.Addrs().Gossip)
	backend := served(t)
	add := func(n *Node, id string) {
		t.Helper()
		set := api.Patch{ID: new(id), App: new("web"), Region: new("sa"), Addr: new(backend)}
		if _, err := n.CreateBackend(t.Context(), set); err != nil {
			t.Fatal(err)
		}
	}
	add(a, "before")
	until(t, "b routes to what a was told", func() bool { return b.routes("before") })

	stuck := b.mesh()
	stuck.counts.mu.Lock() // of what hears of everything that was applied
	defer stuck.counts.mu.Unlock()
	add(a, "meanwhile")
	until(t, "the loop is at work", func() bool { return stuck.streams.Applying.At()%2 == 1 })
	until(t, "b was mended", func() bool {
		if got := greeting(t, b.Addrs().Listen); got != "hello" {
			t.Errorf("a client of b got %q", got)
		}
		return b.mesh() != stuck
	})
	until(t, "b routes to what a was told meanwhile", func() bool { return b.routes("meanwhile") })
	add(b, "after")
	until(t, "a routes to what b was told afterwards", func() bool { return a.routes("after") })
	until(t, "b is ready", func() bool { return len(b.notReady()) == 0 })
	if members := b.mesh().members(); len(members) != 2 || slices.ContainsFunc(members, func(m api.Member) bool { return m.Status != "alive" }) {
		t.Errorf("members %+v", members)
	}
}

func (n *Node) routes(id string) bool {
	_, ok := n.router.Snapshot().Backend(id)
	return ok
}

// startWith runs a POP on free ports of loopback until the test ends.
func startWith(t *testing.T, p patience, env ...string) *Node {
	t.Helper()
	cfg, _, err := config.Load(nil, append([]string{
		"EDGEPROXY_DB_PATH=" + filepath.Join(t.TempDir(), "routing.db"), "EDGEPROXY_HEALTH_CHECK=off",
		"EDGEPROXY_LISTEN_ADDR=127.0.0.1:0", "EDGEPROXY_API_ADDR=127.0.0.1:0",
		"EDGEPROXY_GOSSIP_ADDR=127.0.0.1:0", "EDGEPROXY_SYNC_ADDR=127.0.0.1:0",
	}, env...), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := New(cfg, Options{Version: "test"}, zerolog.New(zerolog.NewTestWriter(t)))
	n.patience = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		n.Abort()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("start: %v", err)
	}
	return n
}

// served is the address of a backend that greets and closes.
func served(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "hello")
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func greeting(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	got, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

func until(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !check(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
