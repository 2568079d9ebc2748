package gossip

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

const eight = "a b c d e f g h"

// linked counts the neighbours of all POPs.
func (l *lab) linked() (n int) {
	for _, p := range l.pops {
		if p.mesh == nil || p.cancel == nil {
			continue
		}
		for _, st := range p.mesh.Peers() {
			if st.Neighbour {
				n++
			}
		}
	}
	return n
}

// choir keeps what every POP was told of the others' loads.
type choir struct {
	mu   sync.Mutex
	ears map[string]map[string]*ear // by listener, by speaker
}

func (c *choir) join(t *testing.T, cfg *Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ears == nil {
		c.ears = map[string]map[string]*ear{}
	}
	node := cfg.Node
	c.ears[node] = map[string]*ear{}
	cfg.WholeLoad = func() Load {
		return Load{Life: cfg.Life, Whole: true, Counts: map[string]int64{"backend of " + node: 1}}
	}
	cfg.TookLoad = func(peer string, l Load) {
		if peer == node {
			t.Errorf("%s is told of itself", node)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		e := c.ears[node][peer]
		if e == nil || e.life < l.Life {
			e = &ear{life: l.Life}
			c.ears[node][peer] = e
		}
		e.took(t, l)
	}
}

// hear says whether all POPs know how many connections each has.
func (c *choir) hear(names []string, want int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range names {
		for _, of := range names {
			if at != of && (c.ears[at][of] == nil || c.ears[at][of].counts["backend of "+of] != want) {
				return false
			}
		}
	}
	return true
}

// large runs eight POPs of which each has a few neighbours.
func large(t *testing.T, change func(*Config), f func(t *testing.T, l *lab)) {
	t.Helper()
	for _, limit := range []int{2, 3} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			bubble(t, memnet.Config{Latency: region}, eight, func(c *Config) {
				c.FanoutLimit = limit
				if change != nil {
					change(c)
				}
			}, func(t *testing.T, l *lab) {
				for _, name := range l.names {
					l.pops[name].start()
				}
				time.Sleep(2 * time.Second)
				f(t, l)
			})
		})
	}
}

// TestOverlayOfEight: what is written anywhere is everywhere, once; a POP knows
// the load of those that it has no stream with; and of streams there are few.
func TestOverlayOfEight(t *testing.T) {
	var all choir
	large(t, func(c *Config) { all.join(t, c) }, func(t *testing.T, l *lab) {
		if n := l.linked(); n < 16 || n > 44 {
			t.Errorf("%d neighbours in all, of 56", n)
		}
		l.within(5*time.Second, "heard", func() bool { return all.hear(l.names, 1) })
		for i := range 6 {
			for _, name := range l.names {
				l.pops[name].write("at "+name, i)
			}
			took := l.within(6*region+30*time.Millisecond, "equal", l.equal())
			if i == 0 {
				t.Logf("everywhere after %v", took)
				for _, p := range l.pops {
					p.forgetTraffic()
				}
			}
			time.Sleep(time.Second)
		}
		copies, pulls := 0, 0
		for _, p := range l.pops {
			copies += p.recordsIn()
			pulls += int(p.mesh.Stats().Pulls)
		}
		if per := float64(copies) / (5 * 8 * 7); per > 1.3 {
			t.Errorf("%.2f copies of each record at each POP", per)
		}
		if pulls > 0 {
			t.Errorf("%d pulls, and nothing was lost", pulls)
		}
		for _, name := range l.names {
			l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 7}})
		}
		took := l.within(time.Second, "heard again", func() bool { return all.hear(l.names, 7) })
		t.Logf("heard everywhere after %v", took)
	})
}

// status is what the POP says of a peer; nothing where it says nothing.
func (p *pop) status(peer string) (st PeerStatus) {
	for _, st = range p.mesh.Peers() {
		if st.Node == peer {
			return st
		}
	}
	return PeerStatus{Node: peer}
}

// forgetTraffic has recordsIn begin at 0.
func (p *pop) forgetTraffic() { p.counted = 0; p.counted = p.recordsIn() }

func (p *pop) recordsIn() (n int) {
	for _, st := range p.mesh.Peers() {
		n += int(st.RecordsIn)
	}
	return n - p.counted
}

// TestOverlayNotes: what is told to one POP alone arrives, also where no stream
// leads there; the stream that is opened for it ends when it is not needed.
func TestOverlayNotes(t *testing.T) {
	var mu sync.Mutex
	heard := map[string]bool{}
	large(t, func(c *Config) {
		c.Stray = 24 * time.Hour // opens streams, too
		node := c.Node
		c.TookNote = func(peer string, n Note) error {
			mu.Lock()
			defer mu.Unlock()
			heard[peer+node] = string(n.Body) == "last"
			return nil
		}
	}, func(t *testing.T, l *lab) {
		time.Sleep(time.Minute) // also what was opened at the start and not needed has ended
		before := l.connected()
		if before != l.linked() || before == 56 {
			t.Errorf("%d streams, %d neighbours", before, l.linked())
		}
		for _, from := range l.names {
			for _, to := range l.names {
				l.pops[from].mesh.SendNote(to, Note{Key: "k", Body: []byte("first")})
				l.pops[from].mesh.SendNote(to, Note{Key: "k", Body: []byte("last")})
			}
		}
		l.within(5*time.Second, "heard", func() bool {
			for _, from := range l.names { // of two streams that cross one ends, and a note with it
				for _, to := range l.names {
					l.pops[from].mesh.SendNote(to, Note{Key: "k", Body: []byte("last")})
				}
			}
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, last := range heard {
				if last {
					n++
				}
			}
			return n == 56
		})
		if n := l.connected(); n != 56 {
			t.Errorf("%d streams", n)
		}
		l.within(2*time.Minute, "as before", func() bool { return l.connected() == before })
		clear(heard)
		// To whom there is no answer the stream stands, too, while it is needed.
		var to string
		for _, name := range l.names {
			if st := l.pops["a"].status(name); name != "a" && !st.Connected {
				to = name
			}
		}
		since := time.Time{}
		for i := range 100 {
			l.pops["a"].mesh.SendNote(to, Note{Key: "k"})
			time.Sleep(time.Second)
			if st := l.pops["a"].status(to); i == 1 {
				since = st.Since
			} else if i > 1 && (!st.Connected || st.Since != since) {
				t.Fatalf("after %d s: %+v", i, st)
			}
		}
	})
}

