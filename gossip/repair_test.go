package gossip

import (
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestDigestRepairs: rows that changed behind the clock's back, which heads
// cannot show.
func TestDigestRepairs(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		for i := range 40 {
			l.pops["a"].write(fmt.Sprint("row", i), i)
		}
		l.startAll()
		l.within(5*time.Second, "equal", l.equal())
		b := l.pops["b"]
		b.store.tamper(backend("row7"), func(r crdt.Record) (crdt.Record, bool) { return r, false }) // lost
		b.store.tamper(backend("row8"), func(r crdt.Record) (crdt.Record, bool) {
			r.Cells = append([]crdt.Cell(nil), r.Cells...)
			r.Cells[0].Stamp.Time -= 1 << 20 // as it was before
			return r, true
		})
		if l.equal()() {
			t.Fatal("nothing is damaged")
		}
		took := l.within(5*time.Minute, "repaired", l.equal())
		t.Logf("repaired after %v", took)
		if w := b.weight("row7"); w != 7 {
			t.Errorf("row7 has %d", w)
		}
		var repairs uint64
		for _, p := range l.pops {
			repairs += p.mesh.Stats().Repairs
		}
		if repairs != 2 {
			t.Errorf("%d repairs of 2 rows", repairs)
		}
	})
}

// TestDigestLeavesGrowthAlone: POPs whose heads differ are not compared.
func TestDigestLeavesGrowthAlone(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) { c.Digest = time.Second }, func(t *testing.T, l *lab) {
		l.startAll()
		for i := range 2000 {
			l.pops[l.names[i%3]].write(fmt.Sprint("row", i%50), i)
			time.Sleep(10 * time.Millisecond)
		}
		l.within(time.Second, "equal", l.equal())
		time.Sleep(5 * time.Second)
		for _, p := range l.pops {
			if s := p.mesh.Stats(); s.Repairs > 0 || s.DigestsDiffer > 0 || s.Digests == 0 {
				t.Errorf("%s took growth for damage: %+v", p.name, s)
			}
		}
	})
}

// TestForgettingIsNoDifference: POPs forget deletes each in its own time, and
// compare meanwhile. What one has forgotten and another has not is no damage,
// and does not come back.
func TestForgettingIsNoDifference(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.startAll()
		pops := []*pop{l.pops["a"], l.pops["b"], l.pops["c"]}
		for round := range 40 {
			writer := pops[round%3]
			for i := range 5 {
				writer.write(fmt.Sprint("row", i), round)
			}
			for i := range 5 {
				writer.delete(fmt.Sprint("row", i))
			}
			l.within(time.Second, "equal", l.equal())
			seen := writer.store.heads()
			for _, p := range pops { // without a word to its mesh
				time.Sleep(time.Duration(7*round+1) * time.Second)
				p.store.collect(seen)
				p.mesh.Compare(t.Context())
			}
		}
		time.Sleep(5 * time.Minute)
		for _, p := range pops {
			if s := p.mesh.Stats(); s.Digests == 0 || s.DigestsDiffer != 0 || s.Repairs != 0 {
				t.Errorf("%s: of %d digests %d differ, %d repairs", p.name, s.Digests, s.DigestsDiffer, s.Repairs)
			}
		}
	})
}

// TestForgottenDeletes: a POP that was away while a delete was collected comes
// back with the row, and must not bring it back to the others.
func TestForgottenDeletes(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, b, c := l.pops["a"], l.pops["b"], l.pops["c"]
		for i := range 10 {
			a.write(fmt.Sprint("row", i), i)
		}
		l.within(time.Second, "equal", l.equal())
		c.stop()
		for i := range 5 {
			b.delete(fmt.Sprint("row", i))
		}
		l.within(time.Second, "deleted", l.equal("a", "b"))
		if heads, ok := a.mesh.Confirmed(t.Context(), []string{"a", "b", "c"}); !ok || heads[crdt.Origin{Node: "b", Epoch: 1}] != 0 {
			t.Errorf("confirmed %v, %v: c has not seen the deletes", heads, ok)
		}
		time.Sleep(2 * time.Second) // acknowledged
		for _, p := range []*pop{a, b} {
			heads, ok := p.mesh.Confirmed(t.Context(), []string{"a", "b"})
			if !ok || heads[crdt.Origin{Node: "b", Epoch: 1}] != 5 {
				t.Fatalf("%s: confirmed %v, %v", p.name, heads, ok)
			}
			if n := p.store.collect(heads); n != 5 {
				t.Fatalf("%s collected %d deletes", p.name, n)
			}
		}
		c.write("row9", 99) // its own, while it was alone
		time.Sleep(30 * time.Second)
		c.start()
		l.within(20*time.Second, "equal", l.equal())
		time.Sleep(5 * time.Minute) // digests
		for _, p := range l.pops {
			for i := range 10 {
				want := int64(i)
				if i < 5 {
					want = -1
				} else if i == 9 {
					want = 99
				}
				if w := p.weight(fmt.Sprint("row", i)); w != want {
					t.Errorf("%s: row%d is %d, want %d", p.name, i, w, want)
				}
			}
			if s := p.mesh.Stats(); s.Repairs != 0 {
				t.Errorf("%s: %d repairs", p.name, s.Repairs)
			}
		}
		if s := c.mesh.Stats(); s.Purged != 5 {
			t.Errorf("c purged %d rows, want 5", s.Purged)
		}
		if _, ok := a.mesh.Confirmed(t.Context(), []string{"a", "nobody"}); ok {
			t.Error("confirmed by somebody who was never there")
		}
	})
}
