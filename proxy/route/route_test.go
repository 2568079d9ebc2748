package route

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	noon   = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	client = netip.MustParseAddr("200.160.2.3")
)

// backend is one that takes connections, of app "myapp", weight 1 and soft limit 50.
func backend(id string, region geo.Region, change ...func(b *mesh.Backend)) mesh.Backend {
	b := mesh.Backend{
		ID: id, App: "myapp", Region: region, Addr: netip.MustParseAddrPort("10.50.1.1:8080"),
		Healthy: true, Weight: 1, SoftLimit: 50,
	}
	for _, c := range change {
		c(&b)
	}
	return b
}

func weight(n int64) func(*mesh.Backend) { return func(b *mesh.Backend) { b.Weight = n } }
func soft(n int64) func(*mesh.Backend)   { return func(b *mesh.Backend) { b.SoftLimit = n } }
func hard(n int64) func(*mesh.Backend)   { return func(b *mesh.Backend) { b.HardLimit = n } }
func app(s string) func(*mesh.Backend)   { return func(b *mesh.Backend) { b.App = s } }
func unhealthy(b *mesh.Backend)          { b.Healthy = false }
func deleted(b *mesh.Backend)            { b.Deleted = true }
func draining(b *mesh.Backend)           { b.Draining = true }

// snapshot is what a POP of the region holds. Positions are the defaults of
// the four regions.
func snapshot(self geo.Region, backends ...mesh.Backend) *mesh.Snapshot {
	s := &mesh.Snapshot{Self: mesh.POP{Node: "pop", Region: self}, Backends: backends, Positions: map[geo.Region]geo.Vector{}}
	slices.SortFunc(s.Backends, func(a, b mesh.Backend) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	for _, r := range []geo.Region{geo.SA, geo.US, geo.EU, geo.AP} {
		p, _ := geo.RegionPosition(r)
		s.Positions[r] = p.Vector()
		if r == self {
			s.Self.Position = p.Vector()
		}
	}
	return s
}

// newRouter routes over a snapshot, with a binding lasting ten minutes.
func newRouter(snap *mesh.Snapshot) *Router {
	r := NewRouter(NewAffinity(10*time.Minute, 0))
	r.Update(snap, noon)
	return r
}

// load sets how many connections a backend has.
func (r *Router) load(id string, n int64) { r.Slots.Get(id).own.Store(n) }

// own is how many connections this POP has with a backend.
func (r *Router) own(id string) int64 {
	n, _, _ := r.Load(&mesh.Backend{ID: id}, noon)
	return n
}

var countries = func() *geo.Table {
	t, err := geo.NewTable(nil)
	if err != nil {
		panic(err)
	}
	return t
}()

// from is a client in a country; "" is one of which nothing is known.
func from(country string) Query {
	place, _ := countries.Place(country)
	return Query{App: "myapp", Client: client, Place: place}
}

// TestTiers are the seed's: the client's region before the POP's own before
// any other, and there the nearest.
func TestTiers(t *testing.T) {
	all := []mesh.Backend{backend("sa-1", "sa"), backend("us-1", "us"), backend("eu-1", "eu"), backend("ap-1", "ap")}
	without := func(ids ...string) []mesh.Backend {
		return slices.DeleteFunc(slices.Clone(all), func(b mesh.Backend) bool { return slices.Contains(ids, b.ID) })
	}
	for _, c := range []struct {
		name     string
		self     geo.Region
		country  string
		backends []mesh.Backend
		want     string
		tier     int
		reason   Reason
	}{
		{"Brazil", "us", "BR", all, "sa-1", 0, ReasonClientRegion},
		{"Germany", "us", "DE", all, "eu-1", 0, ReasonClientRegion},
		{"Japan", "us", "JP", all, "ap-1", 0, ReasonClientRegion},
		{"Kenya: nobody serves Africa", "us", "KE", all, "us-1", 1, ReasonPOPRegion},
		{"unknown client counts as being where the POP is", "eu", "", all, "eu-1", 0, ReasonClientRegion},
		{"Antarctica has no region", "sa", "AQ", all, "sa-1", 1, ReasonPOPRegion},
		{"client's region gone", "us", "BR", without("sa-1"), "us-1", 1, ReasonPOPRegion},
		{"client's and own region gone: nearest to Brazil", "ap", "BR", without("sa-1", "ap-1"), "us-1", 2, ReasonOtherRegion},
		{"client's and own region gone: nearest to Japan is Frankfurt", "us", "JP", without("ap-1", "us-1"), "eu-1", 2, ReasonOtherRegion},
		{"unknown client, own region gone: nearest to the POP", "ap", "", without("ap-1"), "eu-1", 2, ReasonOtherRegion},
		{"Antarctica, own region gone: nearest to its middle", "eu", "AQ", without("eu-1", "ap-1"), "sa-1", 2, ReasonOtherRegion},
		{"one far away is better than none", "sa", "BR", without("sa-1", "us-1", "eu-1"), "ap-1", 2, ReasonOtherRegion},
		{"nobody", "sa", "BR", nil, "", 0, ReasonNone},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRouter(snapshot(c.self, c.backends...))
			for random := range uint64(20) {
				got := r.Pick(from(c.country), nil, noon, random)
				id := ""
				if got.Backend != nil {
					id = got.Backend.ID
					got.Slot.Release(0)
				}
				if id != c.want || got.Tier != c.tier || got.Reason != c.reason {
					t.Fatalf("%q, tier %d, %s; want %q, tier %d, %s", id, got.Tier, got.Reason, c.want, c.tier, c.reason)
				}
				if got.Slot != nil && got.Slot.ID != id {
					t.Fatalf("slot of %s", got.Slot.ID)
				}
			}
		})
	}
}

