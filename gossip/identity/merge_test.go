package identity

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// replicas lets a few POPs that begin with one key change their keyrings,
// exchange some, and returns every state that any of them ever was in. Clocks
// are wild, and equal stamps frequent. The limit is so small that keys are forgotten all the time.
func replicas(t *rapid.T, limit int) []Keyring {
	pops := make([]Keyring, rapid.IntRange(2, 4).Draw(t, "pops"))
	for i := range pops {
		pops[i] = NewKeyring(testKey(0))
	}
	states := append([]Keyring{{}, NewKeyring(Insecure)}, pops...)
	for range rapid.IntRange(0, 40).Draw(t, "steps") {
		i := rapid.IntRange(0, len(pops)-1).Draw(t, "pop")
		k := testKey(rapid.IntRange(0, 5).Draw(t, "key"))
		now := rapid.SampledFrom([]int64{-3, 5, 20, 30}).Draw(t, "now")
		was := pops[i]
		switch rapid.IntRange(0, 3).Draw(t, "op") {
		case 0:
			pops[i], _ = was.Add(k, now)
		case 1:
			pops[i], _ = was.Use(k.ID(), now)
		case 2:
			pops[i], _ = was.Remove(k.ID(), now)
		case 3:
			pops[i] = was.merge(pops[rapid.IntRange(0, len(pops)-1).Draw(t, "from")], limit)
		}
		pops[i] = pops[i].pruned(limit)
		wellFormed(t, pops[i], limit)
		states = append(states, pops[i])
	}
	return states
}

func wellFormed(t *rapid.T, r Keyring, limit int) {
	live := r.Live()
	if len(live) == 0 || live[0] != r.Primary() || live[0].ID() != r.primary {
		t.Fatalf("no live primary: %v of %+v", live, r.keys)
	}
	if len(r.keys) > limit+1 {
		t.Fatalf("%d keys, limit %d", len(r.keys), limit)
	}
	for i, e := range r.keys {
		if i > 0 && r.keys[i-1].id >= e.id {
			t.Fatalf("not sorted: %+v", r.keys)
		}
		if !r.live(e) && e.secret != (Key{}) || r.live(e) && e.secret.ID() != e.id {
			t.Fatalf("live %v with the wrong secret: %+v", r.live(e), e)
		}
	}
	back, err := DecodeKeyring(r.Encode())
	if err != nil || !back.Equal(r) {
		t.Fatalf("%s is read back as %+v, %v", r.Encode(), back.keys, err)
	}
}

func same(t *rapid.T, law string, a, b Keyring) {
	if !a.Equal(b) || !bytes.Equal(a.Encode(), b.Encode()) {
		t.Fatalf("%s:\n%s%s", law, a.Encode(), b.Encode())
	}
}

func TestMergeLaws(t *testing.T) {
	for _, limit := range []int{1, 2, 3, maxKeys} {
		t.Run(fmt.Sprint(limit), rapid.MakeCheck(func(t *rapid.T) {
			states := replicas(t, limit)
			pick := rapid.SampledFrom(states)
			a, b, c := pick.Draw(t, "a"), pick.Draw(t, "b"), pick.Draw(t, "c")
			same(t, "idempotent", a.merge(a, limit), a)
			same(t, "commutative", a.merge(b, limit), b.merge(a, limit))
			same(t, "associative", a.merge(b, limit).merge(c, limit), a.merge(b.merge(c, limit), limit))
			same(t, "absorbing", a.merge(b, limit).merge(b, limit), a.merge(b, limit))
			if ab := a.merge(b, limit); !ab.Empty() {
				wellFormed(t, ab, limit)
			}

			var forth Keyring
			for _, s := range states {
				forth = forth.merge(s, limit)
			}
			var back Keyring
			for _, s := range rapid.Permutation(states).Draw(t, "order") {
				back = back.merge(s, limit)
			}
			same(t, "same end in any order", forth, back)
			wellFormed(t, forth, limit)
		}))
	}
}

// Two operators, two POPs that do not hear each other.
func TestConcurrentChanges(t *testing.T) {
	a, b, c := testKey(1), testKey(2), testKey(3)
	both := must(NewKeyring(a).Add(b, 10))
	for name, test := range map[string]struct {
		left, right func() Keyring
		primary     Key
		live        int
	}{
		"each removes what the other uses: the used one stays": {
			func() Keyring { return must(both.Remove(b.ID(), 20)) },
			func() Keyring { return must(must(both.Use(b.ID(), 15)).Remove(a.ID(), 16)) }, b, 1},
		"two use two: the later": {
			func() Keyring { return must(both.Use(b.ID(), 15)) },
			func() Keyring { return must(must(both.Add(c, 11)).Use(c.ID(), 14)) }, b, 3},
		"added again while removed: the later": {
			func() Keyring { return must(must(both.Remove(b.ID(), 20)).Add(b, 30)) },
			func() Keyring { return must(both.Remove(b.ID(), 25)) }, a, 2},
		"a slow clock still changes what it has seen": {
			func() Keyring { return must(both.Use(b.ID(), -7)) },
			func() Keyring { return both }, b, 2},
		"a new POP with the old key reverts nothing": {
			func() Keyring { return must(both.Use(b.ID(), 15)) },
			func() Keyring { return NewKeyring(a) }, b, 2},
		"two use two at one moment: one, the same on both": {
			func() Keyring { return must(must(both.Add(c, 11)).Use(c.ID(), 15)) },
			func() Keyring { return must(both.Use(b.ID(), 15)) }, greater(b, c), 3},
		"added and removed at one moment: removed": {
			func() Keyring { return must(must(both.Remove(b.ID(), 20)).Add(b, 30)) },
			func() Keyring { return must(both.Remove(b.ID(), 30)) }, a, 1},
	} {
		m := test.left().Merge(test.right())
		if !m.Equal(test.right().Merge(test.left())) {
			t.Errorf("%s: not on both", name)
		}
		if m.Primary() != test.primary || len(m.Live()) != test.live {
			t.Errorf("%s: primary %v of %v", name, m.Primary(), m.List())
		}
	}
}

// A removal that arrived too late for the primary must not strike when the
// next key is used: POPs that have not heard of that one still need it.
func TestUseOfTheNextKeyKeepsTheOneBefore(t *testing.T) {
	a, b := testKey(1), testKey(2)
	both := must(NewKeyring(a).Add(b, 10))
	m := must(both.Remove(b.ID(), 20)).Merge(must(both.Use(b.ID(), 15)))
	m = must(m.Use(a.ID(), 30))
	if _, ok := m.Key(b.ID()); !ok || m.Primary() != a {
		t.Errorf("%v", m.List())
	}
	m = must(m.Remove(b.ID(), 40))
	if _, ok := m.Key(b.ID()); ok {
		t.Errorf("%v", m.List())
	}
}

func greater(a, b Key) Key {
	if a.ID() > b.ID() {
		return a
	}
	return b
}

func must(r Keyring, err error) Keyring {
	if err != nil {
		panic(err)
	}
	return r
}
