package membership_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

func TestSeedIsThisNode(t *testing.T) {
	probe := start(t, membership.Config{Node: "probe", Timing: quick})
	at := probe.Addr()
	probe.stop()
	lookups := atomic.Int32{}
	self := func(context.Context, string) ([]netip.Addr, error) {
		lookups.Add(1)
		return []netip.Addr{at.Addr()}, nil
	}
	a := start(t, membership.Config{Node: "a", Bind: at, Timing: quick, Resolve: self, Join: []string{at.String(), fmt.Sprintf("a.example:%d", at.Port())}})
	eventually(t, "the name was looked up", patience, func() bool { return lookups.Load() > 0 })
	a.until(t, "a=alive")
	if w := a.Waiting(); w != "" {
		t.Errorf("a names only itself and waits: %s", w)
	}
	b := start(t, membership.Config{Node: "b", Timing: quick, Join: []string{at.String()}})
	b.until(t, "a=alive b=alive")
	if n := a.log.count("waiting to join"); n != 0 {
		t.Errorf("a complained %d times:\n%s", n, a.log)
	}
}

func TestSeedNameAppearsLater(t *testing.T) {
	a := start(t, membership.Config{Node: "a", Timing: quick})
	var known atomic.Bool
	resolve := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "a.example" || !known.Load() {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []netip.Addr{a.Addr().Addr()}, nil
	}
	b := start(t, membership.Config{Node: "b", Timing: quick, Resolve: resolve, Join: []string{fmt.Sprintf("a.example:%d", a.Addr().Port())}})
	eventually(t, "b says that the name is unknown", patience, func() bool {
		return strings.Contains(b.Waiting(), "a.example") && strings.Contains(b.Waiting(), "no such host")
	})
	known.Store(true)
	b.until(t, "a=alive b=alive")
	eventually(t, "b stops waiting", patience, func() bool { return b.Waiting() == "" })
	eventually(t, "b says so", patience, func() bool { return b.log.count("joined the mesh") == 1 })
	if n := b.log.count("waiting to join"); n != 1 {
		t.Errorf("one reason was logged %d times", n)
	}
}

func TestSeedComesUpLater(t *testing.T) {
	down := start(t, membership.Config{Node: "a", Timing: quick})
	at := down.Addr()
	down.stop()
	b := start(t, membership.Config{Node: "b", Timing: quick, Join: []string{at.String()}})
	eventually(t, "b says that nobody answers", patience, func() bool { return strings.Contains(b.Waiting(), "connection refused") })
	start(t, membership.Config{Node: "a", Bind: at, Timing: quick})
	b.until(t, "a=alive b=alive")
}

// Two seeds that could not see each other at first, each with a friend, must
// find each other although neither is alone.
func TestIslandsMerge(t *testing.T) {
	bubble(t, memnet.Config{Latency: 40 * time.Millisecond, Seed: 1}, func(t *testing.T, net *memnet.Net) {
		for i := range 4 {
			net.Host(host(i))
		}
		net.Partition(host(0), host(1))
		at := func(i int) string { return host(i) + ":7946" }
		var nodes []*node
		for i, join := range [][]string{{at(0), at(2)}, {at(0)}, {at(0), at(2)}, {at(2)}} {
			nodes = append(nodes, start(t, membership.Config{Node: fmt.Sprint("n", i), Transport: net.Host(host(i)).Transport(7946), Join: join}))
		}
		nodes[0].until(t, "n0=alive n1=alive")
		nodes[2].until(t, "n2=alive n3=alive")
		time.Sleep(10 * time.Minute)
		net.HealAll()
		for _, n := range nodes {
			n.until(t, "n0=alive n1=alive n2=alive n3=alive")
		}
	})
}

// While it waits, the log speaks at growing intervals, not per attempt.
func TestWaitingIsQuiet(t *testing.T) {
	bubble(t, memnet.Config{Seed: 1}, func(t *testing.T, net *memnet.Net) {
		var attempts atomic.Int32
		a := start(t, membership.Config{
			Node: "a", Transport: net.Host(host(0)).Transport(7946), Join: []string{"b.example"},
			Resolve: func(context.Context, string) ([]netip.Addr, error) {
				attempts.Add(1)
				return nil, errors.New("no server")
			},
		})
		time.Sleep(time.Hour)
		if n := attempts.Load(); n < 80 || n > 150 {
			t.Errorf("%d attempts in an hour, want one in about 37 s", n)
		}
		if n := a.log.count("waiting to join"); n < 4 || n > 8 {
			t.Errorf("%d lines in an hour", n)
		}
		if a.Waiting() != "b.example: no server" {
			t.Errorf("waiting: %q", a.Waiting())
		}
	})
}
