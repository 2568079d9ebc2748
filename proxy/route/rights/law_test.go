package rights

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestNeverMoreThanTheLimit: whatever is lost, repeated or overtaken, whoever
// dies and comes back, and whatever POPs believe about who lives: rights, and
// connections, are never more than the limit. When all has calmed down, every
// place can be had.
func TestNeverMoreThanTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(rapid.IntRange(1, 5).Draw(t, "POPs"), rapid.Int64Range(1, 30).Draw(t, "limit"))
		if rapid.Bool().Draw(t, "begins in peace") {
			w.calm(time.Second)
		}
		for range rapid.IntRange(0, 400).Draw(t, "steps") {
			w.step(t)
			w.check(t)
		}
		w.heal()
		w.calm(4 * Lease)
		w.check(t)
		for _, x := range w.nodes {
			for x.close() {
			}
		}
		w.calm(time.Second)
		if last := w.nodes[len(w.nodes)-1]; w.fill(last) != w.limit {
			t.Fatalf("%s has %d connections when nobody else has any, want %d\n%s", last.name, last.own, w.limit, w.state())
		}
	})
}

// heal brings every POP back and has all see each other.
func (w *world) heal() {
	for _, x := range w.nodes {
		x.alive, x.asks = nil, 0
		if x.book == nil {
			w.start(x)
		}
	}
}

// step is one thing that happens.
func (w *world) step(t *rapid.T) {
	x := rapid.SampledFrom(w.nodes).Draw(t, "POP")
	switch what := rapid.IntRange(0, 39).Draw(t, "what"); {
	case what < 14 && len(w.mail) > 0:
		w.letter(t)
	case what < 20:
		w.now = w.now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "ms")) * time.Millisecond)
		w.tick(x)
	case what < 23:
		w.now = w.now.Add(100 * time.Millisecond)
		w.burst()
	case x.book == nil:
		if what < 30 {
			w.note("%s starts", x.name)
			w.start(x)
		} else if what == 39 {
			w.note("%s is forgotten", x.name)
			w.forget(x)
		}
	case what < 28:
		x.asks = rapid.Int64Range(0, 4).Draw(t, "asks")
		x.spare = rapid.Int64Range(0, 6).Draw(t, "spare")
		w.post(x, x.book.Ask(w.now, theBackend, x.asks, rapid.Bool().Draw(t, "urgent")))
	case what < 32:
		for n := rapid.IntRange(1, 8).Draw(t, "opens"); n > 0 && x.open(); n-- {
			w.note("%s opens, has %d", x.name, x.own)
		}
	case what < 35:
		for n := rapid.IntRange(1, 8).Draw(t, "closes"); n > 0 && x.close(); n-- {
			w.note("%s closes, has %d", x.name, x.own)
		}
	case what == 35:
		w.note("%s dies", x.name)
		w.kill(x)
	case what < 38:
		x.alive = map[string]uint64{}
		all := w.seen(&node{})
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if name != x.name && rapid.Bool().Draw(t, name+" is heard") {
				x.alive[name] = all[name]
			}
		}
		w.note("%s hears %v", x.name, x.alive)
	case what == 38:
		x.alive = nil
	default:
		w.now = w.now.Add(Lease)
	}
}

// letter is the fate of one: it arrives, once or more, or is lost.
func (w *world) letter(t *rapid.T) {
	i := rapid.IntRange(0, min(len(w.mail)-1, 30)).Draw(t, "letter")
	l := w.mail[i]
	fate := rapid.IntRange(0, 9).Draw(t, "fate")
	if fate > 0 {
		w.mail = slices.Delete(w.mail, i, i+1)
	}
	if fate < 8 {
		w.note("%s -> %s: %+v %+v", l.from, l.To, l.Claim, l.Grant)
		w.deliver(l)
	}
}

// burst is all the mail of now, in order: a network that works for a moment.
func (w *world) burst() {
	now := w.mail
	w.mail = nil
	for _, l := range now {
		w.deliver(l)
	}
}
