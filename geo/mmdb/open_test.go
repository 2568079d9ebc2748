package mmdb

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/edgeproxy/edgeproxy/geo"
)

// allSchemas is a small file with a bit of everything, for tests that damage it.
func allSchemas(t testing.TB) []byte {
	return build(t, mmdbwriter.Options{DatabaseType: "Test-City"}, networks{
		"1.0.0.0/24":       country("AU"),
		"78.46.0.0/15":     country("DE"),
		"200.160.0.0/20":   city("BR", -23.5475, -46.6361),
		"2001:12ff::/32":   city("BR", -15.7, -47.9),
		"2a01:4f8::/32":    flat("DE"),
		"2001:67c:2e8::/8": country("NL"),
	})
}

var probes = []netip.Addr{
	addr("1.0.0.1"), addr("78.46.0.1"), addr("200.160.2.3"), addr("9.9.9.9"), addr("255.1.1.1"),
	addr("2001:12ff::10"), addr("2a01:4f8::1"), addr("2001:67c:2e8::1"), addr("f00d::1"),
}

func TestNewRefuses(t *testing.T) {
	good := allSchemas(t)
	dir := t.TempDir()
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write(good)
	_ = w.Close()
	tar := make([]byte, 2048)
	copy(tar, "GeoLite2-City_20260504/GeoLite2-City.mmdb")
	copy(tar[257:], "ustar\x0000")
	asns := networks{}
	for i := range byte(200) {
		asns[netip.AddrFrom4([4]byte{1 + i, 0, 0, 0}).String()+"/8"] = asn(uint32(i))
	}
	noCountry := "says nothing about countries (it is of type X): use a Country or City database"
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":      {nil, "is empty"},
		"text":       {[]byte("network,geoname_id\n1.0.0.0/24,2077456\n"), "is text, not a MaxMind database"},
		"UTF-8 text": {[]byte(strings.Repeat("São Paulo ", 100)), "is text"},
		"web page":   {[]byte("\n<!DOCTYPE html><html><title>Log in</title>"), "is a web page"},
		"gzip":       {zipped.Bytes(), "is compressed with gzip: unpack it"},
		"zip":        {append([]byte("PK\x03\x04"), good[:200]...), "is a zip archive: unpack it"},
		"tar":        {tar, "is a tar archive: unpack it"},
		"noise":      {good[100:600], "has no MaxMind metadata at its end"},
		"cut short":  {good[:len(good)-300], "has no MaxMind metadata at its end"},
		"no tree":    {good[bytes.LastIndex(good, []byte(metadataMarker)):], "is damaged"},
		"ASN":        {build(t, mmdbwriter.Options{DatabaseType: "GeoLite2-ASN"}, asns), "says nothing about countries (it is of type GeoLite2-ASN): use a Country"},
		"no records": {build(t, mmdbwriter.Options{}, nil), "has no networks in it"},
		"IP names":   {build(t, mmdbwriter.Options{DatabaseType: "X"}, networks{"1.0.0.0/8": mmdbtype.Map{"country": mmdbtype.Map{"names": names("Nowhere")}}}), noCountry},
		"strings":    {build(t, mmdbwriter.Options{DatabaseType: "X"}, networks{"1.0.0.0/8": mmdbtype.String("BR")}), "is damaged"},
	} {
		path := filepath.Join(dir, name+".mmdb")
		write(t, path, c.data)
		r, err := New(Config{Path: path}, countryTable(t, nil))
		if err == nil || r != nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), "geoip database "+path+": ") || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q does not name the file and say %q", name, err, c.want)
		}
		t.Log(err) // with -v: how they read
	}
}

func TestNewRefusesPath(t *testing.T) {
	dir := t.TempDir()
	_, err := New(Config{Path: filepath.Join(dir, "none.mmdb")}, countryTable(t, nil))
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.mmdb: no such file or directory: correct the path, or leave it empty") {
		t.Errorf("missing file: %v", err)
	}
	if _, err := New(Config{Path: dir}, countryTable(t, nil)); err == nil || !strings.Contains(err.Error(), "is a directory: name the .mmdb file in it") {
		t.Errorf("directory: %v", err)
	}
	if _, err := New(Config{Path: os.DevNull}, countryTable(t, nil)); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("device: %v", err)
	}
	large := filepath.Join(dir, "large.mmdb")
	write(t, large, nil)
	if err := os.Truncate(large, maxFile+1); err != nil { // sparse: takes no space
		t.Skip(err)
	}
	if _, err := New(Config{Path: large}, countryTable(t, nil)); err == nil || !strings.Contains(err.Error(), "more than any such database") {
		t.Errorf("huge file: %v", err)
	}
}

func TestNewRefusesConfig(t *testing.T) {
	if _, err := New(Config{}, nil); err == nil {
		t.Error("accepted without a table")
	}
	if _, err := New(Config{Poll: -time.Second}, countryTable(t, nil)); err == nil || !strings.Contains(err.Error(), "-1s") {
		t.Errorf("negative poll: %v", err)
	}
}

