package route

import (
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
