package node

import (
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestStuckInApply: the loop that stores what other POPs send is stuck at a
// lock that nobody lets go of. Clients are served all the while; the watchdog
// replaces the part, which then knows what was written meanwhile, and is heard.
func TestStuckInApply(t *testing.T) {
	quick := patience{every: 50 * time.Millisecond, looks: 100}
	a := startWith(t, quick)
	b := startWith(t, quick, "EDGEPROXY_JOIN="+a.Addrs().Gossip)
	backend := greeter(t, "hello")
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
		if got := ask(t, b.Addrs().Listen); got != "hello" {
			t.Errorf("a client of b got %q", got)
		}
		return b.mesh() != stuck
	})
	until(t, "b routes to what a was told meanwhile", func() bool { return b.routes("meanwhile") })
	add(b, "after")
	until(t, "a routes to what b was told afterwards", func() bool { return a.routes("after") })
	until(t, "b is ready", func() bool { return len(b.notReady()) == 0 })
	until(t, "b knows both alive", func() bool {
		members := b.mesh().members()
		return len(members) == 2 && !slices.ContainsFunc(members, func(m api.Member) bool { return m.Status != "alive" })
	})
}

func (n *Node) routes(id string) bool {
	_, ok := n.router.Snapshot().Backend(id)
	return ok
}

func until(t *testing.T, what string, check func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !check(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}
