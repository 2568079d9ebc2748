package mmdb

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/edgeproxy/edgeproxy/geo"
)

func TestEmbedded(t *testing.T) {
	r := resolver(t, Config{})
	table := countryTable(t, nil)
	for a, code := range map[string]string{
		"200.160.2.3":          "BR", // registro.br
		"78.46.0.1":            "DE", // Hetzner
		"133.11.0.1":           "JP", // University of Tokyo
		"41.90.64.1":           "KE", // Safaricom
		"8.8.8.8":              "US",
		"::ffff:200.160.2.3":   "BR",
		"2a01:4f8::1":          "DE",
		"2a01:4f8::1%eth0":     "DE",
		"2001:12ff::10":        "BR",
		"::ffff:78.46.0.1%lan": "DE",
	} {
		want, _ := table.Place(code)
		if got := r.Lookup(addr(a)); got != want {
			t.Errorf("Lookup(%s) = %+v, want %+v", a, got, want)
		}
	}
	info := r.Info()
	if info.Source != "embedded" || info.Type == "" || info.IPVersion != 6 || info.Built.Format(time.DateOnly) != "2026-06-17" {
		t.Errorf("Info = %+v", info)
	}
	if err := r.Reload(); err != nil || r.Err() != nil {
		t.Errorf("Reload = %v, Err = %v", err, r.Err())
	}
}

// TestEmbeddedSound reads every record of the embedded database, which is why New need not.
func TestEmbeddedSound(t *testing.T) {
	db, err := openChecked("embedded", embedded)
	if err != nil {
		t.Fatal(err)
	}
	table := countryTable(t, nil)
	records := map[uintptr]string{}
	count := 0
	for result := range db.reader.Networks() {
		count++
		if err := result.Err(); err != nil {
			t.Fatal(err)
		}
		if _, done := records[result.Offset()]; done {
			continue
		}
		var rec record
		if err := rec.read(db.records.CursorAt(uint(result.Offset()))); err != nil {
			t.Fatalf("%s: %v", result.Prefix(), err)
		}
		code := string(rec.country[:])
		// AN, the Netherlands Antilles, was dissolved in 2010; one stale registration is left. It gets no region.
		if _, ok := table.Place(code); !ok && code != "AN" {
			t.Errorf("%s: country %q is not in the table", result.Prefix(), code)
		}
		records[result.Offset()] = code
	}
	t.Logf("%d networks, %d records", count, len(records))
	if len(records) < 200 {
		t.Errorf("only %d countries", len(records))
	}
}

func TestNotPublic(t *testing.T) {
	everywhere := build(t, mmdbwriter.Options{}, networks{"0.0.0.0/1": flat("BR"), "128.0.0.0/1": flat("BR"), "1000::/4": flat("BR"), "f000::/4": flat("BR"), "::/8": flat("BR")})
	r := resolver(t, Config{Path: file(t, everywhere)})
	for _, a := range []string{
		"10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.1.1", "100.64.0.1", "100.127.255.255",
		"224.0.0.1", "239.1.2.3", "0.0.0.0", "255.255.255.255", "::ffff:10.1.2.3", "::ffff:100.64.0.1",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1",
	} {
		if got := r.Lookup(addr(a)); got != (geo.Place{}) {
			t.Errorf("Lookup(%s) = %+v, want nothing", a, got)
		}
	}
	for _, a := range []string{"9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.1", "192.169.0.1", "::ffff:11.0.0.0", "1fff::1%eth0"} {
		if got := r.Lookup(addr(a)); got.Country != "BR" {
			t.Errorf("Lookup(%s) = %+v, want BR", a, got)
		}
	}
	if got := r.Lookup(netip.Addr{}); got != (geo.Place{}) {
		t.Errorf("Lookup of the zero address = %+v", got)
	}
}