// TestOverlayCensus: a delete is forgotten when every POP has said that it has
// it, neighbour or not, and not while one of them is off.
func TestOverlayCensus(t *testing.T) {
	large(t, nil, func(t *testing.T, l *lab) {
		a := l.pops["a"]
		a.write("x", 1)
		l.pops["h"].stop()
		a.delete("x")
		at := crdt.Origin{Node: "a", Epoch: 1}
		confirmed := func() bool {
			all, ok := a.mesh.Confirmed(t.Context(), l.names)
			return ok && all[at] == 2
		}
		for range 40 {
			time.Sleep(10 * time.Second)
			if confirmed() {
				t.Fatal("confirmed, and h has not seen it")
			}
			if _, ok := a.mesh.Confirmed(t.Context(), []string{"nobody"}); ok {
				t.Fatal("confirmed by nobody")
			}
		}
		l.pops["h"].start()
		took := l.within(5*time.Minute, "confirmed", confirmed)
		t.Logf("confirmed after %v", took)
		for _, name := range l.names {
			if all, ok := l.pops[name].mesh.Confirmed(t.Context(), l.names); ok && all[at] > 2 {
				t.Errorf("%s: %v", name, all)
			}
		}
	})
}

// TestOverlayClock: mesh time is that of most POPs, not of most neighbours.
func TestOverlayClock(t *testing.T) {
	ahead := map[string]time.Duration{"a": time.Hour, "b": time.Hour, "c": time.Hour}
	large(t, func(c *Config) {
		skew := ahead[c.Node]
		c.Now = func() time.Time { return time.Now().Add(skew) }
	}, func(t *testing.T, l *lab) {
		time.Sleep(5 * time.Second)
		for _, name := range l.names {
			if off := l.pops[name].mesh.Offset() + ahead[name]; off.Abs() > 2*region {
				t.Errorf("%s's mesh time is %v off", name, off)
			}
			if !l.pops[name].mesh.ClockKnown() {
				t.Errorf("%s knows no other clock", name)
			}
		}
	})
}

// TestOverlayAndFullMesh: a POP whose limit is higher, as one that speaks an
// older protocol, holds streams with all; each hears the others, also where most
// are such, and the rest find each other.
func TestOverlayAndFullMesh(t *testing.T) {
	for _, meshed := range []string{"d", "abdeg"} {
		var all choir
		large(t, func(c *Config) {
			if all.join(t, c); strings.Contains(meshed, c.Node) {
				c.FanoutLimit = 100
			}
		}, func(t *testing.T, l *lab) {
			l.within(5*time.Second, "heard", func() bool { return all.hear(l.names, 1) })
			n := 0
			for _, st := range l.pops["d"].mesh.Peers() {
				if st.Connected {
					n++
				}
			}
			if n != 7 {
				t.Errorf("d has %d streams", n)
			}
			for _, name := range l.names {
				l.pops[name].write("at "+name, 1)
				l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 2}})
			}
			l.within(time.Second, "equal", l.equal())
			l.within(time.Second, "heard", func() bool { return all.hear(l.names, 2) })
		})
	}
}

// TestOverlayGrowsAndShrinks: a mesh that outgrows the limit and falls back to
// it is an overlay meanwhile, and loses nothing over it.
func TestOverlayGrowsAndShrinks(t *testing.T) {
	var all choir
	bubble(t, memnet.Config{Latency: region}, eight, func(c *Config) {
		all.join(t, c)
		c.FanoutLimit, c.Stray = 7, 24*time.Hour
	}, func(t *testing.T, l *lab) {
		names := l.names
		l.names = names[:7]
		l.startAll()
		time.Sleep(time.Minute)
		if n := l.connected(); n != 42 || l.linked() != 0 {
			t.Errorf("%d streams of 42, %d neighbours", n, l.linked())
		}
		list := func() {
			for _, name := range l.names {
				l.pops[name].mesh.SetPeers(l.roster())
			}
		}
		l.names = names
		l.pops["h"].start()
		list()
		time.Sleep(2 * time.Minute)
		if n := l.connected(); n > 44 || n != l.linked() {
			t.Errorf("%d streams, %d neighbours", n, l.linked())
		}
		l.pops["c"].write("x", 1)
		l.within(time.Second, "equal", l.equal())
		for _, name := range l.names {
			l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 5}})
		}
		l.within(time.Second, "heard", func() bool { return all.hear(l.names, 5) })
		l.pops["h"].stop()
		l.names = names[:7]
		list()
		l.within(40*time.Second, "connected", func() bool { return l.connected() == 42 && l.linked() == 0 })
		for _, name := range l.names {
			l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 6}})
		}
		l.within(time.Second, "heard", func() bool { return all.hear(l.names, 6) })
	})
}
