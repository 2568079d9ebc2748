package rights

import (
	"testing"
	"time"
)

// take has a POP open n connections, with rights that it asks for; it says how
// many it got.
func (w *world) take(x *node, n int64) (got int64) {
	for range 20 {
		for got < n && x.open() {
			got++
		}
		x.asks = n - got
		w.calm(250 * time.Millisecond)
	}
	x.asks = 0
	w.calm(time.Second)
	return got
}

func (w *world) home(t *testing.T) *node {
	t.Helper()
	homes := w.homes()
	if len(homes) != 1 {
		t.Fatalf("homes: %v\n%s", homes, w.state())
	}
	return w.node(homes[0])
}

// other is one that is none of these.
func (w *world) other(not ...*node) *node {
	for _, x := range w.nodes {
		taken := false
		for _, o := range not {
			taken = taken || x == o
		}
		if !taken {
			return x
		}
	}
	return nil
}

// TestAllForOne: in peace every right can be had, at once and anywhere, and
// goes where it is needed.
func TestAllForOne(t *testing.T) {
	w := newWorld(3, 100)
	w.calm(time.Second)
	home := w.home(t)
	a, b := w.other(home), w.other(home, w.other(home))
	w.expect(t, "a", w.take(a, 200), 100)
	w.expect(t, "b, when a has all", w.take(b, 1), 0)
	for range 30 {
		a.close()
	}
	w.expect(t, "b, when a has closed 30", w.take(b, 100), 30)
}

// TestHomeDies: those that live go on with their rights; after a lease most of
// them choose another home, which grants all but what the dead one may have.
func TestHomeDies(t *testing.T) {
	w := newWorld(5, 100)
	w.calm(5 * time.Second)
	home := w.home(t)
	a := w.other(home)
	w.take(home, 20)
	w.take(a, 10)
	w.kill(home)
	w.calm(Lease / 2)
	if n := w.homes(); len(n) != 0 {
		t.Errorf("%v grants before it has waited", n)
	}
	w.calm(Lease)
	got := w.take(a, 100)
	if got < 60 || got > 70 {
		t.Errorf("a got %d more; 100 less its 10, the 20 of the dead home and what that had in reserve\n%s", got, w.state())
	}
	w.check(t)
	w.start(home)
	w.calm(time.Second)
	w.expect(t, "after the dead one was born again", w.take(a, 100), 90-got)
}

// TestForgotten: what a dead POP had comes back when it is on no roster any more.
func TestForgotten(t *testing.T) {
	w := newWorld(3, 100)
	w.calm(5 * time.Second)
	home := w.home(t)
	a := w.other(home)
	w.take(a, 70)
	w.kill(a)
	w.calm(3 * Lease)
	b := w.other(home, a)
	if got := w.take(b, 100); got > 30 {
		t.Errorf("%d rights of a POP that is dead, for all that is known", got)
	}
	w.forget(a)
	w.calm(2 * Lease)
	w.take(b, 100)
	w.expect(t, "after it was forgotten", b.own, 100)
}

// without has time pass in which no mail goes between alone and the others, and
// neither side hears the other. Who asks opens what it can.
func (w *world) without(t *testing.T, alone *node, lasts time.Duration) {
	t.Helper()
	for end := w.now.Add(lasts); w.now.Before(end); w.now = w.now.Add(250 * time.Millisecond) {
		for _, x := range w.nodes {
			x.alive = map[string]uint64{}
			for _, o := range w.nodes {
				if o != x && o.book != nil && x != alone && o != alone {
					x.alive[o.name] = o.life
				}
			}
			w.tick(x)
		}
		for len(w.mail) > 0 {
			l := w.mail[0]
			w.mail = w.mail[1:]
			if (l.from == alone.name) == (l.To == alone.name) {
				w.deliver(l)
			}
		}
		for _, x := range w.nodes {
			for x.asks > 0 && x.open() {
			}
		}
		w.check(t)
	}
}