// TestTierComesBeforeLoad however loaded the nearer one is, until it is full.
func TestTierComesBeforeLoad(t *testing.T) {
	r := newRouter(snapshot("us", backend("sa-1", "sa", soft(1), hard(1000)), backend("us-1", "us", hard(1000)), backend("eu-1", "eu", hard(1000)), backend("ap-1", "ap")))
	for _, step := range []struct {
		full string
		want string
	}{{"", "sa-1"}, {"sa-1", "us-1"}, {"us-1", "eu-1"}, {"eu-1", "ap-1"}} {
		if step.full != "" {
			r.load(step.full, 1000)
		} else {
			r.load("sa-1", 999)
			r.load("us-1", 999)
			r.load("eu-1", 999)
		}
		e := r.Explain(from("BR"), noon, 1)
		if e.Chosen != step.want {
			t.Errorf("with %s full: %s, want %s", step.full, e.Chosen, step.want)
		}
		var order []string
		for _, c := range e.Candidates {
			order = append(order, c.ID)
		}
		if !slices.Equal(order, []string{"sa-1", "us-1", "eu-1", "ap-1"}) {
			t.Errorf("candidates %v are not in the order in which they would be taken", order)
		}
	}
}

// TestDistanceUnknown: a region whose place is not known is the last resort,
// and without any position all others are alike.
func TestDistanceUnknown(t *testing.T) {
	snap := snapshot("sa", backend("mars-1", "mars"), backend("ap-1", "ap"))
	r := newRouter(snap)
	for random := range uint64(50) {
		if got := r.Explain(from("BR"), noon, random).Chosen; got != "ap-1" {
			t.Fatalf("%s, want ap-1", got)
		}
	}
	// Singapore's antipode is in Ecuador: no place is farther than unknown.
	far, unknown := geo.Position{Lat: -1.35, Lon: -76.18}.Vector(), geo.Vector{}
	table := &Table{Snapshot: snap}
	for _, at := range []geo.Vector{far, unknown, {X: math.NaN(), Y: 1, Z: 1}} {
		tier, score := table.regionScore(geo.Place{Country: "SG", Region: "ap", At: snap.Positions["ap"]}, "mars", at)
		if tier != 2 || !(score > 2.99 && score <= 3) {
			t.Errorf("at %v: tier %d, score %v; want tier 2 and at most 3", at, tier, score)
		}
	}

	snap = snapshot("sa", backend("mars-1", "mars"), backend("ap-1", "ap"))
	snap.Self.Position = geo.Vector{}
	r = newRouter(snap)
	seen := map[string]int{}
	for random := range uint64(200) {
		seen[r.Explain(from(""), noon, random).Chosen]++
	}
	if seen["ap-1"] < 60 || seen["mars-1"] < 60 {
		t.Errorf("%v, want about as many of each", seen)
	}
}

