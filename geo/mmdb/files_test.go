package mmdb

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
	"go.uber.org/goleak"

	"github.com/edgeproxy/edgeproxy/geo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// networks is the content of a test file: prefix to record.
type networks map[string]mmdbtype.DataType

var testBuilt = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

// build makes a file. Zero options mean what mmdbwriter makes of them: IPv6, 28-bit records.
func build(t testing.TB, opts mmdbwriter.Options, content networks) []byte {
	t.Helper()
	if opts.BuildEpoch == 0 {
		opts.BuildEpoch = testBuilt.Unix()
	}
	opts.IncludeReservedNetworks = true // so that tests can show that private addresses are not even asked for
	tree, err := mmdbwriter.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	for prefix, record := range content {
		_, network, err := net.ParseCIDR(prefix)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.Insert(network, record); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := tree.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(name string) mmdbtype.Map {
	m := mmdbtype.Map{}
	for _, language := range []mmdbtype.String{"de", "en", "es", "fr", "ja", "pt-BR", "ru", "zh-CN"} {
		m[language] = mmdbtype.String(name) + " (" + language + ")"
	}
	return m
}

// country is a record as GeoLite2-Country and DB-IP's country file have it.
func country(code string) mmdbtype.Map {
	c := func(code string) mmdbtype.Map {
		return mmdbtype.Map{"geoname_id": mmdbtype.Uint32(3469034), "iso_code": mmdbtype.String(code), "names": names(code)}
	}
	return mmdbtype.Map{
		"continent":          mmdbtype.Map{"code": mmdbtype.String("XX"), "geoname_id": mmdbtype.Uint32(6255150), "names": names("Continent")},
		"country":            c(code),
		"registered_country": c("US"),
	}
}

// city is a record as GeoLite2-City has it.
func city(code string, lat, lon float64) mmdbtype.Map {
	m := country(code)
	m["city"] = mmdbtype.Map{"geoname_id": mmdbtype.Uint32(3448439), "names": names("City")}
	m["location"] = mmdbtype.Map{
		"accuracy_radius": mmdbtype.Uint16(20),
		"latitude":        mmdbtype.Float64(lat),
		"longitude":       mmdbtype.Float64(lon),
		"time_zone":       mmdbtype.String("America/Sao_Paulo"),
	}
	m["postal"] = mmdbtype.Map{"code": mmdbtype.String("01000-000")}
	m["subdivisions"] = mmdbtype.Slice{mmdbtype.Map{"iso_code": mmdbtype.String("SP"), "names": names("Subdivision")}}
	return m
}

func flat(code string) mmdbtype.Map { return mmdbtype.Map{"country_code": mmdbtype.String(code)} }

func asn(number uint32) mmdbtype.Map {
	return mmdbtype.Map{
		"autonomous_system_number":       mmdbtype.Uint32(number),
		"autonomous_system_organization": mmdbtype.String("Example Networks"),
	}
}

// write puts a file beside its destination and renames it, as careful tools do.
func write(t testing.TB, path string, data []byte) {
	t.Helper()
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		t.Fatal(err)
	}
}

func file(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "test.mmdb")
	write(t, path, data)
	return path
}

func countryTable(t testing.TB, overrides map[string]geo.Region) *geo.Table {
	t.Helper()
	table, err := geo.NewTable(overrides)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func resolver(t testing.TB, cfg Config) *Resolver {
	t.Helper()
	r, err := New(cfg, countryTable(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