func TestSchemas(t *testing.T) {
	table := countryTable(t, nil)
	centre := func(code string) geo.Place {
		p, _ := table.Place(code)
		return p
	}
	at := func(code string, lat, lon float64) geo.Place {
		p, _ := table.Place(code)
		p.At = geo.Position{Lat: lat, Lon: lon}.Vector()
		return p
	}
	dbip := mmdbtype.Map{ // DB-IP's city lite: float32 degrees, no registered country
		"continent": mmdbtype.Map{"code": mmdbtype.String("EU")},
		"country":   mmdbtype.Map{"is_in_european_union": mmdbtype.Bool(true), "iso_code": mmdbtype.String("DE")},
		"location":  mmdbtype.Map{"latitude": mmdbtype.Float32(50.25), "longitude": mmdbtype.Float32(8.5)},
	}
	without := func(m mmdbtype.Map, keys ...mmdbtype.String) mmdbtype.Map {
		for _, key := range keys {
			delete(m, key)
		}
		return m
	}
	for name, c := range map[string]struct {
		record mmdbtype.DataType
		want   geo.Place
	}{
		"GeoLite2-Country":         {country("BR"), centre("BR")},
		"GeoLite2-City":            {city("BR", -23.5475, -46.6361), at("BR", -23.5475, -46.6361)},
		"DB-IP city":               {dbip, at("DE", 50.25, 8.5)},
		"flat":                     {flat("KE"), centre("KE")},
		"flat with position":       {mmdbtype.Map{"country_code": mmdbtype.String("KE"), "latitude": mmdbtype.Float64(-1.3), "longitude": mmdbtype.Float64(36.8)}, at("KE", -1.3, 36.8)},
		"lower case":               {flat("br"), centre("BR")},
		"registered only":          {without(country("BR"), "country"), centre("US")},
		"nested before flat":       {mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String("FR")}, "country_code": mmdbtype.String("BR")}, centre("FR")},
		"position, no country":     {without(city("BR", 10, 20), "country", "registered_country"), geo.Place{At: geo.Position{Lat: 10, Lon: 20}.Vector()}},
		"position 0,0":             {city("BR", 0, 0), centre("BR")},
		"position on the equator":  {city("BR", 0, -51), at("BR", 0, -51)},
		"position out of range":    {city("BR", 91, 0), centre("BR")},
		"latitude only":            {mmdbtype.Map{"country_code": mmdbtype.String("BR"), "location": mmdbtype.Map{"latitude": mmdbtype.Float64(1)}}, centre("BR")},
		"code the table lacks":     {flat("ZZ"), geo.Place{Country: "ZZ"}},
		"code of other length":     {flat("BRA"), geo.Place{}},
		"code that is no letters":  {flat("--"), geo.Place{}},
		"empty map":                {mmdbtype.Map{}, geo.Place{}},
		"country is a string":      {mmdbtype.Map{"country": mmdbtype.String("Brazil"), "country_code": mmdbtype.String("BR")}, centre("BR")},
		"code is a number":         {mmdbtype.Map{"country_code": mmdbtype.Uint32(76), "registered_country": mmdbtype.Map{"iso_code": mmdbtype.String("BR")}}, centre("BR")},
		"position is a string":     {mmdbtype.Map{"country_code": mmdbtype.String("BR"), "location": mmdbtype.String("-23,-46")}, centre("BR")},
		"degrees are a string":     {mmdbtype.Map{"country_code": mmdbtype.String("BR"), "latitude": mmdbtype.String("1"), "longitude": mmdbtype.String("2")}, centre("BR")},
		"record is a string":       {mmdbtype.String("BR"), geo.Place{}},
		"absent from the database": {nil, geo.Place{}},
	} {
		for _, size := range []int{24, 28, 32} {
			content := networks{"1.0.0.0/24": flat("AU"), "9.0.0.0/8": flat("US")}
			if c.record != nil {
				content["200.160.0.0/20"] = c.record
				content["2001:12ff::/32"] = c.record
			}
			r := resolver(t, Config{Path: file(t, build(t, mmdbwriter.Options{RecordSize: size}, content))})
			for _, a := range []string{"200.160.2.3", "::ffff:200.160.2.3", "2001:12ff::10"} {
				if got := r.Lookup(addr(a)); got != c.want {
					t.Errorf("%s, %d bits: Lookup(%s) = %+v, want %+v", name, size, a, got, c.want)
				}
			}
		}
	}
}