// TestShares: connections that stay spread in proportion to soft_limit times weight.
func TestShares(t *testing.T) {
	r := newRouter(snapshot("sa",
		backend("a", "sa", weight(1), soft(10)),
		backend("b", "sa", weight(3), soft(10)),
		backend("c", "sa", weight(2), soft(30)),
		backend("zero", "sa", weight(0), soft(0)), // counts as 1 and 1
	))
	for i := range 1010 {
		if r.Pick(from("BR"), nil, noon, uint64(i)*0x9e3779b97f4a7c15).Backend == nil {
			t.Fatal("none")
		}
	}
	for id, want := range map[string]int64{"a": 100, "b": 300, "c": 600, "zero": 10} {
		if got := r.own(id); got < want-1 || got > want+1 {
			t.Errorf("%s has %d connections, want %d", id, got, want)
		}
	}
}

// TestFewestConnectionsWin, measured by what each can take.
func TestFewestConnectionsWin(t *testing.T) {
	for _, c := range []struct {
		a, b   mesh.Backend
		na, nb int64
		want   string
	}{
		{backend("a", "sa"), backend("b", "sa"), 1, 0, "b"},
		{backend("a", "sa", weight(2)), backend("b", "sa"), 1, 1, "a"},
		{backend("a", "sa", soft(100)), backend("b", "sa"), 3, 2, "a"},
		{backend("a", "sa", weight(2)), backend("b", "sa"), 3, 1, "b"},
		{backend("a", "sa", soft(0)), backend("b", "sa", soft(2)), 1, 1, "b"},
		{backend("a", "sa", weight(0)), backend("b", "sa", weight(2)), 1, 1, "b"},
		{backend("a", "sa", soft(mesh.MaxNumber), weight(mesh.MaxNumber)), backend("b", "sa"), 1_000_000, 1, "a"},
		{backend("a", "sa", soft(1)), backend("b", "sa"), 100, 4999, "b"}, // beyond the soft limit, by a hair
	} {
		r := newRouter(snapshot("sa", c.a, c.b))
		r.load("a", c.na)
		r.load("b", c.nb)
		for random := range uint64(20) {
			if got := r.Explain(from("BR"), noon, random).Chosen; got != c.want {
				t.Errorf("a %d of %v, b %d of %v: %s, want %s", c.na, c.a.Capacity(), c.nb, c.b.Capacity(), got, c.want)
				break
			}
		}
	}
}

// spread picks n times and gives every place back; it counts who got how many.
func spread(r *Router, q Query, n int) map[string]int {
	seen := map[string]int{}
	random := uint64(42)
	for range n {
		random = mix(random)
		c := r.Pick(q, nil, noon, random)
		seen[c.Backend.ID]++
		c.Slot.Release(0)
	}
	return seen
}

// chiSquare of counts that should be alike. For 20 of them, 19 degrees of
// freedom, it passes 60 once in 258,000 tries of a fair die.
func chiSquare(seen map[string]int, kinds, n int) float64 {
	want := float64(n) / float64(kinds)
	sum := float64(kinds-len(seen)) * want
	for _, got := range seen {
		sum += (float64(got) - want) * (float64(got) - want) / want
	}
	return sum
}

