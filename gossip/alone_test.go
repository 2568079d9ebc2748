package gossip

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestWrittenAlone: what a POP sealed before it heard any other is not pushed to
// the first that comes, but asked for; and where the store then writes it anew
// in another epoch and gives up the head of the first, nobody is left waiting
// for that, nor said to lack it.
func TestWrittenAlone(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		a, b, c := l.pops["a"], l.pops["b"], l.pops["c"]
		first := a.store.self
		alone := func(i int) {
			d := a.store.replica.Write(backend(fmt.Sprint("b", i)), crdt.At(time.Now().Add(time.Hour).UnixMilli()), map[string]crdt.Value{"weight": crdt.IntValue(int64(i))})
			d.Alone = true
			a.mesh.Publish(d)
		}
		a.start()
		for i := range 20 {
			a.store.set(func() { alone(i) })
		}
		a.store.reading = func(part int) error {
			if part == 1 {
				a.store.anew()
			}
			return nil
		}
		b.start()
		l.within(5*time.Second, "connected", func() bool { return l.connected() == 2 })
		a.store.set(func() { alone(20) }) // was sealed just before
		l.within(5*time.Second, "asked", func() bool { return a.store.origin() != first })
		a.mesh.Replaced()
		a.store.set(func() { // which is pushed before b asks again
			d, _ := a.store.replica.Since(crdt.Heads{}, 1<<20)
			a.mesh.Publish(d)
		})
		l.within(5*time.Second, "equal", l.equal("a", "b"))
		select {
		case <-b.mesh.Synced():
		case <-time.After(5 * time.Second):
			t.Error("b goes on waiting for what a gave up")
		}
		c.start()
		l.within(5*time.Second, "equal", l.equal())
		for _, p := range l.pops {
			if n, ok := p.store.heads()[first]; ok {
				t.Errorf("%s claims %d writes of %v", p.name, n, first)
			}
			if rec, _ := p.store.get(backend("b20")); rec.Newest().Origin == first {
				t.Errorf("%s was sent %+v", p.name, rec)
			}
		}
		l.within(2*time.Second, "acknowledged", func() bool {
			return !slices.ContainsFunc(a.mesh.Peers(), func(st PeerStatus) bool { return st.Lag > 0 })
		})
		a.write("b1", 100)
		l.within(region+50*time.Millisecond, "everywhere", func() bool { return b.weight("b1") == 100 && c.weight("b1") == 100 })
	})
}
