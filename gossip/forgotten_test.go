package gossip

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestForgottenDeletesSecondHand: who has the mesh's rows by a snapshot knows
// none of the deletes that were forgotten before, and must not vouch for them
// to a POP that missed them.
func TestForgottenDeletesSecondHand(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		a, b, c := l.pops["a"], l.pops["b"], l.pops["c"]
		b.start()
		c.start()
		for i := range 10 {
			b.write(fmt.Sprint("row", i), i)
		}
		l.within(10*time.Second, "equal", l.equal("b", "c"))
		c.stop()
		for i := range 5 {
			b.delete(fmt.Sprint("row", i))
		}
		b.store.collect(b.store.heads())
		a.start() // new: takes a snapshot
		l.within(20*time.Second, "joined", l.equal("a", "b"))
		b.stop()
		c.start() // hears of all that happened from a alone
		l.within(20*time.Second, "equal", l.equal("a", "c"))
		time.Sleep(5 * time.Minute) // digests
		for _, p := range []*pop{a, c} {
			for i := range 5 {
				if w := p.weight(fmt.Sprint("row", i)); w != -1 {
					t.Errorf("%s: row%d is back", p.name, i)
				}
			}
		}
	})
}

// TestForgottenDeletesCutShort: half of a snapshot is none. Who has heard the
// first half only must be sent a whole one again.
func TestForgottenDeletesCutShort(t *testing.T) {
	small := func(c *Config) { c.FrameBytes = 1 << 10 }
	bubble(t, memnet.Config{Latency: region}, "a b", small, func(t *testing.T, l *lab) {
		a, b := l.pops["a"], l.pops["b"]
		l.startAll()
		for i := range 10 {
			b.write(fmt.Sprint("row", i), i)
		}
		l.within(10*time.Second, "equal", l.equal())
		a.stop()
		for i := range 5 {
			b.delete(fmt.Sprint("row", i))
		}
		b.store.collect(b.store.heads())
		for i := range 200 {
			b.write(fmt.Sprint("more", i), i)
		}
		var cut atomic.Bool
		b.store.set(func() {
			b.store.parts = 0
			b.store.reading = func(part int) error {
				if part == 4 {
					cut.Store(true)
					return errors.New("the disk has gone")
				}
				return nil
			}
		})
		a.start()
		l.within(time.Minute, "equal heads", func() bool { return a.store.heads().Covers(b.store.heads()) })
		if !cut.Load() {
			t.Fatal("nothing was cut short")
		}
		time.Sleep(5 * time.Minute) // digests
		for _, p := range l.pops {
			for i := range 5 {
				if w := p.weight(fmt.Sprint("row", i)); w != -1 {
					t.Errorf("%s: row%d is back", p.name, i)
				}
			}
		}
	})
}

// TestSnapshotOfTwoFiles: a file that is replaced while it is read is no
// snapshot of either, and nobody may purge by it.
func TestSnapshotOfTwoFiles(t *testing.T) {
	small := func(c *Config) { c.FrameBytes = 1 << 10 }
	bubble(t, memnet.Config{Latency: region}, "a b", small, func(t *testing.T, l *lab) {
		a, b := l.pops["a"], l.pops["b"]
		l.startAll()
		for i := range 200 {
			b.write(fmt.Sprint("row", i), i)
		}
		l.within(10*time.Second, "equal", l.equal())
		a.stop()
		b.delete("row0")
		b.store.collect(b.store.heads())
		var replaced atomic.Bool
		b.store.set(func() {
			b.store.parts = 0
			b.store.reading = func(part int) error {
				if part == 3 {
					replaced.Store(true)
					b.store.self.Epoch++
					b.store.replica, b.store.horizon = crdt.NewReplica(b.store.self), crdt.Heads{}
				}
				return nil
			}
		})
		a.start()
		l.within(time.Minute, "equal", func() bool { return replaced.Load() && l.equal()() })
		for i := 1; i < 200; i++ {
			if w := a.weight(fmt.Sprint("row", i)); w != int64(i) {
				t.Fatalf("row%d is %d", i, w)
			}
		}
	})
}

// TestPullIntoTwoFiles: what came before an older file took the place of ours
// is not in that, and the end of the answer must not say that it is.
func TestPullIntoTwoFiles(t *testing.T) {
	small := func(c *Config) { c.FrameBytes, c.Digest = 1<<10, time.Hour }
	bubble(t, memnet.Config{Latency: region}, "a b", small, func(t *testing.T, l *lab) {
		a, b := l.pops["a"], l.pops["b"]
		l.startAll()
		for i := range 200 {
			b.write(fmt.Sprint("row", i), i)
		}
		l.within(10*time.Second, "equal", l.equal())
		a.stop()
		for i := range 100 {
			b.write(fmt.Sprint("row", i), i+1000)
		}
		var replaced atomic.Bool
		b.store.set(func() {
			b.store.parts = 0
			b.store.reading = func(part int) error {
				if part == 3 {
					replaced.Store(true)
					a.store.set(func() {
						a.store.self.Epoch++
						a.store.replica = crdt.NewReplica(a.store.self)
					})
				}
				return nil
			}
		})
		a.start()
		l.within(time.Minute, "equal", func() bool { return replaced.Load() && l.equal()() })
	})
}

// TestConfirmedIsAfterWhatCame: what peers have confirmed may be forgotten, so
// that what they sent before must not wait here, to bring it back afterwards.
func TestConfirmedIsAfterWhatCame(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, b := l.pops["a"], l.pops["b"]
		l.within(time.Minute, "a mesh", func() bool { _, ok := b.mesh.Confirmed(t.Context(), l.names); return ok })
		b.store.set(func() { b.store.slow = 10 * time.Second })
		a.write("row", 1)
		time.Sleep(time.Second) // it has come, and waits for the store
		if w := b.weight("row"); w != -1 {
			t.Fatalf("the store is not slow: %d", w)
		}
		if _, ok := b.mesh.Confirmed(t.Context(), l.names); !ok {
			t.Error("not confirmed")
		}
		if w := b.weight("row"); w != 1 {
			t.Errorf("confirmed while a row of weight 1 waits: %d", w)
		}
	})
}
