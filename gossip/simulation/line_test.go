package simulation

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestFlappingLink: the line between a and b comes and goes, e as a whole
// comes and goes, and c and d notice nothing.
func TestFlappingLink(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(5)
		a, b, e := all[0], all[1], all[4]
		var worst, over time.Duration
		up := true
		for begin, next := time.Now(), time.Now(); time.Since(begin) < 2*time.Minute; {
			if !time.Now().Before(next) {
				up = !up
				next = time.Now().Add(w.between(500*time.Millisecond, 4*time.Second))
				if w.net.HealAll(); !up {
					w.net.Cut(a.ip, b.ip)
					for _, p := range without(all, e) {
						w.net.Cut(e.ip, p.ip)
					}
				}
			}
			worst = max(worst, w.spreads(spread, all[2], all[2:4]))
			over = max(over, w.spreads(5*time.Second, a, []*pop{b}))
			e.write(fmt.Sprint("e", w.intN(50)), w.intN(1000))
			time.Sleep(w.between(0, 500*time.Millisecond))
		}
		w.net.HealAll()
		same := w.within(10*time.Second, "equal", func() bool { return equal(all) })
		joined := same + w.within(patience, "whole", func() bool { return whole(all) })
		t.Logf("between c and d a write took at most %v, from a to b %v; %d verdicts; at rest: equal after %v, whole after %v", worst, over, verdicts(all), same, joined)
	})
}

// TestBadLines: packets are lost, doubled and overtaken, pieces of streams are
// sent again, and every few seconds a line stands still and goes on.
func TestBadLines(t *testing.T) {
	bad := far
	bad.Loss, bad.Duplicate, bad.Reorder = 0.05, 0.05, 0.2
	simulate(t, bad, func(w *world) {
		all := w.mesh(5)
		var took []time.Duration
		for begin, next := time.Now(), time.Now(); time.Since(begin) < 2*time.Minute; {
			if !time.Now().Before(next) {
				w.net.HealAll()
				if i, j := w.intN(5), w.intN(5); i != j {
					w.net.Cut(all[i].ip, all[j].ip)
				}
				next = time.Now().Add(w.between(500*time.Millisecond, 12*time.Second))
			}
			took = append(took, w.spreads(5*time.Second, all[w.intN(5)], all))
			time.Sleep(w.between(0, 500*time.Millisecond))
		}
		false1 := verdicts(all)
		w.net.HealAll()
		same := w.within(patience, "equal and whole", func() bool { return equal(all) && whole(all) })
		median, worst := quantiles(took)
		t.Logf("%d writes everywhere in %v, at worst %v; %d false verdicts; at rest equal and whole after %v", len(took), median, worst, false1, same)
		if false1 > 0 {
			t.Errorf("%d times one was called failed that lived", false1)
		}
	})
}

// TestSlowLine: a line that becomes ten times as long, and loses a tenth, on one pair.
func TestSlowLine(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(5)
		a, b := all[0], all[1]
		w.net.SetLink(a.ip, b.ip, memnet.Link{Latency: 10 * way, Jitter: way, Loss: 0.1})
		var rest, slow time.Duration
		for range 30 {
			rest = max(rest, w.spreads(spread, a, all[2:]))
			slow = max(slow, w.spreads(5*time.Second, a, all[1:2]))
			time.Sleep(time.Second)
		}
		w.within(patience, "equal and whole", func() bool { return equal(all) && whole(all) })
		t.Logf("from a to the others at most %v, over the slow line %v; %d verdicts", rest, slow, verdicts(all))
	})
}
