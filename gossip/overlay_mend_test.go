package gossip

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestOverlayIsMended: two of eight end, and the others go on as one mesh, with
// others in their places; when they are back they have everything.
func TestOverlayIsMended(t *testing.T) {
	var all choir
	large(t, func(c *Config) { all.join(t, c) }, func(t *testing.T, l *lab) {
		for _, name := range []string{"b", "f"} {
			l.pops[name].stop()
		}
		rest := []string{"a", "c", "d", "e", "g", "h"}
		for i := range 5 {
			for _, name := range rest {
				l.pops[name].write("at "+name, i)
			}
			l.within(2*time.Second, "equal", l.equal(rest...))
			time.Sleep(time.Second)
		}
		for _, name := range rest {
			l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 3}})
		}
		l.within(3*time.Second, "heard", func() bool { return all.hear(rest, 3) })
		for _, name := range []string{"b", "f"} {
			all.mu.Lock()
			all.ears[name] = map[string]*ear{}
			for _, ears := range all.ears {
				delete(ears, name)
			}
			all.mu.Unlock()
			l.pops[name].start()
		}
		l.within(15*time.Second, "equal", l.equal())
		for _, name := range []string{"b", "f"} {
			l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: 3}})
		}
		l.within(15*time.Second, "heard", func() bool { return all.hear(l.names, 3) })
	})
}

// TestOverlayAfterPartition: a mesh in two halves, each of which goes on, is one
// again by itself.
func TestOverlayAfterPartition(t *testing.T) {
	large(t, nil, func(t *testing.T, l *lab) {
		left, right := l.names[:4], l.names[4:]
		var ips []string
		for _, name := range left {
			ips = append(ips, l.pops[name].ip)
		}
		l.net.Partition(ips...)
		time.Sleep(time.Minute)
		l.pops["a"].write("left", 1)
		l.pops["h"].write("right", 1)
		l.within(5*time.Second, "the left is whole", l.equal(left...))
		l.within(5*time.Second, "the right is whole", l.equal(right...))
		if l.equal()() {
			t.Fatal("nothing is cut")
		}
		l.net.HealAll()
		took := l.within(15*time.Second, "equal", l.equal())
		t.Logf("equal after %v", took)
	})
}

// TestOverlaySilentNeighbour: one that passes nothing on, to nobody, is gone round
// as soon as others say what they have; and of loads nothing is missed for long.
func TestOverlaySilentNeighbour(t *testing.T) {
	var all choir
	large(t, func(c *Config) { all.join(t, c) }, func(t *testing.T, l *lab) {
		for _, name := range l.names {
			l.pops[name].write("at "+name, 0)
		}
		l.within(5*time.Second, "heard", func() bool { return all.hear(l.names, 1) })
		const silent = "c"
		m := l.pops[silent].mesh
		quiet := func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, node := range m.trees.Links() {
				m.trees.Pruned(node, l.names)
			}
		}
		others := slices.DeleteFunc(slices.Clone(l.names), func(name string) bool { return name == silent })
		for i := range 5 {
			quiet()
			for _, name := range others {
				l.pops[name].write("at "+name, i+1)
				l.pops[name].mesh.PublishLoad(Load{Life: l.pops[name].cfg.Life, Counts: map[string]int64{"backend of " + name: int64(i + 2)}})
			}
			l.within(2*time.Second, "equal", l.equal())
			quiet()
			l.within(6*time.Second, "heard", func() bool { return all.hear(others, int64(i+2)) })
		}
	})
}

// TestOverlayInPieces: where the neighbours of some are all among themselves,
// streams to others show what is lacking.
func TestOverlayInPieces(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, eight, func(c *Config) { c.FanoutLimit = 2 }, func(t *testing.T, l *lab) {
		left, right := l.names[:4], l.names[4:]
		list := func(name string, of []string, more ...string) {
			var peers []Peer
			for _, p := range l.roster() {
				if slices.Contains(of, p.Node) || slices.Contains(more, p.Node) {
					peers = append(peers, p)
				}
			}
			l.pops[name].mesh.SetPeers(peers)
		}
		for _, name := range l.names {
			l.pops[name].start()
		}
		time.Sleep(time.Second)
		for _, name := range left {
			list(name, left)
		}
		for _, name := range right {
			list(name, right)
		}
		time.Sleep(2 * time.Minute) // what is on no list has been let go
		l.pops["a"].write("left", 1)
		l.pops["h"].write("right", 1)
		l.within(5*time.Second, "the left is whole", l.equal(left...))
		l.within(5*time.Second, "the right is whole", l.equal(right...))
		if l.equal()() {
			t.Fatal("nothing is cut")
		}
		// As where a's neighbours are all on the left, whatever it knows of.
		m := l.pops["a"].mesh
		list("a", left, "h")
		m.mu.Lock()
		m.peers["h"].fullUntil = time.Now().Add(time.Hour)
		m.mu.Unlock()
		took := l.within(5*time.Minute, "equal", l.equal())
		t.Logf("equal after %v", took)
	})
}

// TestVoice: of loads is kept what is not 0, and not without bounds.
func TestVoice(t *testing.T) {
	var v voice
	now := time.Now()
	if v.take(beat{load: Load{Life: 1, Seq: 1}}, now) {
		t.Error("a change, and nothing that it changes")
	}
	first := map[string]int64{"x": 1, "y": 0}
	v.take(beat{load: Load{Life: 1, Seq: 1, Whole: true, Counts: first}}, now)
	v.take(beat{prev: 1, load: Load{Life: 1, Seq: 2, Counts: map[string]int64{"x": 0, "z": 3}}}, now)
	if want := map[string]int64{"z": 3}; !maps.Equal(v.load.Counts, want) {
		t.Errorf("%v, want %v", v.load.Counts, want)
	}
	if first["x"] != 1 {
		t.Error("what others send was written to")
	}
	for i := range 3 {
		b := beat{prev: uint64(2 + i), load: Load{Life: 1, Seq: uint64(3 + i), Counts: map[string]int64{}, Verdicts: map[string]LoadVerdict{}}}
		for n := range mostKept {
			b.load.Counts[fmt.Sprint(i, n)] = 1
			b.load.Verdicts[fmt.Sprint(i, n)] = LoadVerdict{}
		}
		v.take(b, now)
	}
	if c, k := len(v.load.Counts), len(v.load.Verdicts); c > mostKept || k > mostKept {
		t.Errorf("%d counts and %d verdicts are kept", c, k)
	}
}
