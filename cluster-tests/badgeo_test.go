package clustertests

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"
)

// countryFile makes a country database. Its Brazil is 193.99.0.0/16, so that
// one sees which database was asked.
func countryFile(t testing.TB, ipVersion int, country string) []byte {
	t.Helper()
	tree, err := mmdbwriter.New(mmdbwriter.Options{
		DatabaseType: "Test-Country", IPVersion: ipVersion, BuildEpoch: time.Date(2026, 5, 4, 0, 0, 0, 0, time.UTC).Unix(),
	})
	if err != nil {
		t.Fatal(err)
	}
	record := mmdbtype.Map{"country": mmdbtype.Map{"iso_code": mmdbtype.String(country)}}
	networks := []string{"193.99.0.0/16"}
	if ipVersion == 6 {
		networks = append(networks, "2a01:4f8::/32")
	}
	for _, n := range networks {
		_, network, err := net.ParseCIDR(n)
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

// damaged has other bytes in its search tree.
func damaged(file []byte) []byte {
	file = bytes.Clone(file)
	for i := range len(file) / 3 {
		file[i] = 0xee
	}
	return file
}

// TestBadCountryFile is refused at the start, by check too, with what is wrong with it.
func TestBadCountryFile(t *testing.T) {
	t.Parallel()
	good := countryFile(t, 6, "BR")
	for name, c := range map[string]struct {
		body []byte
		word string
	}{
		"corrupt":   {damaged(good), "damaged"},
		"truncated": {good[:len(good)/2], "cut short"},
		"text":      {[]byte("country,network\nBR,200.160.0.0/11\n"), "is text"},
		"empty":     {nil, "is empty"},
		"gzip":      {append([]byte{0x1f, 0x8b, 8}, good...)[:300], "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPOP(t)
			p.seed(t)
			file := p.dir + "/geo.mmdb"
			overwrite(t, file, c.body)
			p.args = []string{"serve", "--geoip", file}
			p.refuses(t, 1, file, c.word)
			if code, out, _ := p.run(t, "check", "--geoip", file); code != 2 || len(linesWith(out, "country database", file, c.word)) != 1 {
				t.Errorf("check: %d %q", code, out)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		newPOP(t, "EDGEPROXY_GEOIP_PATH=/no/such.mmdb").refuses(t, 1, "/no/such.mmdb", "no such file", "embedded")
	})
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		p := newPOP(t, "EDGEPROXY_GEOIP_PATH="+t.TempDir())
		p.refuses(t, 1, "is a directory")
	})
}

// TestCountryFile: the file given is the one that is asked; replaced, the new
// one is, by itself or at SIGHUP; a broken one leaves the last good one in use.
func TestCountryFile(t *testing.T) {
	t.Parallel()
	p := newPOP(t, append(trusting, noAffinity, "EDGEPROXY_REGION=us")...)
	file := p.dir + "/geo.mmdb"
	p.env = append(p.env, "EDGEPROXY_GEOIP_PATH="+file)
	overwrite(t, file, countryFile(t, 6, "BR"))
	p.seed(t, startBackends(t, "sa", "eu", "ap", "us")...)
	p.start(t)
	follows := func(from, want string) {
		t.Helper()
		if err := p.goesTo(from, want); err != nil {
			t.Error(err)
		}
	}
	follows("193.99.144.80", "sa-1")
	follows("2a01:4f8::1", "sa-1")
	follows("8.8.8.8", "us-1") // unknown to it
	if st := p.status(t); st.Geo.Source != file || st.Geo.Built.Year() != 2026 {
		t.Errorf("status says %+v", st.Geo)
	}

	overwrite(t, file+".new", countryFile(t, 6, "JP"))
	rename(t, file+".new", file)
	p.hangup(t, "configuration reloaded")
	follows("193.99.144.80", "ap-1")

	for i, broken := range [][]byte{damaged(countryFile(t, 6, "BR")), []byte("hello"), nil} {
		overwrite(t, file, broken)
		p.hangup(t, `"level":"error"`, "country database not replaced", file)
		follows("193.99.144.80", "ap-1")
		if n := p.metric(t, "edgeproxy_geo_reload_ok"); n != 0 {
			t.Errorf("broken file %d: the metric says the reload went well", i)
		}
	}
	overwrite(t, file+".new", countryFile(t, 6, "DE"))
	rename(t, file+".new", file)
	eventually(t, soon, func() error { return p.goesTo("193.99.144.80", "eu-1") }) // by itself
	p.expectLog(t, "country database loaded", file)
	if n := p.metric(t, "edgeproxy_geo_reload_ok"); n != 1 {
		t.Error("the metric says the reload failed")
	}
}

// TestIPv4CountryFile knows nothing of IPv6: such clients are unknown, not lost.
func TestIPv4CountryFile(t *testing.T) {
	t.Parallel()
	p := newPOP(t, append(trusting, noAffinity, "EDGEPROXY_REGION=us")...)
	file := p.dir + "/geo.mmdb"
	overwrite(t, file, countryFile(t, 4, "BR"))
	p.env = append(p.env, "EDGEPROXY_GEOIP_PATH="+file)
	p.seed(t, startBackends(t, "sa", "us")...)
	p.start(t)
	for from, want := range map[string]string{"193.99.144.80": "sa-1", "::ffff:193.99.144.80": "sa-1", "2a01:4f8::1": "us-1", "2001:12ff::10": "us-1"} {
		v, err := p.callWith(header(1, from))
		if err != nil {
			t.Error(err)
			continue
		}
		if v.backend != want {
			t.Errorf("%s went to %s, want %s", from, v.backend, want)
		}
		v.Close()
	}
	if code, out, errs := p.run(t, "check"); !strings.Contains(p.log.String()+out+errs, "IPv4") {
		t.Errorf("neither the log nor check (%d %q %q) says that the file knows IPv4 only", code, out, errs)
	}
}
