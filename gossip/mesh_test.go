package gossip

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

const region = 20 * time.Millisecond // one way

func TestWritesReachEveryPOP(t *testing.T) {
	for _, names := range []string{"a b c", "a b c d e"} {
		bubble(t, memnet.Config{Latency: region, Jitter: 5 * time.Millisecond}, names, nil, func(t *testing.T, l *lab) {
			l.startAll()
			var worst time.Duration
			rnd := rand.New(rand.NewPCG(*seed, 2))
			for i := range 50 {
				from := l.pops[l.names[rnd.IntN(len(l.names))]]
				from.write(fmt.Sprint("b", i%7), i)
				worst = max(worst, l.within(time.Second, "everywhere", func() bool {
					for _, p := range l.pops {
						if p.weight(fmt.Sprint("b", i%7)) != int64(i) {
							return false
						}
					}
					return true
				}))
				time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
			}
			t.Logf("%s: worst %v over %v", names, worst, region)
			if worst > region+50*time.Millisecond {
				t.Errorf("a write took %v, want at most %v more than the line", worst, 50*time.Millisecond)
			}
			l.within(time.Second, "equal", l.equal())
			for _, p := range l.pops {
				if n := p.mesh.Stats().Pulls; n > 0 {
					t.Errorf("%s pulled %d times what came by itself", p.name, n)
				}
			}
		})
	}
}

func TestPartitionHeals(t *testing.T) {
	for _, cut := range []time.Duration{5 * time.Second, time.Minute} { // streams survive the first
		bubble(t, memnet.Config{Latency: region}, "a b c d e", nil, func(t *testing.T, l *lab) {
			l.startAll()
			a, d := l.pops["a"], l.pops["d"]
			l.net.Partition(a.ip, l.pops["b"].ip)
			for i := range 20 {
				a.write(fmt.Sprint("left", i), i)
				d.write(fmt.Sprint("right", i), i)
				a.write("both", i)
				time.Sleep(10 * time.Millisecond)
				d.write("both", 100+i) // the later one
			}
			time.Sleep(cut)
			if l.equal("a", "d")() {
				t.Fatal("nothing is cut")
			}
			l.within(0, "each side is whole", l.equal("c", "d", "e"))
			l.net.HealAll()
			took := l.within(10*time.Second, "equal", l.equal())
			t.Logf("cut for %v: equal after %v", cut, took)
			for _, p := range l.pops {
				if w := p.weight("both"); w != 119 {
					t.Errorf("%s has %d, the later write was 119", p.name, w)
				}
			}
		})
	}
}

// TestPartialConnectivity: a and c reach b, but not each other.
func TestPartialConnectivity(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.net.Cut("10.0.0.1", "10.0.0.3")
		for _, name := range l.names {
			l.pops[name].start()
		}
		l.within(10*time.Second, "connected", func() bool { return l.connected() == 4 })
		for i := range 10 {
			l.pops["a"].write("x", i)
			took := l.within(1500*time.Millisecond, "at c", func() bool { return l.pops["c"].weight("x") == int64(i) })
			if i == 0 {
				t.Logf("over the middle: %v", took)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestOverlayForwards: a and c reach only b, which passes everything on.
func TestOverlayForwards(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) { c.FanoutLimit = 2 }, func(t *testing.T, l *lab) {
		l.net.Cut("10.0.0.1", "10.0.0.3")
		for _, name := range l.names {
			l.pops[name].start()
		}
		l.within(10*time.Second, "linked", func() bool { return l.linked() == 4 })
		for i := range 10 {
			l.pops["a"].write("x", i)
			l.within(2*region+30*time.Millisecond, "at c", func() bool { return l.pops["c"].weight("x") == int64(i) })
			time.Sleep(500 * time.Millisecond)
		}
		if s := l.pops["c"].mesh.Stats(); s.Pulls > 0 {
			t.Errorf("c pulled: %+v", s)
		}
	})
}

// TestOverlayEnds: in a circle of POPs that pass everything on, nothing goes
// round for ever.
func TestOverlayEnds(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c d", func(c *Config) { c.FanoutLimit = 2 }, func(t *testing.T, l *lab) {
		l.startAll()
		for i := range 10 {
			l.pops["a"].write("x", i)
			time.Sleep(time.Second)
		}
		for _, p := range l.pops {
			for _, st := range p.mesh.Peers() {
				if st.RecordsIn > 10 {
					t.Errorf("%s got 10 records %d times from %s", p.name, st.RecordsIn, st.Node)
				}
			}
		}
	})
}

func TestEmptyPOPJoins(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		for i := range 3000 {
			l.pops["a"].write(fmt.Sprint("b", i), i)
		}
		l.startAll()
		l.within(5*time.Second, "equal", l.equal())
		c := l.pops["c"]
		c.stop()
		l.pops["b"].write("b1", -5)
		c.store = newMemStore("c")
		c.store.self.Epoch = 2 // a new database
		c.start()
		took := l.within(5*time.Second, "synced", func() bool {
			select {
			case <-c.mesh.Synced():
				return true
			default:
				return false
			}
		})
		if !l.equal()() {
			t.Error("synced, but not equal")
		}
		t.Logf("3,000 rows after %v", took)
		l.within(10*time.Second, "connected", func() bool { return l.connected() == 6 })
		if s := c.mesh.Stats(); s.Pulls != 1 {
			t.Errorf("%d pulls for one snapshot", s.Pulls)
		}
	})
}

// TestReconnect: what was written while a POP was away arrives, and a POP that
// ends sends what waits.
func TestReconnect(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, b := l.pops["a"], l.pops["b"]
		for i := range 5 {
			a.write("last words", i)
			a.stop() // at once
			l.within(time.Second, "at b", func() bool { return b.weight("last words") == int64(i) })
			b.write("meanwhile", i)
			time.Sleep(time.Duration(i) * 3 * time.Second)
			a.start()
			l.within(8*time.Second, "equal", l.equal())
		}
		if len(a.clashes)+len(b.clashes) > 0 {
			t.Errorf("a restart is no conflict: %v %v", a.clashes, b.clashes)
		}
	})
}
