package checker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// net is backends that answer as they are told, by address.
type network struct {
	mu    sync.Mutex
	err   map[string]error // nil: accepts; errHang: never answers
	dials map[string][]time.Time
	open  int
	most  int
}

var errHang = fmt.Errorf("hangs")

func (n *network) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	err := n.err[addr]
	n.dials[addr] = append(n.dials[addr], time.Now())
	n.open++
	n.most = max(n.most, n.open)
	n.mu.Unlock()
	defer func() { n.mu.Lock(); n.open--; n.mu.Unlock() }()
	if err == errHang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Err: err}
	}
	time.Sleep(time.Millisecond) // of virtual time
	a, b := net.Pipe()
	b.Close()
	return a, nil
}

func (n *network) set(addr string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err[addr] = err
}

func (n *network) count(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dials[addr])
}

func target(i int) Target {
	return Target{ID: fmt.Sprint("b", i), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80), Check: mesh.DefaultCheck}
}

// during runs the checker in virtual time while do looks on.
func during(t *testing.T, do func(c *Checker, n *network)) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{err: map[string]error{}, dials: map[string][]time.Time{}}
		c := New(Config{Dial: n.dial}, zerolog.Nop())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		do(c, n)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// within waits until the backend's state is as wanted, and returns for how long.
func within(t *testing.T, c *Checker, id string, up bool, most time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		if s, ok := c.States()[id]; ok && s.Up == up {
			return time.Since(began)
		}
		select {
		case <-c.Changed():
		case <-time.After(most - time.Since(began)):
			t.Fatalf("%s is not up=%v after %v: %+v", id, up, most, c.States()[id])
		}
	}
}

func TestChecks(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		a := target(1)
		c.Assign([]Target{a})
		within(t, c, "b1", true, 2*time.Second)
		time.Sleep(50 * time.Second)
		if got := n.count(a.Addr.String()); got < 10 || got > 12 {
			t.Errorf("%d checks in 50 s, want one each 5 s", got)
		}
		n.set(a.Addr.String(), syscall.ECONNREFUSED)
		if took := within(t, c, "b1", false, 10*time.Second); took > 6500*time.Millisecond {
			t.Errorf("down after %v, want an interval and two quick checks at most", took)
		}
		if s := c.States()["b1"]; s.Why != "connection refused" {
			t.Errorf("why: %q", s.Why)
		}
		n.set(a.Addr.String(), errHang)
		time.Sleep(10 * time.Second)
		if s := c.States()["b1"]; s.Up || s.Why != "no answer within 2s" {
			t.Errorf("%+v", s)
		}
		n.set(a.Addr.String(), nil)
		within(t, c, "b1", true, 10*time.Second)
		if c.OK.Load() < 12 || c.Failed.Load() < 4 {
			t.Errorf("counted %d and %d", c.OK.Load(), c.Failed.Load())
		}
	})
}

// TestSuspect: evidence of a client makes it a matter of a second.
func TestSuspect(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		a := target(1)
		c.Assign([]Target{a})
		within(t, c, "b1", true, 2*time.Second)
		time.Sleep(time.Second)
		n.set(a.Addr.String(), syscall.ECONNREFUSED)
		c.Suspect([]string{"b1", "nobody"})
		if took := within(t, c, "b1", false, 5*time.Second); took > 1100*time.Millisecond {
			t.Errorf("down after %v", took)
		}
		// A storm of suspicions does not become a storm of checks.
		n.set(a.Addr.String(), nil)
		within(t, c, "b1", true, 10*time.Second)
		before := n.count(a.Addr.String())
		for range 1000 {
			c.Suspect([]string{"b1"})
			time.Sleep(time.Millisecond)
		}
		if got := n.count(a.Addr.String()) - before; got > 6 {
			t.Errorf("%d checks in a second of suspicions", got)
		}
	})
}

// TestAssign: who goes is not checked any more, who stays goes on as it was,
// and one with another address is another.
func TestAssign(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		a, b := target(1), target(2)
		b.Start = health.State{Known: true, Since: time.Now(), Why: "another POP said so"}
		c.Assign([]Target{a, b})
		if s := c.States()["b2"]; s.Up || !s.Known {
			t.Errorf("%+v, want what the mesh knew of it", s)
		}
		within(t, c, "b2", true, 10*time.Second) // after two successes
		within(t, c, "b1", true, 2*time.Second)
		since := c.States()["b1"].Since
		c.Assign([]Target{a})
		if s := c.States(); len(s) != 1 || !s["b1"].Since.Equal(since) {
			t.Errorf("%+v", s)
		}
		left := n.count(b.Addr.String())
		time.Sleep(time.Minute)
		if got := n.count(b.Addr.String()); got != left {
			t.Errorf("%d checks of one that is not to be checked", got-left)
		}
		moved := target(3)
		moved.ID = "b1"
		c.Assign([]Target{moved})
		if s := c.States(); len(s) != 0 {
			t.Errorf("%+v of an address that was never asked", s)
		}
		within(t, c, "b1", true, 2*time.Second)
	})
}

// TestLackOfOurOwn: says nothing of the backend.
func TestLackOfOurOwn(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		a := target(1)
		c.Assign([]Target{a})
		within(t, c, "b1", true, 2*time.Second)
		n.set(a.Addr.String(), syscall.EMFILE)
		time.Sleep(time.Minute)
		if s := c.States()["b1"]; !s.Up || c.Failed.Load() != 0 {
			t.Errorf("%+v, %d failed", s, c.Failed.Load())
		}
	})
}

// TestManyThatHang: the others are checked all the same, and so many at once at most.
func TestManyThatHang(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		var all []Target
		for i := range 300 {
			all = append(all, target(i))
			if i < 100 {
				n.set(all[i].Addr.String(), errHang)
			}
		}
		c.Assign(all)
		time.Sleep(15 * time.Second)
		up := 0
		for _, s := range c.States() {
			if s.Up {
				up++
			}
		}
		if up != 200 || len(c.States()) != 300 {
			t.Errorf("%d of %d are up, want 200 of 300", up, len(c.States()))
		}
		if n.most > 2*atOnce {
			t.Errorf("%d checks at once", n.most)
		}
	})
}

// TestHangingBackendsHoldUpNobody: a row with a check that takes a minute, on
// as many backends as one likes, and a backend of another app beside them.
func TestHangingBackendsHoldUpNobody(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		slow := mesh.DefaultCheck
		slow.Interval, slow.Timeout = 200*time.Millisecond, time.Minute
		var all []Target
		for i := range 400 {
			b := target(i)
			b.Check = slow
			n.set(b.Addr.String(), errHang)
			all = append(all, b)
		}
		good := target(1000)
		good.Check.Interval = time.Second
		c.Assign(append(all, good))
		time.Sleep(10 * time.Minute) // until all are known to be down
		before := n.count(good.Addr.String())
		time.Sleep(10 * time.Second)
		if got := n.count(good.Addr.String()) - before; got < 9 {
			t.Errorf("%d checks in 10 s of a backend to be checked each second", got)
		}
	})
}

// TestEndsWithChecksRunning: Run leaves no check behind.
func TestEndsWithChecksRunning(t *testing.T) {
	during(t, func(c *Checker, n *network) {
		a := target(1)
		n.set(a.Addr.String(), errHang)
		c.Assign([]Target{a})
		time.Sleep(1500 * time.Millisecond)
	})
}
