package route

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"pgregory.net/rapid"
)

func named(ranked []Ranked) string {
	var ids []string
	for _, r := range ranked {
		ids = append(ids, r.Backend.ID)
	}
	return strings.Join(ids, " ")
}

// down has the checks say that backends are down, each a while after the one before.
func (r *Router) down(after time.Duration, ids ...string) {
	for i, id := range ids {
		r.Judge([]Judgement{{id, true}}, noon.Add(time.Duration(i)*after))
	}
}

// TestRankOrder: nearest region first, in it the least load, as picks go.
func TestRankOrder(t *testing.T) {
	r := newRouter(snapshot("us", backend("us-1", "us"), backend("us-2", "us"), backend("eu-1", "eu"), backend("sa-1", "sa"), backend("sa-2", "sa"), backend("other", "sa", app("other"))))
	r.load("sa-1", 10)
	r.load("us-2", 1)
	for _, c := range []struct {
		name, country string
		only          geo.Region
		most          int
		want          string
	}{
		{"all", "BR", "", 8, "sa-2 sa-1 us-1 us-2 eu-1"},
		{"the first", "BR", "", 1, "sa-2"},
		{"a few", "DE", "", 2, "eu-1 us-1"},
		{"one region", "BR", "us", 8, "us-1 us-2"},
		{"no such region", "BR", "ap", 8, ""},
		{"none", "BR", "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := named(r.Rank(from(c.country), c.only, c.most, noon, 7)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	q := from("BR")
	q.App = "nobody"
	if got := r.Rank(q, "", 8, noon, 1); len(got) != 0 {
		t.Errorf("an app without backends has %q", named(got))
	}
}

// TestRankLeavesOut: what takes no connections is listed only where nothing
// else is, and what the operator took out never.
func TestRankLeavesOut(t *testing.T) {
	const week = 7 * 24 * time.Hour
	for _, c := range []struct {
		name     string
		backends []mesh.Backend
		do       func(*Router)
		want     string
	}{
		{"by the operator", []mesh.Backend{backend("a", "sa", unhealthy), backend("b", "sa", deleted), backend("c", "sa", draining), backend("d", "sa")}, nil, "d"},
		{"all by the operator", []mesh.Backend{backend("a", "sa", unhealthy), backend("b", "sa", deleted), backend("c", "sa", draining)}, nil, ""},
		{"full", []mesh.Backend{backend("a", "sa", hard(5)), backend("b", "eu")}, func(r *Router) { r.load("a", 5) }, "b"},
		{"all full", []mesh.Backend{backend("a", "sa", hard(5)), backend("b", "eu", hard(1))}, func(r *Router) { r.load("a", 6); r.load("b", 1) }, "a b"},
		{"down", []mesh.Backend{backend("a", "sa"), backend("b", "eu")}, func(r *Router) { r.down(0, "a") }, "b"},
		{"all down", []mesh.Backend{backend("a", "sa"), backend("b", "eu")}, func(r *Router) { r.down(0, "b", "a") }, "a b"},
		{"all down, one of them long ago", []mesh.Backend{backend("a", "sa"), backend("b", "eu")}, func(r *Router) { r.down(week, "a", "b") }, "b"},
		{"full and down", []mesh.Backend{backend("a", "sa"), backend("b", "eu", hard(1))}, func(r *Router) { r.down(0, "a"); r.load("b", 1) }, "b"},
		{"expired", []mesh.Backend{backend("a", "sa", expired), backend("b", "eu")}, nil, "b"},
		{"all expired, or failing", []mesh.Backend{backend("a", "sa", expired), backend("b", "eu", failing)}, nil, "a b"},
		{"expired and full", []mesh.Backend{backend("a", "sa", expired), backend("b", "eu", hard(1))}, func(r *Router) { r.load("b", 1) }, "b"},
		{"ejected", []mesh.Backend{backend("a", "sa"), backend("b", "sa")}, func(r *Router) { r.fail("a", 3) }, "b"},
		{"ejected and down", []mesh.Backend{backend("a", "sa"), backend("b", "sa")}, func(r *Router) { r.fail("a", 3); r.down(0, "b") }, "a"},
		{"ejected, down and full", []mesh.Backend{backend("a", "sa"), backend("b", "sa"), backend("c", "sa", hard(1))},
			func(r *Router) { r.fail("a", 3); r.down(0, "b"); r.load("c", 1) }, "c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouter(snapshot("sa", c.backends...))
			if c.do != nil {
				c.do(r)
			}
			if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func expired(b *mesh.Backend) { b.Expired = true }
func failing(b *mesh.Backend) { b.Registration = &mesh.Registration{Failing: "no answer"} }

// fail has so many connects to a backend fail.
func (r *Router) fail(id string, times int) {
	b, _ := r.Snapshot().Backend(id)
	for range times {
		r.Failed(Choice{Backend: b, Slot: r.Slots.Get(id)}, noon)
	}
}

// TestRankBound: the backend that the client has already stands first, also
// where a service of every app bound it.
func TestRankBound(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "eu"), backend("x", "sa", app("other"))))
	bind := func(app, id string) {
		b, _ := r.Snapshot().Backend(id)
		r.Bind(Query{App: app, Client: client}, Choice{Backend: b}, noon)
	}
	bind("myapp", "b")
	if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != "b a" {
		t.Errorf("bound to b: %q", got)
	}
	if got := named(r.Rank(from("BR"), "sa", 8, noon, 1)); got != "a" {
		t.Errorf("bound to b, asked for sa: %q", got)
	}
	q := from("BR")
	q.Client = netip.Addr{}
	if got := named(r.Rank(q, "", 8, noon, 1)); got != "a b" {
		t.Errorf("a client that nobody knows: %q", got)
	}
	r.load("b", 0)
	r.down(0, "b")
	if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != "a" {
		t.Errorf("bound to b, which is down: %q", got)
	}
	r = newRouter(r.Snapshot())
	bind("", "b")
	if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != "b a" {
		t.Errorf("bound to b by a service of every app: %q", got)
	}
	bind("", "x")
	if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != "a b" {
		t.Errorf("bound to another app's backend: %q", got)
	}
}

// TestRankHeadroom is up to the capacity or the hard limit, whichever is less.
func TestRankHeadroom(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", soft(10), weight(3)), backend("b", "eu", soft(10), hard(8)), backend("c", "us")))
	r.load("a", 4)
	r.load("b", 7)
	r.load("c", 60)
	got := map[string]int64{}
	for _, x := range r.Rank(from("BR"), "", 8, noon, 1) {
		got[x.Backend.ID] = x.Headroom
	}
	if want := map[string]int64{"a": 26, "b": 1, "c": 0}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestRankStrict: where connections need rights, those are listed that have
// room: whoever comes can wait for a right.
func TestRankStrict(t *testing.T) {
	r := strictRouter(10, "a", "b")
	r.load("b", 10)
	if got := named(r.Rank(from("BR"), "", 8, noon, 1)); got != "a" {
		t.Errorf("got %q", got)
	}
}

// TestRankIsThePick: in any state its first is what a client gets that comes at
// the same moment, no backend is named twice, and nothing has changed.
func TestRankIsThePick(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []mesh.Backend
		for i := range rapid.IntRange(1, 12).Draw(t, "backends") {
			region := rapid.SampledFrom([]geo.Region{"sa", "us", "eu", "nowhere"}).Draw(t, "region")
			all = append(all, backend(string(rune('a'+i)), region, hard(rapid.Int64Range(0, 4).Draw(t, "hard")), soft(rapid.Int64Range(0, 9).Draw(t, "soft"))))
		}
		r := newRouter(snapshot("sa", all...))
		if rapid.Bool().Draw(t, "others") {
			r.Learn(Report{POP: "other", Incarnation: 1, Seq: 1, At: noon, Counts: map[string]int64{"a": 2}, Rates: map[AppRegion]float64{{"myapp", "sa"}: 5}}, noon)
		}
		for _, b := range all {
			r.load(b.ID, rapid.Int64Range(0, 5).Draw(t, "connections"))
			if rapid.IntRange(0, 3).Draw(t, "down") == 0 {
				r.down(0, b.ID)
			}
		}
		q, random := from(rapid.SampledFrom([]string{"BR", "DE", "", "AQ"}).Draw(t, "country")), rapid.Uint64().Draw(t, "random")
		before, tried := r.Slots.Stats(), r.tried()
		ranked := r.Rank(q, "", 8, noon, random)
		if !slices.Equal(before, r.Slots.Stats()) || tried != r.tried() || r.Bindings() != 0 {
			t.Fatal("a ranking left something behind")
		}
		seen := map[string]bool{}
		for _, x := range ranked {
			if seen[x.Backend.ID] {
				t.Fatalf("%s twice in %q", x.Backend.ID, named(ranked))
			}
			seen[x.Backend.ID] = true
		}
		c := r.Pick(q, nil, noon, random)
		if c.Backend == nil {
			return // then better some than none
		}
		if len(ranked) == 0 || c.Backend != ranked[0].Backend {
			t.Fatalf("picked %s, ranked %q", c.Backend.ID, named(ranked))
		}
		for _, x := range ranked {
			if _, _, why := r.Load(x.Backend, noon); why == Down && r.table.Load().pool("myapp").tryFrom.Load() == noPanic {
				t.Fatalf("%s is down, of %q", x.Backend.ID, named(ranked))
			}
		}
	})
}

// tried is how many picks count as demand.
func (r *Router) tried() (n int64) {
	for _, d := range r.balance.demands {
		n += d.tried.Load()
	}
	return n
}

// TestStanding changes when a backend goes or comes, and with nothing else.
func TestStanding(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa", hard(5)), backend("b", "eu"), backend("x", "eu", app("other"))))
	is := r.Standing("myapp", "", noon)
	same := func(what string, want bool) {
		t.Helper()
		if got := r.Standing("myapp", "", noon) == is; got != want {
			t.Errorf("%s: the same is %v, want %v", what, got, want)
		}
	}
	r.load("a", 4)
	r.down(0, "x")
	same("some load, and another app's backend down", true)
	r.load("a", 5)
	same("one is full", false)
	r.load("a", 0)
	same("and is not any more", true)
	r.down(0, "b")
	same("one is down", false)
	if r.Standing("myapp", "sa", noon) != r.Standing("myapp", "", noon) {
		t.Error("the only one that is up is not all there is")
	}
	if r.Standing("myapp", "ap", noon) != 0 || r.Standing("nobody", "", noon) != 0 {
		t.Error("there is something where nothing is")
	}
	moved := r.Snapshot().Backends[0]
	moved.Addr = netip.MustParseAddrPort("10.50.1.2:8080")
	r = newRouter(snapshot("sa", moved, backend("b", "eu")))
	same("one has moved", false)
}
