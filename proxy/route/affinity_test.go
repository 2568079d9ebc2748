package route

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"pgregory.net/rapid"
)

func TestKeyOf(t *testing.T) {
	for _, c := range []struct {
		appA, a, appB, b string
		same             bool
	}{
		{"x", "192.0.2.1", "x", "192.0.2.1", true},
		{"x", "192.0.2.1", "x", "192.0.2.2", false},
		{"x", "192.0.2.1", "y", "192.0.2.1", false},
		{"", "192.0.2.1", "x", "192.0.2.1", false},
		{"x", "192.0.2.1", "x", "::ffff:192.0.2.1", true},
		{"x", "::ffff:192.0.2.1", "x", "::ffff:192.0.2.2", false},
		{"x", "2001:db8:1:2::1", "x", "2001:db8:1:2:ffff:ffff:ffff:ffff", true},
		{"x", "2001:db8:1:2::1", "x", "2001:db8:1:3::1", false},
		{"x", "fe80::1%eth0", "x", "fe80::2%eth1", true},
		{"x", "::1", "x", "0.0.0.1", false},
		{"x", "::c000:201", "x", "192.0.2.1", false},
	} {
		a, b := KeyOf(c.appA, netip.MustParseAddr(c.a)), KeyOf(c.appB, netip.MustParseAddr(c.b))
		if (a == b) != c.same {
			t.Errorf("%s %s and %s %s: %v, %v; same should be %v", c.appA, c.a, c.appB, c.b, a, b, c.same)
		}
	}
	if KeyOf("", netip.Addr{}) != (Key{}) {
		t.Error("no address at all is not itself")
	}
}

// TestAffinityLastsFromTheLastConnection, to the nanosecond.
func TestAffinityLastsFromTheLastConnection(t *testing.T) {
	a := NewAffinity(10*time.Minute, 0)
	k := KeyOf("x", client)
	want := func(after time.Duration, want string) {
		t.Helper()
		if got, ok := a.Get(k, noon.Add(after)); got != want || ok != (want != "") {
			t.Errorf("after %v: %q, %v; want %q", after, got, ok, want)
		}
	}
	want(0, "")
	a.Put(k, "a", noon)
	want(0, "a")
	want(10*time.Minute-1, "a")
	want(10*time.Minute, "")
	want(-time.Hour, "a") // a clock that was set back
	a.Put(k, "a", noon.Add(9*time.Minute))
	want(19*time.Minute-1, "a")
	want(19*time.Minute, "")
	a.Put(k, "b", noon.Add(time.Hour))
	want(time.Hour, "b")
	if a.Len() != 1 {
		t.Errorf("%d bindings, want 1", a.Len())
	}
	a.SetTTL(time.Minute) // holds for those that exist too
	want(time.Hour+time.Minute, "")
	want(time.Hour+time.Minute-1, "b")
	a.SetTTL(0)
	want(time.Hour, "")
	a.Put(KeyOf("y", client), "a", noon)
	if a.Len() != 1 {
		t.Errorf("%d bindings kept without a TTL, want 1 from before", a.Len())
	}
	a.Sweep(noon.Add(time.Hour))
	if a.Len() != 0 {
		t.Errorf("%d bindings after Sweep", a.Len())
	}
}

func TestSweepRemovesWhatHasExpired(t *testing.T) {
	a := NewAffinity(time.Minute, 0)
	key := func(i int) Key { return KeyOf(fmt.Sprint(i), client) }
	for i := range 1000 {
		a.Put(key(i), "a", noon.Add(time.Duration(i)*time.Second))
	}
	a.Sweep(noon.Add(500 * time.Second)) // those of second 440 and before are a minute old
	if a.Len() != 1000-441 {
		t.Errorf("%d bindings, want %d", a.Len(), 1000-441)
	}
	if _, ok := a.Get(key(441), noon.Add(500*time.Second)); !ok {
		t.Error("the oldest that lasts is gone")
	}
}