func TestIPv4Only(t *testing.T) {
	path := file(t, build(t, mmdbwriter.Options{IPVersion: 4, DatabaseType: "Four"}, networks{"200.160.0.0/20": country("BR")}))
	r := resolver(t, Config{Path: path})
	if got := r.Lookup(addr("::ffff:200.160.2.3")); got.Country != "BR" {
		t.Errorf("IPv4 address: %+v", got)
	}
	v6 := addr("2001:12ff::10")
	if got := r.Lookup(v6); got != (geo.Place{}) {
		t.Errorf("IPv6 address: %+v", got)
	}
	if n := testing.AllocsPerRun(100, func() { r.Lookup(v6) }); n != 0 {
		t.Errorf("an IPv6 address costs %v allocations", n)
	}
	if want := (Info{Source: path, Type: "Four", Built: testBuilt, IPVersion: 4}); r.Info() != want {
		t.Errorf("Info = %+v, want %+v", r.Info(), want)
	}
}

func TestSetTable(t *testing.T) {
	r := resolver(t, Config{})
	r.SetTable(countryTable(t, map[string]geo.Region{"BR": "gru"}))
	if got := r.Lookup(addr("200.160.2.3")); got.Region != "gru" {
		t.Errorf("after SetTable: %+v", got)
	}
}

// TestPanic: should the reader panic after all, the address cannot be placed, and that is all.
func TestPanic(t *testing.T) {
	rec := record{located: true}
	(&database{info: Info{IPVersion: 6}}).lookup(addr("200.160.2.3"), &rec) // there is no reader
	if rec != (record{}) {
		t.Errorf("lookup after a panic: %+v", rec)
	}
}

// TestConcurrent is for the race detector: lookups never wait for, and never see half of, a reload.
func TestConcurrent(t *testing.T) {
	br, de := build(t, mmdbwriter.Options{}, networks{"200.0.0.0/8": city("BR", 1, 2)}), build(t, mmdbwriter.Options{}, networks{"200.0.0.0/8": flat("DE")})
	path := file(t, br)
	r := resolver(t, Config{Path: path})
	done := make(chan struct{})
	var lookups sync.WaitGroup
	for range 4 {
		lookups.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if got := r.Lookup(addr("200.160.2.3")); got.Country != "BR" && got.Country != "DE" {
					t.Errorf("Lookup = %+v", got)
					return
				}
				if r.Info().Source != path {
					t.Error("Info of another database")
				}
				_ = r.Err()
			}
		})
	}
	for i := range 30 {
		write(t, path, [][]byte{br, de, nil}[i%3])
		if err := r.Reload(); (err != nil) != (i%3 == 2) {
			t.Errorf("reload %d: %v", i, err)
		}
		r.SetTable(countryTable(t, nil))
	}
	close(done)
	lookups.Wait()
}

func TestLookupAllocs(t *testing.T) {
	path := file(t, build(t, mmdbwriter.Options{}, networks{
		"200.160.0.0/20": city("BR", -23.5, -46.6), "9.0.0.0/8": flat("ZZ"), "11.0.0.0/8": country("US"), "12.0.0.0/8": mmdbtype.Map{"country": mmdbtype.String("US")},
	}))
	for _, r := range []*Resolver{resolver(t, Config{}), resolver(t, Config{Path: path})} {
		for _, a := range []string{"200.160.2.3", "9.9.9.9", "11.1.1.1", "12.1.1.1", "2a01:4f8::1", "::ffff:8.8.8.8", "10.0.0.1", "fe80::1%eth0", "240.0.0.1"} {
			a := addr(a)
			if n := testing.AllocsPerRun(200, func() { r.Lookup(a) }); n != 0 {
				t.Errorf("%s: Lookup(%s) allocates %v times", r.Info().Source, a, n)
			}
		}
	}
}
