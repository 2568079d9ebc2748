package gossip

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestSlowPeer: one whose disk takes a second for everything holds up nobody,
// and costs memory in rows, not in writes.
func TestSlowPeer(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, c := l.pops["a"], l.pops["c"]
		c.store.set(func() { c.store.slow = 2 * time.Second })
		var worst time.Duration
		for i := range 200 {
			for j := range 50 {
				a.write(fmt.Sprint("row", j), i*50+j)
			}
			worst = max(worst, l.within(time.Second, "at b", l.equal("a", "b")))
			time.Sleep(20 * time.Millisecond)
		}
		if worst > region+60*time.Millisecond {
			t.Errorf("b waited %v for c", worst)
		}
		for _, st := range a.mesh.Peers() {
			if st.Queued > 50 {
				t.Errorf("%d rows of 50 are queued for %s", st.Queued, st.Node)
			}
			if st.Node == "c" && (!st.Connected || st.Lag < 100*time.Millisecond) {
				t.Errorf("c is %+v", st)
			}
			if st.Node == "b" && st.Lag > 300*time.Millisecond {
				t.Errorf("b is %+v", st)
			}
		}
		c.store.set(func() { c.store.slow = 0 })
		l.within(10*time.Second, "equal", l.equal())
	})
}

// TestStalledPeer: a peer that takes nothing at all.
func TestStalledPeer(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) { c.QueueKeys = 100 }, func(t *testing.T, l *lab) {
		l.startAll()
		a, b, c := l.pops["a"], l.pops["b"], l.pops["c"]
		c.store.set(func() { c.store.slow = time.Hour })
		for i := range 600 {
			for j := range 30 {
				a.write(fmt.Sprint("row", i, "/", j, strings.Repeat(" ", 100)), i)
			}
			if i%100 == 0 {
				l.within(time.Second, "at b", func() bool { return b.weight(fmt.Sprint("row", i, "/0", strings.Repeat(" ", 100))) == int64(i) })
			}
			time.Sleep(10 * time.Millisecond)
		}
		l.within(time.Second, "equal", l.equal("a", "b"))
		if s := a.mesh.Stats(); s.Dropped == 0 {
			t.Errorf("nothing was dropped: %+v", s)
		}
		c.stop()
		c.store.set(func() { c.store.slow = 0 })
		c.start()
		l.within(10*time.Second, "equal", l.equal())
	})
}

// TestQueueOverflow: more rows at once than a queue holds.
func TestQueueOverflow(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) { c.QueueKeys = 10 }, func(t *testing.T, l *lab) {
		l.startAll()
		for round := range 20 {
			for i := range 30 {
				l.pops[l.names[round%3]].write(fmt.Sprint("row", i), round*100+i)
			}
			time.Sleep(time.Duration(round) * 10 * time.Millisecond)
		}
		took := l.within(3*time.Second, "equal", l.equal())
		t.Logf("equal %v after the last write", took)
		time.Sleep(time.Second)
		for _, p := range l.pops { // what fits goes by the queue again
			before := p.mesh.Stats()
			p.write("small", 1)
			l.within(100*time.Millisecond, "equal", l.equal())
			if after := p.mesh.Stats(); before.Dropped == 0 || after.Dropped != before.Dropped {
				t.Errorf("%s: %+v, then %+v", p.name, before, after)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestDiskFails: what the store did not take is never counted as known.
func TestDiskFails(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) { c.FrameBytes = 1 << 10 }, func(t *testing.T, l *lab) {
		l.startAll()
		b := l.pops["b"]
		full := errors.New("disk full")
		for i := range 200 {
			for j := range 20 {
				l.pops["a"].write(fmt.Sprint("row", i, "/", j), i)
			}
			b.store.set(func() {
				if b.store.fail = nil; i%3 == 0 {
					b.store.fail = full
				}
			})
			time.Sleep(7 * time.Millisecond)
		}
		b.store.set(func() { b.store.fail = nil })
		took := l.within(15*time.Second, "equal", l.equal())
		t.Logf("equal %v after the disk has room, %d failures", took, b.mesh.Stats().ApplyErrors)
		if b.mesh.Stats().ApplyErrors == 0 {
			t.Error("nothing failed")
		}
	})
}

// TestUnable: what keeps the store from taking anything is said while it does,
// and not once there is nobody to take anything from.
func TestUnable(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, b := l.pops["a"], l.pops["b"]
		full := func(err error) {
			b.store.set(func() { b.store.fail = err })
		}
		says := func(want string) func() bool { return func() bool { return b.mesh.Unable() == want } }
		full(errors.New("disk full"))
		a.write("x", 1)
		l.within(time.Second, "said", says("disk full"))
		time.Sleep(10 * time.Second)
		l.within(0, "still said", says("disk full"))
		full(nil)
		l.within(15*time.Second, "taken back", says("")) // by the next anti-entropy, where a pull's answer came amid the failures
		l.within(time.Second, "equal", l.equal())
		full(errors.New("disk full"))
		a.write("x", 2)
		l.within(time.Second, "said again", says("disk full"))
		a.stop()
		full(nil)
		l.within(time.Second, "taken back alone", says(""))
	})
}