// TestAffinityIsCapped whatever the number, and the newest are kept.
func TestAffinityIsCapped(t *testing.T) {
	for _, most := range []int{1, 2, 10, 63, 64, 65, 100, 1000} {
		a := NewAffinity(time.Hour, most)
		const n = 8_000
		for i := range n {
			k := KeyOf(fmt.Sprint(i), client)
			at := noon.Add(time.Duration(i) * time.Millisecond)
			a.Put(k, "a", at)
			if i%16 == 0 && a.Len() > most {
				t.Fatalf("%d bindings, want at most %d", a.Len(), most)
			}
			if _, ok := a.Get(k, at); !ok {
				t.Fatalf("%d: the newest is not kept", most)
			}
		}
		// Of 1,000, chance keeps some that are older; most are not.
		kept := 0
		for i := n - 2*most; i < n; i++ {
			if _, ok := a.Get(KeyOf(fmt.Sprint(i), client), noon.Add(n*time.Millisecond)); ok {
				kept++
			}
		}
		if kept < a.Len()/2 {
			t.Errorf("%d: %d of %d kept are among the newest %d", most, kept, a.Len(), 2*most)
		}
	}
	if a := NewAffinity(time.Hour, 0); a.most*int(a.used) != 1<<20 {
		t.Errorf("by default %d, want 1048576", a.most*int(a.used))
	}
}

// TestRenewingAtTheBoundDrivesNobodyOut.
func TestRenewingAtTheBoundDrivesNobodyOut(t *testing.T) {
	a := NewAffinity(time.Hour, 2*affinityShards)
	var together []Key // two of one shard, which holds no more
	for i := 0; len(together) < 2; i++ {
		if k := KeyOf(fmt.Sprint(i), client); a.shard(k) == &a.shards[0] {
			together = append(together, k)
		}
	}
	for i := range 10 {
		for _, k := range together {
			a.Put(k, "a", noon.Add(time.Duration(i)*time.Second))
		}
	}
	if a.Len() != 2 {
		t.Errorf("%d bindings, want 2", a.Len())
	}
	third := together[0]
	for i := 100; a.shard(third) != &a.shards[0] || third == together[0]; i++ {
		third = KeyOf(fmt.Sprint("third ", i), client)
	}
	a.Put(third, "a", noon.Add(time.Minute))
	if a.Len() != 2 {
		t.Errorf("%d bindings, want 2", a.Len())
	}
	for i := range 10 { // each of them alone
		a.Put(third, "a", noon.Add(time.Duration(i+1)*time.Minute))
	}
	if a.Len() != 2 {
		t.Errorf("renewing drove others out: %d bindings, want 2", a.Len())
	}
}

// TestAffinityAgainstAModel: a map with expiry.
func TestAffinityAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type bound struct {
			backend string
			at      time.Time
		}
		ttl := time.Minute
		a, model := NewAffinity(ttl, 1<<20), map[Key]bound{}
		now := noon
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "dt")))
			k := KeyOf(rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "app"), netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "host") % 4}))
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				id := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id")
				a.Put(k, id, now)
				model[k] = bound{id, now}
			case 2:
				a.Sweep(now)
				for k, b := range model {
					if now.Sub(b.at) >= ttl {
						delete(model, k)
					}
				}
			default:
				want, ok := model[k]
				ok = ok && now.Sub(want.at) < ttl
				if got, found := a.Get(k, now); found != ok || ok && got != want.backend {
					t.Fatalf("%v at %v: %q, %v; want %+v, %v", k, now, got, found, want, ok)
				}
			}
			if a.Len() != len(model) {
				t.Fatalf("%d bindings, want %d", a.Len(), len(model))
			}
		}
	})
}

func TestAffinityFromManyGoroutines(t *testing.T) {
	a := NewAffinity(time.Minute, 500)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				k := KeyOf(fmt.Sprint(i%700), client)
				at := noon.Add(time.Duration(i) * time.Millisecond)
				a.Put(k, fmt.Sprint(i%700), at)
				if id, ok := a.Get(k, at); ok && id != fmt.Sprint(i%700) {
					t.Errorf("%v is bound to %s", k, id)
				}
				if i%200 == g {
					a.Sweep(at)
					_ = a.Len()
					a.SetTTL(time.Minute)
				}
			}
		})
	}
	wg.Wait()
	if a.Len() > 500 {
		t.Errorf("%d bindings, want at most 500", a.Len())
	}
}

