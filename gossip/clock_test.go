package gossip

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

func TestMedians(t *testing.T) {
	for _, c := range []struct {
		offsets      []time.Duration
		lower, upper time.Duration
	}{
		{nil, 0, 0}, {[]time.Duration{5}, 0, 5}, {[]time.Duration{-5}, -5, 0}, {[]time.Duration{3, 9}, 3, 3},
		{[]time.Duration{-3, 9}, 0, 0}, {[]time.Duration{3, 9, 27}, 3, 9},
	} {
		if lower, upper := medians(c.offsets); lower != c.lower || upper != c.upper {
			t.Errorf("medians(%v) = %d, %d, want %d, %d", c.offsets, lower, upper, c.lower, c.upper)
		}
	}
}

// TestClockSamples: of samples that can all be right the nearest counts, and
// only the latest where a clock was set in between.
func TestClockSamples(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		what string
		list []clockSample
		want time.Duration
	}{
		{"the nearest", []clockSample{{40 * ms, 15 * ms}, {2 * ms, 1 * ms}, {30 * ms, -10 * ms}}, 1 * ms},
		{"a far one that may be right", []clockSample{{2 * ms, 0}, {800 * ms, 390 * ms}}, 0},
		{"set", []clockSample{{2 * ms, 0}, {2 * ms, 1 * ms}, {900 * ms, 5 * time.Minute}}, 5 * time.Minute},
		{"set, and back", []clockSample{{2 * ms, 0}, {9 * ms, -5 * time.Minute}, {9 * ms, 3 * ms}}, 3 * ms},
	} {
		var samples clockSamples
		for _, s := range c.list {
			samples.add(s)
		}
		if best, _ := samples.best(); best.offset != c.want {
			t.Errorf("%s: %v, want %v", c.what, best.offset, c.want)
		}
	}
}

// TestClockIsSet: a clock that is set while its POP runs moves mesh time for
// nobody, unless it is right afterwards or there is nobody else.
func TestClockIsSet(t *testing.T) {
	var skew [4]atomic.Int64 // of a, b, c, d
	set := func(name string, by time.Duration) { skew[name[0]-'a'].Store(int64(by)) }
	bubble(t, memnet.Config{Latency: region, Jitter: 5 * time.Millisecond}, "a b c d", func(c *Config) {
		n := c.Node[0] - 'a'
		c.Now = func() time.Time { return time.Now().Add(time.Duration(skew[n].Load())) }
	}, func(t *testing.T, l *lab) {
		mesh := func(when string, want time.Duration, names ...string) {
			t.Helper()
			for _, name := range names {
				if got := l.pops[name].mesh.Time().Mesh.Sub(time.Now().Round(0)); (got - want).Abs() > 10*time.Millisecond {
					t.Errorf("%s: %s's mesh time is %v off, want %v", when, name, got, want)
				}
			}
		}
		off := func(when, name string, want time.Duration) {
			t.Helper()
			if got := l.pops[name].mesh.Offset(); (got - want).Abs() > 10*time.Millisecond {
				t.Errorf("%s: %s says that it is %v off, want %v", when, name, got, want)
			}
		}
		set("a", time.Hour)
		set("b", -time.Hour)
		for _, name := range []string{"a", "b", "c"} { // of which only c's is right
			l.pops[name].start()
		}
		time.Sleep(20 * time.Second)
		mesh("together", 0, "a", "b", "c")
		for _, jump := range []time.Duration{5 * time.Minute, -5 * time.Minute, 0, -5 * time.Minute} {
			set("c", jump)
			mesh("at once", 0, "a", "b", "c")
			off("at once", "c", -jump)
			time.Sleep(20 * time.Second)
			mesh("then", 0, "a", "b", "c")
			off("then", "a", -time.Hour)
		}
		for _, name := range []string{"b", "a"} { // are mended, and agree with c as that is told
			set(name, 0)
			mesh("mended", 0, name)
			off("mended", name, 0)
		}
		time.Sleep(20 * time.Second)
		mesh("mended for all", 0, "a", "b", "c")

		set("d", 3*time.Minute)
		l.pops["d"].start() // of 0, 0, 0, 3 min
		time.Sleep(20 * time.Second)
		mesh("with another", 0, "a", "b", "c", "d")
	})
}

// TestClockIsSetAlone: alone a POP follows its clock, and a broken one widens
// no bounds.
func TestClockIsSetAlone(t *testing.T) {
	var skew atomic.Int64 // of a
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) {
		if c.Node == "a" {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		}
	}, func(t *testing.T, l *lab) {
		l.pops["a"].start()
		a := l.pops["a"].mesh
		for _, by := range []time.Duration{56 * 365 * 24 * time.Hour, -time.Hour, time.Minute} {
			skew.Store(int64(by))
			if got := a.Time().Mesh.Sub(time.Now().Round(0)); got != by {
				t.Errorf("alone with a clock %v off mesh time is %v off", by, got)
			}
		}
		l.pops["b"].start()
		time.Sleep(20 * time.Second)
		for name, p := range l.pops {
			if now := p.mesh.Time(); (now.Mesh.Sub(time.Now().Round(0))).Abs() > 10*time.Millisecond || (now.Span-time.Minute).Abs() > 10*time.Millisecond {
				t.Errorf("%s: %+v, want the slower of the two clocks, and to the other a minute", name, now)
			}
		}
		l.pops["a"].stop()
		skew.Store(int64(30 * 24 * time.Hour))
		l.pops["a"].start()
		time.Sleep(20 * time.Second)
		for name, p := range l.pops {
			if now := p.mesh.Time(); now.Span != 0 {
				t.Errorf("%s: %+v with a clock a month ahead", name, now)
			}
		}
	})
}

// TestClockBeyondFrames: a clock that says more than frames carry runs on
// beside the others'.
func TestClockBeyondFrames(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) {
		if c.Node == "a" {
			c.Now = func() time.Time { return time.Now().Add(236 * 365 * 24 * time.Hour) }
		}
	}, func(t *testing.T, l *lab) {
		l.startAll()
		for range 10 {
			time.Sleep(20 * time.Second)
			for name, p := range l.pops {
				if off := p.mesh.Time().Mesh.Sub(time.Now().Round(0)); off.Abs() > 10*time.Millisecond {
					t.Fatalf("%s's mesh time is %v off", name, off)
				}
			}
		}
	})
}