func TestTiesAreSpreadEvenly(t *testing.T) {
	const n = 20_000
	var same, thirds, others []mesh.Backend
	for i := range 20 {
		same = append(same, backend(fmt.Sprint("b", i), "sa"))
		// 1 of 1 is as loaded as 49 of 49: an inverse multiplied would not say so.
		thirds = append(thirds, backend(fmt.Sprint("b", i), "sa", soft(int64(1+i*12)), weight(int64(1+i%3))))
		others = append(others, backend(fmt.Sprint("b", i), geo.Region(fmt.Sprint("r", i%5)))) // of no known place
	}
	for name, c := range map[string]struct {
		backends []mesh.Backend
		load     func(b mesh.Backend) int64
	}{
		"idle":                {same, func(mesh.Backend) int64 { return 0 }},
		"equally loaded":      {same, func(mesh.Backend) int64 { return 7 }},
		"equal shares":        {thirds, func(b mesh.Backend) int64 { return b.SoftLimit * b.Weight }},
		"over several groups": {others, func(mesh.Backend) int64 { return 3 }},
	} {
		r := newRouter(snapshot("sa", c.backends...))
		for _, b := range c.backends {
			r.load(b.ID, c.load(b))
		}
		seen := spread(r, from("BR"), n)
		if x := chiSquare(seen, 20, n); x > 60 {
			t.Errorf("%s: chi-square %.1f, %v", name, x, seen)
		}
	}
}

func TestExclusions(t *testing.T) {
	for _, c := range []struct {
		change func(*mesh.Backend)
		n      int64
		want   Exclusion
	}{
		{func(*mesh.Backend) {}, 1 << 40, Included},
		{unhealthy, 0, "unhealthy"},
		{deleted, 0, "deleted"},
		{draining, 0, "draining"},
		{hard(3), 2, Included},
		{hard(3), 3, "full"},
		{hard(3), 4, "full"}, // the limit was lowered
		{func(b *mesh.Backend) { unhealthy(b); deleted(b); draining(b) }, 0, "deleted"},
		{func(b *mesh.Backend) { unhealthy(b); draining(b); hard(1)(b) }, 1, "unhealthy"},
	} {
		r := newRouter(snapshot("sa", backend("a", "sa", c.change), backend("far", "ap")))
		r.load("a", c.n)
		want := "far"
		if c.want == Included {
			want = "a"
		}
		got := r.Pick(from("BR"), nil, noon, 1)
		got.Slot.Release(0)
		if got.Backend.ID != want {
			t.Errorf("%q: picked %s, want %s", c.want, got.Backend.ID, want)
		}
		e := r.Explain(from("BR"), noon, 1)
		if len(e.Candidates) != 2 || e.Candidates[0].ID != "a" || e.Candidates[0].Excluded != c.want || e.Chosen != want {
			t.Errorf("%q: %+v", c.want, e)
		}
	}
}

func TestApps(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "ap", app("shop")), backend("b", "sa", app("mail")), backend("c", "sa", app(""))))
	for app, want := range map[string][]string{"shop": {"a"}, "mail": {"b"}, "": {"b", "c"}, "other": nil} {
		q := from("BR")
		q.App = app
		for random := range uint64(50) {
			got := r.Pick(q, nil, noon, random)
			if len(want) == 0 {
				if got.Backend != nil || got.Slot != nil || got.Reason != ReasonNone {
					t.Fatalf("app %q: %+v, want none", app, got)
				}
				continue
			}
			if !slices.Contains(want, got.Backend.ID) {
				t.Fatalf("app %q: %s, want one of %v", app, got.Backend.ID, want)
			}
			got.Slot.Release(0)
		}
	}
}

