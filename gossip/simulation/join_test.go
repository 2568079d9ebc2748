package simulation

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// TestJoinByOneSeed: four POPs know nothing but a, all start at once, and each
// has rows of its own.
func TestJoinByOneSeed(t *testing.T) {
	simulate(t, far, func(w *world) {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			p := w.pop(name)
			p.start()
			for i := range 100 {
				p.write(fmt.Sprint(name, i), i)
			}
		}
		joined := w.within(patience, "joined", func() bool { return whole(w.all) })
		same := joined + w.within(5*time.Second, "equal", func() bool { return equal(w.all) })
		for _, p := range w.all {
			select {
			case <-p.live.Load().streams.Synced():
			default:
				t.Errorf("%s is equal, but not synced", p.name)
			}
		}
		var worst time.Duration
		for i := range 25 {
			worst = max(worst, w.spreads(time.Second, w.all[i%5], w.all))
			time.Sleep(w.between(0, 200*time.Millisecond))
		}
		t.Logf("joined after %v, equal after %v; then a write is everywhere in at most %v", joined, same, worst)
		if worst > spread {
			t.Errorf("a write took %v, want at most %v", worst, spread)
		}
	})
}

// TestColdStart: all POPs of a mesh were off and come back at once, in random
// order, at first over known addresses alone, and then as if for the first
// time, with a seed that may come last.
func TestColdStart(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(5)
		for round := range 6 {
			fresh := round%2 == 1
			for _, p := range all {
				p.write(fmt.Sprint("round", round), round)
				p.stop()
			}
			order := slices.Clone(all)
			for i := range order {
				j := i + w.intN(len(order)-i)
				order[i], order[j] = order[j], order[i]
			}
			begin := time.Now()
			for _, p := range order {
				p.join = nil
				if fresh {
					p.join = []string{"10.0.0.1"}
					clear(p.roster.addrs)
					if err := os.Remove(p.snapshot); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(w.between(0, 2*time.Second))
				p.start()
			}
			started := time.Since(begin)
			synced := w.within(10*time.Second, "synced", func() bool {
				return !slices.ContainsFunc(all, func(p *pop) bool {
					select {
					case <-p.live.Load().streams.Synced():
						return false
					default:
						return true
					}
				})
			})
			same := synced + w.within(15*time.Second, "equal", func() bool { return equal(all) })
			joined := same + w.within(patience, "whole", func() bool { return whole(all) })
			t.Logf("%s over %v, known addresses %v: after the last start synced in %v, equal in %v, whole in %v", names(order), started.Round(time.Millisecond), !fresh, synced, same, joined)
		}
	})
}

// TestColdStartInParts: a mesh that knows no seed comes back in two parts that
// do not reach each other at first.
func TestColdStartInParts(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(4)
		for _, p := range all {
			p.stop()
			p.join = nil
		}
		w.net.Partition(ips(all[:2])...)
		for _, p := range all {
			p.start()
		}
		w.within(patience, "whole on either side", func() bool { return whole(all[:2]) && whole(all[2:]) })
		time.Sleep(30 * time.Second)
		w.net.HealAll()
		took := w.within(patience, "whole", func() bool { return whole(all) })
		t.Logf("whole %v after the parts reached each other", took)
	})
}

// TestNewMachine: a POP dies with its disk, and a new one takes its place
// under a new name.
func TestNewMachine(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(5)
		e, rest := all[4], all[:4]
		for i := range 500 {
			all[i%5].write(fmt.Sprint("row", i), i)
		}
		w.within(5*time.Second, "equal", func() bool { return equal(all) })
		// Its last write reaches one POP only.
		for _, p := range rest[1:] {
			w.net.Cut(p.ip, e.ip)
		}
		last := e.write("last", 1)
		w.within(time.Second, "at a", func() bool { return have(rest[:1], "last", last) })
		w.net.Cut(rest[0].ip, e.ip)
		e.stop()
		passed := w.within(15*time.Second, "at all", func() bool { return have(rest, "last", last) })
		w.spreads(spread, rest[1], rest)

		f := w.pop("f")
		f.start()
		now := append(slices.Clone(rest), f)
		same := w.within(15*time.Second, "equal", func() bool { return equal(now) })
		joined := same + w.within(patience, "whole", func() bool { return whole(now) })
		_, _, rows, _ := f.disk.content()
		t.Logf("the last write of the dead POP, which one other had, is with all after %v; its successor is equal (%d rows) after %v, whole after %v", passed, rows, same, joined)
		w.spreads(spread, f, now)
		w.within(30*time.Second, "failed", func() bool { return verdicts(rest) == 4 })
	})
}
