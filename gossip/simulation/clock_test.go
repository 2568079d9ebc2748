package simulation

import (
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// skewed is five POPs, the clock of c ahead.
func skewed(w *world, ahead time.Duration) (all []*pop, c *pop, rest []*pop) {
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		w.pop(name)
	}
	all, c = w.all, w.all[2]
	c.skew = ahead
	for _, p := range all {
		p.start()
	}
	w.within(patience, "whole", func() bool { return whole(all) })
	return all, c, without(all, c)
}

// TestClockAhead: the clock of one POP is an hour ahead. It writes by the
// mesh's time, also while it is cut off.
func TestClockAhead(t *testing.T) {
	simulate(t, far, func(w *world) {
		all, c, _ := skewed(w, time.Hour)
		took := w.within(5*time.Second, "equal", func() bool { return equal(all) })
		time.Sleep(10 * time.Second) // the first pings
		inTime := func(when string) {
			t.Helper()
			for _, p := range all {
				if off := p.live.Load().streams.Offset() + p.skew; off.Abs() > 2*jitter {
					t.Errorf("%s: %s's mesh time is %v off, its clock %v", when, p.name, off, p.skew)
				}
			}
		}
		inTime("whole")
		var worst time.Duration
		for i := range 20 {
			worst = max(worst, w.spreads(spread, all[i%5], all))
		}
		// What another writes later wins.
		c.write("row", 1)
		time.Sleep(2 * jitter)
		later := all[0].write("row", 2)
		w.within(spread, "the later write at all", func() bool { return have(all, "row", later) })

		w.net.Partition(c.ip)
		time.Sleep(time.Minute)
		inTime("cut off")
		ahead := func(s crdt.Stamp) time.Duration {
			return time.Duration(s.Time.Milli()-time.Now().UnixMilli()) * time.Millisecond
		}
		alone := ahead(c.write("row", 3))
		if alone.Abs() > 2*jitter {
			t.Errorf("what c writes alone is stamped %v ahead", alone)
		}
		time.Sleep(2 * jitter)
		later = all[0].write("row", 4)
		w.net.HealAll()
		same := w.within(10*time.Second, "equal", func() bool { return equal(all) })
		if !have(all, "row", later) {
			t.Errorf("c's earlier write has won: %v over %v", c.cell("row").Stamp, later)
		}
		t.Logf("equal %v after joining; a write took at most %v; c alone is %v off mesh time; healed: equal after %v", took, worst, alone, same)
	})
}

// TestClockAheadAtStart: a POP whose clock is ahead starts where it reaches
// nobody, and so cannot know. What it writes then waits in the others'
// quarantine until its time has come; all the rest goes on.
func TestClockAheadAtStart(t *testing.T) {
	const wrong = 3 * time.Minute
	simulate(t, far, func(w *world) {
		all, c, rest := skewed(w, wrong)
		c.stop()
		w.net.Partition(c.ip)
		c.start()
		early := c.write("early", 1)
		at := time.Now()
		w.net.HealAll()
		w.within(patience, "whole", func() bool { return whole(all) })
		for i := range 30 {
			w.spreads(spread, all[i%5], all)
			time.Sleep(time.Second)
		}
		w.within(time.Second, "equal among the others", func() bool {
			heads := rest[0].disk.heads()
			_, sum, _, held := rest[0].disk.content()
			for _, p := range all[1:] {
				_, s, _, h := p.disk.content()
				if !p.disk.heads().Covers(heads) || p != c && (s != sum || h != held) {
					return false
				}
			}
			return held == 1
		})
		overtaken := rest[1].write("early", 2)
		w.within(spread, "writable where it is held", func() bool { return have(rest, "early", overtaken) })
		w.within(wrong+5*time.Second, "equal", func() bool { return equal(all) })
		if !have(all, "early", early) {
			t.Errorf("%v has won over %v", c.cell("early").Stamp, early)
		}
		t.Logf("what c wrote before it met anybody is with all after %v", time.Since(at))
		if d := time.Since(at); d < wrong-time.Second {
			t.Errorf("a stamp %v ahead was merged after %v", wrong, d)
		}
	})
}
