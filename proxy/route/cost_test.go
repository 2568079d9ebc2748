package route

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
)

// crowd is n backends in five regions.
func crowd(n int) *mesh.Snapshot {
	regions := []geo.Region{"sa", "us", "eu", "ap", "af"}
	var backends []mesh.Backend
	for i := range n {
		backends = append(backends, backend(fmt.Sprintf("b%04d", i), regions[i%5], soft(int64(40+i%7)), weight(int64(1+i%3)), hard(1<<30)))
	}
	return snapshot("us", backends...)
}

func TestPickAllocatesNothing(t *testing.T) {
	snap := crowd(50)
	r := newRouter(snap)
	unbound := from("BR")
	bound := from("DE")
	bound.Client = netip.MustParseAddr("2001:db8::1")
	c := r.Pick(bound, nil, noon, 1)
	r.Bind(bound, c, noon)
	tried := []*Slot{r.Slots.Get("b0000"), r.Slots.Get("b0005")}
	nobody := unbound
	nobody.App = "none"
	random := uint64(1)
	pick := func(q Query, tried []*Slot) func() {
		return func() {
			random = mix(random)
			if c := r.Pick(q, tried, noon, random); c.Slot != nil {
				c.Slot.Release(0)
			}
		}
	}
	for name, f := range map[string]func(){
		"no binding":  pick(unbound, nil),
		"bound":       pick(bound, nil),
		"tried":       pick(unbound, tried),
		"other tier":  pick(Query{App: "myapp", Client: client, Place: geo.Place{Country: "AQ"}}, nil),
		"none":        pick(nobody, nil),
		"bind again":  func() { r.Bind(bound, c, noon) },
		"key of IPv4": func() { _ = KeyOf("myapp", client) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}

func benchmarkPick(b *testing.B, snap *mesh.Snapshot, country string) {
	r := newRouter(snap)
	q := from(country)
	random := uint64(1)
	b.ReportAllocs()
	for b.Loop() {
		random = mix(random)
		r.Pick(q, nil, noon, random).Slot.Release(0)
	}
}

func BenchmarkPick50(b *testing.B)   { benchmarkPick(b, crowd(50), "BR") }
func BenchmarkPick1000(b *testing.B) { benchmarkPick(b, crowd(1000), "BR") }

// BenchmarkPick50Tier2 looks at every backend: none in the client's region or the POP's.
func BenchmarkPick50Tier2(b *testing.B) {
	snap := crowd(50)
	snap.Self.Region = "mars"
	benchmarkPick(b, snap, "AQ")
}

// BenchmarkPick50OneRegion: all of them where the client is.
func BenchmarkPick50OneRegion(b *testing.B) {
	snap := crowd(50)
	for i := range snap.Backends {
		snap.Backends[i].Region = "sa"
	}
	benchmarkPick(b, snap, "BR")
}

func BenchmarkPick50Bound(b *testing.B) {
	r := newRouter(crowd(50))
	q := from("BR")
	c := r.Pick(q, nil, noon, 1)
	r.Bind(q, c, noon)
	b.ReportAllocs()
	for b.Loop() {
		r.Pick(q, nil, noon, 1).Slot.Release(0)
	}
}

func BenchmarkPick50Parallel(b *testing.B) {
	r := newRouter(crowd(50))
	var seed atomic.Uint64
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		random := seed.Add(1)
		q := from("BR")
		for pb.Next() {
			random = mix(random)
			r.Pick(q, nil, noon, random).Slot.Release(0)
		}
	})
}

var meshSnapshot = func(n int) *mesh.Snapshot {
	var bs []mesh.Backend
	for i := range n {
		bs = append(bs, backend(fmt.Sprintf("b%04d", i), []geo.Region{"sa", "us", "eu", "ap"}[i%4], soft(100), hard(1000)))
	}
	return snapshot("sa", bs...)
}

// BenchmarkPickMesh50 is a pick with reports of 20 POPs.
func BenchmarkPickMesh50(b *testing.B)   { benchmarkPickMesh(b, 50) }
func BenchmarkPickMesh1000(b *testing.B) { benchmarkPickMesh(b, 1000) }

func benchmarkPickMesh(b *testing.B, n int) {
	r := newRouter(meshSnapshot(n))
	for p := range 20 {
		rep := Report{POP: fmt.Sprint(p), At: time.Now(), Seq: 1, Counts: map[string]int64{}, Rates: map[AppRegion]float64{{"myapp", "sa"}: 1e5}}
		for _, be := range r.Snapshot().Backends {
			rep.Counts[be.ID] = 4
		}
		r.Learn(rep, time.Now())
	}
	q := from("BR")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		random := uint64(1)
		for pb.Next() {
			random = mix(random)
			if c := r.Pick(q, nil, time.Now(), random); c.Slot != nil {
				c.Slot.Release(time.Second)
			}
		}
	})
}