// TestMinority: who is cut off goes on with the rights that it has, and gets
// little more, also where the home is with it; the others choose another home.
func TestMinority(t *testing.T) {
	w := newWorld(5, 100)
	w.calm(5 * time.Second)
	home := w.home(t)
	w.take(home, 20)
	home.asks = 100
	w.without(t, home, 5*time.Second)
	if home.own < 20 || home.own > 30 {
		t.Errorf("the home alone has %d connections, want its 20 and a small reserve", home.own)
	}
	before := home.own
	for range 5 {
		home.close()
		w.without(t, home, 250*time.Millisecond)
	}
	w.expect(t, "with what it gave back itself, the home alone", home.own, before)
	w.without(t, home, 2*Lease)
	a := w.other(home)
	a.asks = 100
	w.without(t, home, Lease)
	if a.own < 60 {
		t.Errorf("most of the mesh has %d connections, want the rest\n%s", a.own, w.state())
	}
}

// TestLoweredLimit: nothing is cut, and nothing opens until the connections
// are below the new limit, also not in the place of one that ends.
func TestLoweredLimit(t *testing.T) {
	w := newWorld(3, 100)
	w.calm(5 * time.Second)
	a, b := w.nodes[0], w.nodes[1]
	w.take(a, 60)
	w.take(b, 30)
	w.limit = 90
	for _, x := range w.nodes { // not at the same time
		x.limit = 50
		w.calm(time.Second)
	}
	for range 40 {
		a.close()
		w.calm(250 * time.Millisecond)
		if before, _ := w.sums(); before >= 50 && (w.take(a, 1) > 0 || w.take(b, 1) > 0) {
			t.Fatalf("opened with %d of 50\n%s", before, w.state())
		}
	}
	w.limit = 50
	w.check(t)
	for range 10 {
		b.close()
	}
	w.calm(time.Second)
	w.take(w.nodes[2], 100)
	sum, _ := w.sums()
	w.expect(t, "all", sum, 50)
}

// TestFromBefore: connections that a POP has from before there was a limit
// count against it.
func TestFromBefore(t *testing.T) {
	w := newWorld(3, 100)
	for range 80 {
		w.nodes[1].openAnyway()
	}
	w.calm(5 * time.Second)
	w.expect(t, "beside 80 from before", w.take(w.nodes[0], 100), 20)
	for range 50 {
		w.nodes[1].close()
	}
	w.calm(time.Second)
	w.expect(t, "when 50 of them have ended", w.take(w.nodes[0], 100), 50)
}

// TestAmnesia: voters that were born again have lost what they had written
// down. They are not most of anything while the home may be granting.
func TestAmnesia(t *testing.T) {
	w := newWorld(3, 100)
	w.calm(5 * time.Second)
	home := w.home(t)
	w.take(home, 90)
	for _, x := range w.nodes {
		if x != home {
			w.kill(x)
			w.start(x)
			x.asks = 100
		}
	}
	w.without(t, home, 5*Lease)
	w.expect(t, "the home", home.own, 90)
	for _, x := range w.nodes {
		x.alive = nil
	}
	w.calm(Lease)
	sum, _ := w.sums()
	for _, x := range w.nodes {
		if x != home {
			sum += w.take(x, 100)
		}
	}
	w.expect(t, "all, when they hear each other again", sum, 100)
}

// TestBornAgainWithTheOldHome: a POP that had followed a new home, and has
// forgotten it, gets nothing from the old one, which does not know that it is
// home no more.
func TestBornAgainWithTheOldHome(t *testing.T) {
	w := newWorld(3, 100)
	w.calm(5 * time.Second)
	home := w.home(t)
	w.take(home, 20)
	home.asks = 100
	w.without(t, home, 3*Lease)
	homes := w.homes()
	if len(homes) != 2 {
		t.Fatalf("homes: %v, want the old one and a new one\n%s", homes, w.state())
	}
	newer := w.node(homes[0])
	if newer == home {
		newer = w.node(homes[1])
	}
	newer.asks = 100
	w.without(t, home, Lease)
	again := w.other(home, newer)
	w.kill(again)
	w.start(again)
	w.without(t, home, Lease) // the new home has counted it as born again
	w.kill(again)
	w.start(again)
	again.asks = 100
	w.without(t, newer, Lease) // now the old home has it on its side
}
