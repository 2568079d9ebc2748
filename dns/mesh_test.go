package dns

import (
	"flag"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// picture is a mesh that stands still but for what a test changes: a real
// router over a snapshot.
type picture struct {
	router *route.Router
	roster atomic.Pointer[Roster]
	random uint64
}

var table, _ = geo.NewTable(nil)

var countries = map[netip.Prefix]string{
	netip.MustParsePrefix("200.160.0.0/16"): "BR", netip.MustParsePrefix("93.184.0.0/16"): "DE", netip.MustParsePrefix("2a00::/16"): "DE",
}

func (p *picture) Picture() (*mesh.Snapshot, *Roster) { return p.router.Snapshot(), p.roster.Load() }
func (p *picture) Rank(q route.Query, only geo.Region, most int) []route.Ranked {
	return p.router.Rank(q, only, most, noon, p.random)
}
func (p *picture) Standing(app string, only geo.Region) uint64 {
	return p.router.Standing(app, only, noon)
}
func (p *picture) Place(a netip.Addr) geo.Place {
	for prefix, country := range countries {
		if prefix.Contains(a) {
			place, _ := table.Place(country)
			return place
		}
	}
	return geo.Place{}
}

func addrsOf(list ...string) (all []netip.Addr) {
	for _, a := range list {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

// backend is one at ip:port that takes connections.
func backend(id, app string, region geo.Region, addr string, change ...func(*mesh.Backend)) mesh.Backend {
	b := mesh.Backend{ID: id, App: app, Region: region, Addr: netip.MustParseAddrPort(addr), Healthy: true, Weight: 1, SoftLimit: 100}
	for _, c := range change {
		c(&b)
	}
	return b
}

func draining(b *mesh.Backend) { b.Draining = true }
func deleted(b *mesh.Backend)  { b.Deleted = true }
func full(b *mesh.Backend)     { b.HardLimit = 1 }

// newPicture is that of the POP sa-1.
func newPicture(roster Roster, backends ...mesh.Backend) *picture {
	p := &picture{router: route.NewRouter(route.NewAffinity(time.Hour, 0)), random: 1}
	p.set(backends...)
	p.roster.Store(&roster)
	return p
}

// set changes the rows.
func (p *picture) set(backends ...mesh.Backend) {
	s := &mesh.Snapshot{Self: mesh.POP{Node: "sa-1", Region: geo.SA}, Backends: slices.Clone(backends), Services: []mesh.Service{{App: "spare"}}, Positions: map[geo.Region]geo.Vector{}}
	slices.SortFunc(s.Backends, func(a, b mesh.Backend) int { return strings.Compare(a.ID, b.ID) })
	for _, r := range []geo.Region{geo.SA, geo.US, geo.EU, geo.AP} {
		at, _ := geo.RegionPosition(r)
		s.Positions[r] = at.Vector()
	}
	s.Self.Position = s.Positions[geo.SA]
	p.router.Update(s, noon.Add(-time.Hour))
}

// down has the checks say that backends are down.
func (p *picture) down(ids ...string) {
	for _, id := range ids {
		p.router.Judge([]route.Judgement{{Backend: id, Down: true}}, noon)
	}
}

// connect takes so many places on a backend.
func (p *picture) connect(id string, n int) { p.router.Slots.Inherit(id, int64(n)) }

var overlayNetworks = []netip.Prefix{netip.MustParsePrefix("10.50.0.0/16"), netip.MustParsePrefix("fd50:ed9e::/48")}

// example is a small mesh with one of everything.
func example() *picture {
	p := newPicture(Roster{
		POPs: []POP{
			{Node: "sa-1", Region: "sa", Alive: true, Addrs: addrsOf("10.50.0.7", "fd50:ed9e::7"), Overlay: addrsOf("10.50.0.7", "fd50:ed9e::7")},
			{Node: "sa-2", Region: "sa", Alive: false, Addrs: addrsOf("10.50.0.8"), Overlay: addrsOf("10.50.0.8")},
			{Node: "us-1.example", Region: "us", Alive: true, Addrs: addrsOf("198.51.100.9")},
			{Node: "eu-1", Region: "eu", Alive: false, Addrs: addrsOf("198.51.100.10")},
		},
		Devices: []Device{{Name: "laptop", Addrs: addrsOf("10.50.1.9", "fd50:ed9e:0:1::9")}, {Name: "sa-a", Addrs: addrsOf("10.50.1.1")}},
	},
		backend("sa-a", "shop", "sa", "10.50.1.1:8080"),
		backend("sa-b", "shop", "sa", "10.50.1.2:8081"),
		backend("us-a", "shop", "us", "10.50.2.1:8080"),
		backend("eu-a", "shop", "eu", "[fd50:ed9e:0:3::1]:8080"),
		backend("eu-b", "shop", "eu", "10.50.3.2:8080"),
		backend("ap-a", "shop", "ap", "10.50.4.1:8080", draining),
		backend("ap-b", "shop", "ap", "10.50.4.2:8080", deleted),
		backend("gone", "old", "sa", "10.50.1.3:80", deleted),
		backend("resting", "idle", "sa", "10.50.1.4:80", draining),
		backend("nameless", "", "us", "192.0.2.1:80"),
		backend("My Db", "My.App", "sa", "10.50.1.5:5432"),
		backend("eu", "odd", "sa", "10.50.1.6:80"),
		backend("x1", "backends", "sa", "10.50.1.7:80"),
		backend("x2", "Größe", "sa", "10.50.1.8:80"),
		backend("x3", "SHOP", "sa", "10.50.1.66:80"),
	)
	p.connect("sa-a", 3)
	p.connect("us-a", 60)
	return p
}

func newServer(t testing.TB, m Mesh, forward ...netip.AddrPort) *Server {
	t.Helper()
	s, err := New(Config{Overlay: overlayNetworks, Forward: forward}, m, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return s
}
