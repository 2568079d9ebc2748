package simulation

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/identity"
)

// TestWrongKeyStaysAlone: a POP with another cluster key, which knows where all
// the others are, meets nobody and disturbs nobody.
func TestWrongKeyStaysAlone(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := append([]*pop(nil), w.mesh(5)...)
		x := w.pop("x")
		x.keyring = identity.NewKeyring(clusterKey(t, "Q"))
		for _, p := range all {
			x.roster.addrs[p.name] = p.ip + ":7947"
		}
		x.start()
		x.write("mine", 1)
		var worst time.Duration
		for i := range 60 {
			worst = max(worst, w.spreads(spread, all[i%5], all))
			time.Sleep(time.Second)
		}
		l := x.live.Load()
		if n := len(l.ring.Members()); n != 1 {
			t.Errorf("x sees %d members", n)
		}
		if why := l.ring.Waiting(); !strings.Contains(why, "is its cluster key ours?") {
			t.Errorf("x waits for %q", why)
		}
		for _, s := range l.streams.Peers() {
			if s.Connected || !strings.Contains(s.Err, identity.ErrNoCommonKey.Error()) {
				t.Errorf("x and %s: connected %v, %s", s.Node, s.Connected, s.Err)
			}
		}
		if _, ok := x.disk.get(backend("probe-a")); ok || !whole(all) {
			t.Error("x has taken part")
		}
		for _, p := range all {
			if _, ok := p.disk.get(backend("mine")); ok || len(p.live.Load().ring.Members()) != 5 {
				t.Errorf("%s knows of x", p.name)
			}
		}
		t.Logf("a write took at most %v; x waits: %s", worst, l.ring.Waiting())
	})
}

// TestKeyRotation: the cluster key changes while POPs write. One is off all
// the while, and comes back before the old key is removed.
func TestKeyRotation(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(5)
		a, e, on := all[0], all[4], all[:4]
		next := clusterKey(t, "Q")
		old := a.keys().Primary()
		e.stop()
		w.within(30*time.Second, "failed", func() bool { return verdicts(on) == 4 })

		var worst time.Duration
		step := func(what string, pops []*pop, change func(identity.Keyring) (identity.Keyring, error)) time.Duration {
			t.Helper()
			begin := time.Now()
			if err := a.live.Load().changeKeys(change); err != nil {
				t.Fatal(err)
			}
			a := time.Since(begin)
			took := a + w.within(5*time.Second, what, func() bool {
				for _, p := range pops {
					if !p.keys().Equal(all[0].keys()) {
						return false
					}
				}
				return true
			})
			for i := range 10 {
				worst = max(worst, w.spreads(3*time.Second, pops[i%len(pops)], pops))
			}
			t.Logf("%s: the call took %v, all know after %v", what, a, took)
			return took
		}
		stamp := func() int64 { return a.live.Load().now() }
		step("add", on, func(r identity.Keyring) (identity.Keyring, error) { return r.Add(next, stamp()) })
		w.within(5*time.Second, "announced", func() bool { return len(a.lacking(next.ID())) == 0 })
		step("use", on, func(r identity.Keyring) (identity.Keyring, error) { return r.Use(next.ID(), stamp()) })
		time.Sleep(30 * time.Second) // all gossip goes by the new key
		before := verdicts(all)

		e.join = nil // it has addresses of old, and no other key than the old one
		e.start()
		knows := w.within(10*time.Second, "known to e", func() bool { return e.keys().Equal(a.keys()) })
		back := knows + w.within(patience, "whole", func() bool { return whole(all) && equal(all) })
		step("remove", all, func(r identity.Keyring) (identity.Keyring, error) { return r.Remove(old.ID(), stamp()) })
		for _, p := range all {
			if keys := p.keys().Live(); len(keys) != 1 || keys[0] != next {
				t.Errorf("%s accepts %v", p.name, keys)
			}
		}
		time.Sleep(30 * time.Second)
		if n := verdicts(all) - before; n > 0 || !whole(all) {
			w.state()
			t.Errorf("%d verdicts by the new key", n)
		}
		e.stop()
		e.start()
		w.within(patience, "whole with the new key alone", func() bool { return whole(all) && equal(all) })
		t.Logf("e knew the new key after %v and was whole after %v; a write took at most %v throughout", knows, back, worst)
	})
}

// TestOffDuringRotation: who was off until the old key was removed stays
// alone, until it is given the new one.
func TestOffDuringRotation(t *testing.T) {
	simulate(t, far, func(w *world) {
		all := w.mesh(3)
		a, c, on := all[0], all[2], all[:2]
		c.stop()
		next, old := clusterKey(t, "Q"), a.keys().Primary()
		for _, change := range []func(identity.Keyring) (identity.Keyring, error){
			func(r identity.Keyring) (identity.Keyring, error) { return r.Add(next, a.live.Load().now()) },
			func(r identity.Keyring) (identity.Keyring, error) { return r.Use(next.ID(), a.live.Load().now()) },
			func(r identity.Keyring) (identity.Keyring, error) { return r.Remove(old.ID(), a.live.Load().now()) },
		} {
			if err := a.live.Load().changeKeys(change); err != nil {
				t.Fatal(err)
			}
			w.within(5*time.Second, "known", func() bool { return on[1].keys().Equal(a.keys()) })
		}
		c.start()
		time.Sleep(time.Minute)
		if !equal(on) || whole(all) || len(c.live.Load().ring.Waiting()) == 0 {
			w.state()
			t.Error("c came in with a key that was removed")
		}
		c.stop()
		var err error
		if c.keyring, _, err = c.keyring.Configure(next, time.Now().UnixMilli()); err != nil {
			t.Fatal(err)
		}
		c.start()
		took := w.within(patience, "whole", func() bool { return whole(all) && equal(all) })
		for _, p := range all {
			if fmt.Sprint(p.keys().Live()) != fmt.Sprint([]identity.Key{next}) {
				t.Errorf("%s accepts %v", p.name, p.keys().Live())
			}
		}
		t.Logf("with the new key whole after %v", took)
	})
}
