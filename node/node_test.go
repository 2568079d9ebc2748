package node

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// A probe of memberlist's outlives its ring by some seconds (membership.Linger).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// start runs a POP on free ports until the test ends.
func start(t testing.TB, env ...string) *Node {
	t.Helper()
	return startWith(t, usualPatience, env...)
}

// startWith runs a POP on free ports of loopback until the test ends.
func startWith(t testing.TB, p patience, env ...string) *Node {
	t.Helper()
	return startLogging(t, zerolog.New(zerolog.NewTestWriter(t)), p, env...)
}

func startLogging(t testing.TB, log zerolog.Logger, p patience, env ...string) *Node {
	t.Helper()
	cfg, _, err := config.Load(nil, append([]string{
		"EDGEPROXY_DB_PATH=" + filepath.Join(t.TempDir(), "routing.db"), "EDGEPROXY_HEALTH_CHECK=off",
		"EDGEPROXY_LISTEN_ADDR=127.0.0.1:0", "EDGEPROXY_API_ADDR=127.0.0.1:0",
		"EDGEPROXY_GOSSIP_ADDR=127.0.0.1:0", "EDGEPROXY_SYNC_ADDR=127.0.0.1:0",
	}, env...), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := New(cfg, Options{Version: "test"}, log)
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

// greeter is a backend that says its name and closes.
func greeter(t *testing.T, name string) string {
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
			_, _ = io.WriteString(c, name)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func ask(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func ptr[T any](v T) *T { return &v }

func TestBackendAddedByAPIServesTheNextConnection(t *testing.T) {
	n := start(t)
	client, err := api.Dial(n.Addrs().API, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, n.Addrs().Listen); got != "" {
		t.Fatalf("without a backend the client got %q, want a prompt close", got)
	}
	addr := greeter(t, "one")
	b, err := client.CreateBackend(t.Context(), api.Patch{ID: ptr("one"), Region: ptr("sa"), Addr: &addr})
	if err != nil || b.State != "up" {
		t.Fatalf("create: %+v, %v", b, err)
	}
	if got := ask(t, n.Addrs().Listen); got != "one" {
		t.Fatalf("got %q from the backend just added", got)
	}
}

func TestNewRowInheritsNothingFromTheOneBefore(t *testing.T) {
	n := start(t)
	ctx, addr := t.Context(), greeter(t, "one")
	create := api.Patch{ID: ptr("one"), Region: ptr("sa"), Addr: &addr}
	if _, err := n.CreateBackend(ctx, create); err != nil {
		t.Fatal(err)
	}
	gone := api.Patch{Deleted: ptr(true), Draining: ptr(true), Weight: ptr(int64(7))}
	if b, err := n.UpdateBackend(ctx, "one", gone); err != nil || b.State != "deleted" {
		t.Fatalf("%+v, %v", b, err)
	}
	// A change of a deleted row changes what it names and no more.
	if b, err := n.UpdateBackend(ctx, "one", api.Patch{ID: ptr("one"), Region: ptr("us")}); err != nil || b.State != "deleted" || b.Weight != 7 {
		t.Fatalf("%+v, %v", b, err)
	}
	if b, err := n.CreateBackend(ctx, create); err != nil || b.State != "up" || b.Weight != 1 {
		t.Fatalf("created again: %+v, %v; want it up, with weight 1", b, err)
	}
	if got := ask(t, n.Addrs().Listen); got != "one" {
		t.Fatalf("got %q", got)
	}
}
