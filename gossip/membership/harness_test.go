package membership_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// patience is for a loaded machine; nothing waits that long where all is well.
const patience = 60 * time.Second

// TestMain finds what Run left behind. Some timers of memberlist and serf end
// later than Shutdown, by themselves: a probe that waits for its answer (at
// most three intervals), the wait before a prune (three seconds).
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(leakLess{m})
}

type leakLess struct{ *testing.M }

func (l leakLess) Run() int {
	code := l.M.Run()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); {
		if goleak.Find() == nil {
			break
		}
	}
	return code
}

// node is a ring that runs.
type node struct {
	*membership.Ring
	name string
	log  *lines
	stop func() // as a crash would; waits for Run
	err  func() error
}

// lines is what a node logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

var hosts atomic.Uint32

// own is an address of loopback that no other test binds, so that nobody else
// is given a port of it that was let go of; where loopback has only one, that.
func own() netip.AddrPort {
	if runtime.GOOS != "linux" {
		return netip.MustParseAddrPort("127.0.0.1:0")
	}
	n := hosts.Add(1)
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 83, byte(n >> 8), byte(n)}), 0)
}

// start runs a ring and waits until it listens. Without an address it takes
// a port of loopback.
func start(t testing.TB, cfg membership.Config) *node {
	t.Helper()
	if !cfg.Bind.IsValid() && cfg.Transport == nil {
		cfg.Bind = own()
	}
	l := &lines{}
	r, err := membership.New(cfg, zerolog.New(l))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	<-r.Started()
	var once sync.Once
	var result error
	n := &node{Ring: r, name: cfg.Node, log: l}
	n.stop = func() {
		once.Do(func() {
			cancel()
			result = <-done
		})
	}
	n.err = func() error { n.stop(); return result }
	t.Cleanup(func() {
		n.stop()
		if result != nil {
			t.Errorf("%s: run: %v", cfg.Node, result)
		}
		if t.Failed() {
			t.Logf("%s logged:\n%s", cfg.Node, l)
		}
	})
	return n
}

// sees is "a=alive b=failed", this node included.
func (n *node) sees() string {
	var b []string
	for _, m := range n.Members() {
		b = append(b, m.Name+"="+m.Status)
	}
	return strings.Join(b, " ")
}

func (n *node) member(name string) membership.Member {
	all := n.Members()
	if i := slices.IndexFunc(all, func(m membership.Member) bool { return m.Name == name }); i >= 0 {
		return all[i]
	}
	return membership.Member{}
}

// eventually polls; between looks it waits for a change or 20 ms. In a bubble
// that is virtual time.
func eventually(t testing.TB, what string, within time.Duration, ok func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		tick := time.NewTimer(20 * time.Millisecond)
		<-tick.C
	}
	return time.Since(begin)
}

func (n *node) until(t testing.TB, want string) time.Duration {
	t.Helper()
	return n.untilWithin(t, patience, want)
}

func (n *node) untilWithin(t testing.TB, within time.Duration, want string) time.Duration {
	t.Helper()
	begin := time.Now()
	for n.sees() != want {
		if time.Since(begin) > within {
			t.Fatalf("%s sees %s after %v, want %s", n.name, n.sees(), within, want)
		}
		tick := time.NewTimer(20 * time.Millisecond)
		<-tick.C
	}
	return time.Since(begin)
}

// bubble runs f in virtual time on a network of its own.
func bubble(t *testing.T, cfg memnet.Config, f func(t *testing.T, net *memnet.Net)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		net := memnet.New(cfg)
		t.Cleanup(func() {
			net.Close()
			time.Sleep(membership.Linger)
		})
		f(t, net)
	})
}

// mesh runs count nodes n00.. on hosts 10.0.0.1.. of a network, all joined.
func mesh(t testing.TB, net *memnet.Net, count int, timing membership.Timing) []*node {
	t.Helper()
	var nodes []*node
	for i := range count {
		nodes = append(nodes, start(t, membership.Config{
			Node: fmt.Sprintf("n%02d", i), Transport: net.Host(host(i)).Transport(7946), Timing: timing,
			Join: []string{host(0) + ":7946"},
		}))
	}
	for _, n := range nodes {
		eventually(t, n.name+" sees all", 2*time.Minute, func() bool { return len(n.Members()) == count && !strings.Contains(n.sees(), "failed") })
	}
	return nodes
}

func host(i int) string { return fmt.Sprintf("10.0.%d.%d", i/250, i%250+1) }
