package mmdb

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/maxmind/mmdbwriter"
)

// spread is n addresses, the same each time: all over the world, as clients are, so that the caches of the processor
// help as little as they do then.
func spread(n int) []netip.Addr {
	rng := rand.New(rand.NewPCG(1, 2))
	addrs := make([]netip.Addr, n)
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, rng.Uint32())))
	}
	return addrs
}

func BenchmarkLookup(b *testing.B) {
	embedded := resolver(b, Config{})
	content := networks{}
	for i := range 2000 {
		content[netip.AddrFrom4([4]byte{byte(1 + i/256), byte(i), 0, 0}).String()+"/16"] = city("DE", float64(i%90), float64(i%180+1))
	}
	cities := resolver(b, Config{Path: file(b, build(b, mmdbwriter.Options{}, content))})
	countries := resolver(b, Config{Path: file(b, build(b, mmdbwriter.Options{}, networks{"1.0.0.0/8": country("AU")}))})
	for _, c := range []struct {
		name  string
		r     *Resolver
		addrs []netip.Addr
	}{
		{"embedded/one", embedded, []netip.Addr{addr("200.160.2.3")}},
		{"embedded/random", embedded, spread(1 << 16)},
		{"embedded/ipv6", embedded, []netip.Addr{addr("2a01:4f8::1")}},
		{"embedded/private", embedded, []netip.Addr{addr("192.168.1.1")}},
		{"country/one", countries, []netip.Addr{addr("1.2.3.4")}},
		{"city/one", cities, []netip.Addr{addr("3.4.5.6")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.r.Lookup(c.addrs[i&(len(c.addrs)-1)])
			}
		})
	}
	b.Run("embedded/parallel", func(b *testing.B) {
		a := addr("200.160.2.3")
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				embedded.Lookup(a)
			}
		})
	})
}

func BenchmarkOpen(b *testing.B) {
	table := countryTable(b, nil)
	path := file(b, embedded)
	for name, cfg := range map[string]Config{"embedded": {}, "file": {Path: path}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := New(cfg, table); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