// try does what New and Lookup do, without the recover that they have on top: this is where a panic would show.
func try(t testing.TB, data []byte, addrs []netip.Addr, table *geo.Table) {
	t.Helper()
	db, err := open("test", data)
	if err != nil {
		return
	}
	_ = db.check() // whatever it finds: Lookup must bear what a sample does not
	r := &Resolver{}
	r.table.Store(table)
	r.state.Store(&state{db: db})
	for _, a := range addrs {
		if a.IsValid() {
			var rec record
			_ = db.find(a.Unmap(), &rec)
		}
		got := r.Lookup(a)
		known, _ := table.Place(got.Country)
		if got.Country != known.Country || got.Region != known.Region {
			t.Fatalf("Lookup(%s) = %+v, which the table does not know like that", a, got)
		}
	}
}

func TestFlippedBytes(t *testing.T) {
	data, table := allSchemas(t), countryTable(t, nil)
	for i := range data {
		good := data[i]
		data[i] = []byte{^good, good ^ 1, 0xff, good ^ 0x80, 0}[i%5]
		try(t, data, probes, table)
		data[i] = good
	}
}

func TestFlippedBytesEmbedded(t *testing.T) {
	data, table := bytes.Clone(embedded), countryTable(t, nil)
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, seed))
	metadata := bytes.LastIndex(data, []byte(metadataMarker))
	for i := range 200 {
		at := rng.IntN(len(data))
		if i%2 == 0 { // the few kilobytes of records and metadata, where most depends on every byte
			at = metadata - 2000 + rng.IntN(len(data)-metadata+2000)
		}
		good := data[at]
		data[at] ^= byte(1 + rng.IntN(255))
		try(t, data, probes, table)
		data[at] = good
	}
}

func TestTruncated(t *testing.T) {
	data, table := allSchemas(t), countryTable(t, nil)
	for n := range data {
		if db, err := openChecked("test", data[:n]); err == nil && n < len(data)-200 {
			t.Fatalf("accepted the first %d of %d bytes as %+v", n, len(data), db.info)
		}
		try(t, data[:n], probes, table)
	}
	for n := 1; n < len(embedded); n += len(embedded) / 50 {
		if _, err := openChecked("test", embedded[:n]); err == nil {
			t.Fatalf("accepted the first %d bytes of the embedded database", n)
		}
	}
}

// TestPartlyOverwritten: a larger file written over a smaller one in place, stalled half-way, ends in the metadata of
// the old one but has the tree of the new one.
func TestPartlyOverwritten(t *testing.T) {
	content := networks{}
	for i := range 4000 {
		content[netip.AddrFrom4([4]byte{byte(1 + i/256), byte(i), 0, 0}).String()+"/16"] = city("DE", float64(i%90), float64(i%180))
	}
	larger := build(t, mmdbwriter.Options{}, content)
	older := bytes.Clone(embedded)
	copy(older, larger)
	if _, err := openChecked("test", older); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("openChecked = %v, want damage", err)
	}
}

func TestMetadata(t *testing.T) {
	odd := build(t, mmdbwriter.Options{DatabaseType: strings.Repeat("x", 100) + "\xff", BuildEpoch: 1 << 62}, networks{"1.0.0.0/8": flat("AU")})
	db, err := openChecked("test", odd)
	if err != nil {
		t.Fatal(err)
	}
	if len(db.info.Type) != 64 || !db.info.Built.IsZero() || db.name() != db.info.Type {
		t.Errorf("info = %+v", db.info)
	}
	if got := printable("Geo\x1b[2J\n\xff-é"); got != "Geo?[2J??-?" {
		t.Errorf("printable = %q", got)
	}
	for field, c := range map[string][2]string{
		"binary_format_major_version": {"\xa1\x02", "version 3 of the MaxMind DB format"},
		"ip_version":                  {"\xa1\x06", "IP version 3"},
	} {
		data := allSchemas(t)
		at := bytes.LastIndex(data, []byte(field)) + len(field)
		if string(data[at:at+2]) != c[0] {
			t.Fatalf("%s is %x", field, data[at:at+2])
		}
		data[at+1] = 3
		if _, err := openChecked("test", data); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s 3: %v", field, err)
		}
	}
}

// FuzzOpen is best run with -fuzzminimizetime 1x: minimising an input of some kilobytes takes go test a minute each.
func FuzzOpen(f *testing.F) {
	small := networks{"1.0.0.0/24": flat("AU"), "2001:12ff::/32": city("BR", -15.7, -47.9)}
	four := networks{"1.0.0.0/24": country("AU"), "200.160.0.0/20": city("BR", -23.5, -46.6)}
	for _, size := range []int{24, 28, 32} {
		f.Add(build(f, mmdbwriter.Options{RecordSize: size}, small), []byte{1, 0, 0, 1})
		f.Add(build(f, mmdbwriter.Options{RecordSize: size, IPVersion: 4}, four), []byte{200, 160, 2, 3})
	}
	f.Add(build(f, mmdbwriter.Options{}, networks{"1.0.0.0/8": asn(64512)}), []byte{1, 1, 1, 1})
	v6 := addr("2001:12ff::10").As16()
	f.Add(allSchemas(f), v6[:])
	f.Add([]byte{}, []byte{})
	f.Add([]byte(metadataMarker), []byte{1})
	table := countryTable(f, nil)
	f.Fuzz(func(t *testing.T, data, raw []byte) {
		a, _ := netip.AddrFromSlice(raw) // the zero Addr for other lengths
		try(t, data, append(probes[:len(probes):len(probes)], a), table)
	})
}