// TestBoundClientKeepsItsBackend though another has fewer connections, and is
// nearer, until it may not be used any more.
func TestBoundClientKeepsItsBackend(t *testing.T) {
	a, b, far := backend("a", "sa"), backend("b", "sa"), backend("far", "ap", hard(10))
	with := func(bs ...mesh.Backend) *mesh.Snapshot { return snapshot("us", bs...) }
	changed := func(change func(*mesh.Backend)) mesh.Backend { c := far; change(&c); return c }
	for _, c := range []struct {
		name  string
		then  *mesh.Snapshot
		load  int64
		after time.Duration
		query func(q *Query)
		bound bool
	}{
		{"usable", with(a, b, far), 9, 0, nil, true},
		{"just before it expires", with(a, b, far), 0, 10*time.Minute - 1, nil, true},
		{"expired", with(a, b, far), 0, 10 * time.Minute, nil, false},
		{"full", with(a, b, far), 10, 0, nil, false},
		{"draining", with(a, b, changed(draining)), 0, 0, nil, false},
		{"unhealthy", with(a, b, changed(unhealthy)), 0, 0, nil, false},
		{"deleted", with(a, b, changed(deleted)), 0, 0, nil, false},
		{"gone", with(a, b), 0, 0, nil, false},
		{"moved to another app", with(a, b, changed(app("other"))), 0, 0, nil, false},
		{"another client", with(a, b, far), 0, 0, func(q *Query) { q.Client = netip.MustParseAddr("192.0.2.9") }, false},
		{"another app", with(a, b, far), 0, 0, func(q *Query) { q.App = "" }, false},
		{"the same client, mapped", with(a, b, far), 0, 0, func(q *Query) { q.Client = netip.MustParseAddr("::ffff:200.160.2.3") }, true},
		{"the same client, elsewhere", with(a, b, far), 0, 0, func(q *Query) { q.Place = from("DE").Place }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouter(with(far))
			q := from("BR")
			first := r.Pick(q, nil, noon, 1)
			r.Bind(q, first, noon)
			first.Slot.Release(0)
			r.Update(c.then, noon)
			r.load("far", c.load)
			if c.query != nil {
				c.query(&q)
			}
			now := noon.Add(c.after)
			explained := r.Explain(q, now, 1)
			got := r.Pick(q, nil, now, 1)
			if bound := got.Backend.ID == "far" && got.Reason == ReasonAffinity; bound != c.bound {
				t.Errorf("picked %s for %s; bound should be %v", got.Backend.ID, got.Reason, c.bound)
			}
			if explained.Chosen != got.Backend.ID || explained.Reason != got.Reason {
				t.Errorf("explained as %s for %s, picked %s for %s", explained.Chosen, explained.Reason, got.Backend.ID, got.Reason)
			}
			if c.bound && got.Tier != 2 {
				t.Errorf("tier %d, want 2", got.Tier)
			}
			if want := c.load + 1; c.bound && got.Slot.Connections() != want {
				t.Errorf("%d connections, want %d", got.Slot.Connections(), want)
			}
		})
	}
}

// TestBindingFollowsTheOneThatAnswered.
func TestBindingFollowsTheOneThatAnswered(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa")))
	q := from("BR")
	first := r.Pick(q, nil, noon, 1)
	r.Bind(q, first, noon)
	first.Slot.Release(0)
	second := r.Pick(q, []*Slot{first.Slot}, noon, 1)
	r.Bind(q, second, noon)
	second.Slot.Release(0)
	for random := range uint64(20) {
		c := r.Pick(q, nil, noon, random)
		c.Slot.Release(0)
		if c.Slot != second.Slot || c.Reason != ReasonAffinity {
			t.Fatalf("%s for %s, want %s", c.Slot.ID, c.Reason, second.Slot.ID)
		}
	}
	if r.Bindings() != 1 {
		t.Errorf("%d bindings", r.Bindings())
	}
}