func TestTriedAreLeftOut(t *testing.T) {
	r := newRouter(snapshot("sa", backend("a", "sa"), backend("b", "sa"), backend("c", "us"), backend("d", "ap")))
	q := from("BR")
	var tried []*Slot
	var ids []string
	for range 4 {
		c := r.Pick(q, tried, noon, 5)
		if c.Backend == nil {
			t.Fatalf("none after %v", ids)
		}
		ids = append(ids, c.Backend.ID)
		tried = append(tried, c.Slot)
		c.Slot.Release(0)
	}
	slices.Sort(ids[:2])
	if !slices.Equal(ids, []string{"a", "b", "c", "d"}) {
		t.Errorf("tried %v", ids)
	}
	if c := r.Pick(q, tried, noon, 5); c.Backend != nil {
		t.Errorf("%s was tried", c.Backend.ID)
	}
	for _, id := range ids {
		if n := r.own(id); n != 0 {
			t.Errorf("%s keeps %d places", id, n)
		}
	}
	// A bound client whose backend was tried goes elsewhere.
	c := r.Pick(q, nil, noon, 5)
	r.Bind(q, c, noon)
	c.Slot.Release(0)
	if again := r.Pick(q, []*Slot{c.Slot}, noon, 5); again.Backend.ID == c.Backend.ID || again.Reason == ReasonAffinity {
		t.Errorf("%s again, %s", again.Backend.ID, again.Reason)
	}
}

func TestExplain(t *testing.T) {
	r := newRouter(snapshot("us",
		backend("sa-1", "sa", weight(2), hard(100)), backend("sa-2", "sa", soft(10)), backend("us-1", "us"),
		backend("eu-1", "eu", draining), backend("other", "sa", app("other")), backend("sa-3", "sa", deleted)))
	r.load("sa-1", 100)
	r.load("sa-2", 5)
	r.load("us-1", 25)
	brazil, _ := countries.Place("BR")
	frankfurt, _ := geo.RegionPosition("eu")
	far := 2 + brazil.At.Distance(frankfurt.Vector())/20_000
	got := r.Explain(from("br"), noon, 1)
	want := Explanation{
		Client: "200.160.2.3", Country: "BR", Region: "sa", App: "myapp", Chosen: "sa-2", Reason: "client_region",
		Candidates: []Candidate{
			{ID: "sa-3", Region: "sa", Tier: 0, Connections: 0, Own: 0, LoadFactor: 0, Weight: 1, Score: 0, Excluded: "deleted"},
			{ID: "sa-2", Region: "sa", Tier: 0, Connections: 5, Own: 5, LoadFactor: 0.5, Weight: 1, Score: 0.5},
			{ID: "sa-1", Region: "sa", Tier: 0, Connections: 100, Own: 100, LoadFactor: 2, Weight: 2, Score: 1, Excluded: "full"},
			{ID: "us-1", Region: "us", Tier: 1, Connections: 25, Own: 25, LoadFactor: 0.5, Weight: 1, Score: 100.5},
			{ID: "eu-1", Region: "eu", Tier: 2, Connections: 0, Own: 0, LoadFactor: 0, Weight: 1, Score: 100 * far, Excluded: "draining"},
		},
	}
	for i := range want.Candidates {
		if i < len(got.Candidates) && math.Abs(got.Candidates[i].Score-want.Candidates[i].Score) < 1e-9 {
			got.Candidates[i].Score = want.Candidates[i].Score
		}
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("\n%+v, want\n%+v", got, want)
	}
	for _, id := range []string{"sa-1", "sa-2", "us-1"} {
		if st := r.Slots.Get(id).Stats(); st.Picks != [tiers]uint64{} {
			t.Errorf("explaining counted a pick of %s", id)
		}
	}
	if got := r.Explain(Query{App: "none", Client: client}, noon, 1); got.Candidates == nil || len(got.Candidates) != 0 || got.Reason != "no_backend" || got.Chosen != "" {
		t.Errorf("no candidates: %+v", got) // [] in JSON, not null
	}
}

func TestBeforeTheFirstUpdate(t *testing.T) {
	r := NewRouter(NewAffinity(time.Minute, 0))
	if c := r.Pick(from("BR"), nil, noon, 1); c.Backend != nil || c.Reason != ReasonNone {
		t.Errorf("%+v", c)
	}
	if e := r.Explain(from("BR"), noon, 1); e.Reason != ReasonNone {
		t.Errorf("%+v", e)
	}
	if r.Snapshot() == nil || r.Bindings() != 0 {
		t.Error("no empty snapshot")
	}
}
