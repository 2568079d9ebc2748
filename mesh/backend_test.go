package mesh

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/geo"
)

func TestParseBackendOfTheSeed(t *testing.T) {
	got, err := ParseBackend(row("", nil))
	want := Backend{
		ID: "sa-node-1", App: "myapp", Region: geo.SA, Addr: netip.MustParseAddrPort("10.50.1.1:8080"),
		Healthy: true, Weight: 2, SoftLimit: 50, HardLimit: 100,
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if got.Capacity() != 100 || !got.Routable() {
		t.Errorf("capacity %v, routable %v", got.Capacity(), got.Routable())
	}
}

func TestParseBackendDefaults(t *testing.T) {
	got, err := ParseBackend([]any{"a", nil, "eu", "::1", int64(1), nil, nil, nil, nil, nil})
	want := Backend{
		ID: "a", Region: geo.EU, Addr: netip.MustParseAddrPort("[::1]:1"),
		Healthy: true, Weight: 1, SoftLimit: 1, HardLimit: 0, Deleted: false,
	}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestParseBackendTakes(t *testing.T) {
	for _, c := range []struct {
		column string
		value  any
		got    func(b Backend) any
		want   any
	}{
		{"id", "é 日本", func(b Backend) any { return b.ID }, "é 日本"},
		{"id", strings.Repeat("x", 255), func(b Backend) any { return len(b.ID) }, 255},
		{"app", "", func(b Backend) any { return b.App }, ""},
		{"app", int64(42), func(b Backend) any { return b.App }, "42"},
		{"region", " EU\n", func(b Backend) any { return b.Region }, geo.EU},
		{"region", "gru-1", func(b Backend) any { return b.Region }, geo.Region("gru-1")},
		{"wg_ip", " 10.0.0.1 ", func(b Backend) any { return b.Addr.String() }, "10.0.0.1:8080"},
		{"wg_ip", "fd00::0001", func(b Backend) any { return b.Addr.String() }, "[fd00::1]:8080"},
		{"wg_ip", "::ffff:10.0.0.1", func(b Backend) any { return b.Addr.String() }, "10.0.0.1:8080"},
		{"wg_ip", "fe80::1%wg0", func(b Backend) any { return b.Addr.String() }, "[fe80::1%wg0]:8080"},
		{"wg_ip", []byte("127.0.0.1"), func(b Backend) any { return b.Addr.String() }, "127.0.0.1:8080"},
		{"port", int64(1), func(b Backend) any { return b.Addr.Port() }, uint16(1)},
		{"port", int64(65535), func(b Backend) any { return b.Addr.Port() }, uint16(65535)},
		{"port", "8443", func(b Backend) any { return b.Addr.Port() }, uint16(8443)},
		{"port", " 8443 ", func(b Backend) any { return b.Addr.Port() }, uint16(8443)},
		{"port", []byte("8443"), func(b Backend) any { return b.Addr.Port() }, uint16(8443)},
		{"port", 8443.0, func(b Backend) any { return b.Addr.Port() }, uint16(8443)},
		{"healthy", int64(0), func(b Backend) any { return b.Healthy }, false},
		{"healthy", int64(-1), func(b Backend) any { return b.Healthy }, true},
		{"healthy", int64(math.MaxInt64), func(b Backend) any { return b.Healthy }, true},
		{"healthy", true, func(b Backend) any { return b.Healthy }, true},
		{"healthy", false, func(b Backend) any { return b.Healthy }, false},
		{"healthy", "0", func(b Backend) any { return b.Healthy }, false},
		{"weight", int64(0), func(b Backend) any { return b.Capacity() }, 50.0},
		{"weight", int64(math.MaxInt32), func(b Backend) any { return b.Weight }, int64(math.MaxInt32)},
		{"soft_limit", int64(0), func(b Backend) any { return b.Capacity() }, 2.0},
		{"hard_limit", int64(0), func(b Backend) any { return b.HardLimit }, int64(0)},
		{"hard_limit", int64(1), func(b Backend) any { return b.HardLimit }, int64(1)},
		{"deleted", int64(1), func(b Backend) any { return b.Deleted && !b.Routable() }, true},
		{"deleted", nil, func(b Backend) any { return b.Deleted }, false},
	} {
		b, err := ParseBackend(row(c.column, c.value))
		if err != nil {
			t.Errorf("%s = %#v: %v", c.column, c.value, err)
		} else if got := c.got(b); got != c.want {
			t.Errorf("%s = %#v: %#v, want %#v", c.column, c.value, got, c.want)
		}
	}
}

// bad is what somebody may have written into a column, and what the message says of it.
var bad = []struct {
	column string
	value  any
	says   string
}{
	{"id", nil, "NULL"},
	{"id", "", "empty"},
	{"id", []byte{}, "is a blob, not text"},
	{"id", []byte("n8"), "is a blob, not text: set it to CAST(id AS TEXT)"}, // which nobody could name
	{"id", int64(7), "is a number, not text"},
	{"id", "a\xffb", "not valid UTF-8"},
	{"id", []byte("\xc3\x28"), "is a blob"},
	{"id", strings.Repeat("x", 256), "256 bytes long, at most 255"},
	{"id", strings.Repeat("x", megabyte), "1048576 bytes long"},
	{"id", "a\nb", "control characters"},
	{"id", "a\x00b", "control characters"},
	{"id", "\u009b31m", "control characters"},
	{"id", 1.5, "not text"},
	{"id", time.Unix(0, 0), "not text"},
	{"app", strings.Repeat("é", megabyte), "bytes long"},
	{"app", "\xff", "not valid UTF-8"},
	{"app", "\x1b[31m", "control characters"},
	{"region", nil, "NULL"},
	{"region", "", "region"},
	{"region", "south america", "region"},
	{"region", strings.Repeat("s", megabyte), "region"},
	{"region", "\xff", "not valid UTF-8"},
	{"region", true, "not text"},
	{"wg_ip", nil, "not an IP address"},
	{"wg_ip", "", "not an IP address"},
	{"wg_ip", "not-an-ip", `"not-an-ip" is not an IP address`},
	{"wg_ip", "10.50.1.1:8080", "not an IP address"},
	{"wg_ip", "10.50.1.0/24", "not an IP address"},
	{"wg_ip", "010.0.0.1", "not an IP address"},
	{"wg_ip", int64(167772161), "not an IP address"},
	{"wg_ip", 10.5, "not text"},
	{"wg_ip", "\xff", "not valid UTF-8"},
	{"wg_ip", strings.Repeat("1", megabyte), "not an IP address"},
	{"wg_ip", "fe80::1%" + strings.Repeat("x", megabyte), "not an IP address"},
	{"wg_ip", "fe80::1%\x1b[31m", "not an IP address"},
	{"wg_ip", "fe80::1%a b", "not an IP address"},
	{"wg_ip", "0.0.0.0", "no address that a backend can have"},
	{"wg_ip", "::", "no address that a backend can have"},
	{"wg_ip", "::ffff:0.0.0.0", "no address that a backend can have"},
	{"wg_ip", "224.0.0.1", "no address that a backend can have"},
	{"wg_ip", "ff02::1", "no address that a backend can have"},
	{"wg_ip", "::ffff:224.0.0.1", "no address that a backend can have"},
	{"wg_ip", "255.255.255.255", "no address that a backend can have"},
	{"wg_ip", "::ffff:255.255.255.255", "no address that a backend can have"},
	{"port", nil, "0 is out of range 1 to 65535"},
	{"port", int64(0), "0 is out of range 1 to 65535"},
	{"port", int64(-1), "-1 is out of range"},
	{"port", int64(65536), "65536 is out of range"},
	{"port", int64(70000), "70000 is out of range 1 to 65535"},
	{"port", int64(65536 + 80), "65616 is out of range"}, // not 80
	{"port", int64(math.MinInt64), "out of range"},
	{"port", "http", `"http" is not a whole number`},
	{"port", "", "not a whole number"},
	{"port", "0x50", "not a whole number"},
	{"port", "8 080", "not a whole number"},
	{"port", "\xff", "not valid UTF-8"},
	{"port", strings.Repeat("9", megabyte), "not a whole number"},
	{"port", 80.5, "80.5 is not a whole number"},
	{"port", math.NaN(), "not a whole number"},
	{"port", math.Inf(1), "not a whole number"},
	{"port", 1e300, "not a whole number"},
	{"port", time.Unix(80, 0), "not"},
	{"healthy", "yes", `"yes" is not a whole number`},
	{"healthy", 0.5, "not a whole number"},
	{"weight", int64(-1), "-1 is out of range 0 to 2147483647"},
	{"weight", "-1", "-1 is out of range"},
	{"weight", int64(math.MaxInt32) + 1, "out of range"},
	{"weight", int64(math.MaxInt64), "out of range"},
	{"weight", 1.5, "not a whole number"},
	{"weight", 9e15, "out of range"},
	{"weight", "99999999999999999999", "not a whole number"},
	{"soft_limit", int64(-50), "-50 is out of range"},
	{"soft_limit", "many", "not a whole number"},
	{"hard_limit", int64(-1), "-1 is out of range"},
	{"hard_limit", int64(math.MinInt64), "out of range"},
	{"deleted", "no", "not a whole number"},
	{"deleted", []byte{0xff}, "not valid UTF-8"},
}

func TestParseBackendRefuses(t *testing.T) {
	for _, c := range bad {
		b, err := ParseBackend(row(c.column, c.value))
		fe, ok := errors.AsType[*FieldError](err)
		if !ok {
			t.Errorf("%s = %.40q: %+v, %v; want a *FieldError", c.column, fmt.Sprint(c.value), b, err)
			continue
		}
		if fe.Field != c.column || !strings.Contains(fe.Message, c.says) {
			t.Errorf("%s = %.40q: %s: %.200q, want %q", c.column, fmt.Sprint(c.value), fe.Field, fe.Message, c.says)
		}
		if text := err.Error(); len(text) > 400 || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%s = %.40q: a message of %d bytes that a terminal may not like: %.200q", c.column, fmt.Sprint(c.value), len(text), text)
		}
	}
	for n := range 20 {
		if n == len(BackendColumns) {
			continue
		}
		if _, err := ParseBackend(make([]any, n)); err == nil || !strings.Contains(err.Error(), fmt.Sprint(n, " columns")) {
			t.Errorf("row of %d columns: %v", n, err)
		}
	}
}

// TestAllMistakesAreNamed where a row has several, each once.
func TestAllMistakesAreNamed(t *testing.T) {
	_, err := ParseBackend([]any{"a", "app", "eu", "nonsense", int64(0), "x", int64(-1), nil, nil, nil})
	if fe, ok := errors.AsType[*FieldError](err); !ok || fe.Field != "wg_ip" {
		t.Errorf("%v, want the address named first", err)
	}
	s := NewSnapshot(POP{}, Rows{
		Backends: [][]any{row("id", "a"), {"b", "app", "eu", "nonsense", int64(0), "x", int64(-1), nil, nil, nil}},
		Options:  [][]any{{"a", "xx9", int64(2), "bogus", "v7"}},
		Services: [][]any{{"web", "bogus", int64(101), int64(-1), nil, "nowhere", nil, nil, nil, int64(-1), "v7", int64(-1), int64(-1), int64(-1)}},
	}, nil)
	var named []string
	for _, p := range s.Problems {
		named = append(named, fmt.Sprint(p.Table, " ", p.ID, " ", p.Field, " ", p.Part))
	}
	var want []string
	for _, of := range []struct {
		row, part, fields string
	}{
		{"services web ", " true", "health_check panic_threshold soft_limit listen affinity_ttl proxy_protocol connect_timeout_ms idle_timeout_secs max_connections"},
		{"backends b ", " false", "wg_ip port healthy weight"},
		{"backend_options a ", " true", "country health_check proxy_protocol"},
	} {
		for field := range strings.FieldsSeq(of.fields) {
			want = append(want, of.row+field+of.part)
		}
	}
	if !slices.Equal(named, want) {
		t.Errorf("problems\n%s\nwant\n%s", strings.Join(named, "\n"), strings.Join(want, "\n"))
	}
	if !s.Backends[0].Draining {
		t.Error("what makes sense beside the mistakes does not count")
	}
}

func TestApplyOptions(t *testing.T) {
	for _, c := range []struct {
		country, draining any
		want              Backend
		field             string // that the error names
	}{
		{nil, nil, Backend{}, ""},
		{"BR", int64(1), Backend{Country: "BR", Draining: true}, ""},
		{"br", int64(0), Backend{Country: "BR"}, ""},
		{"", "1", Backend{Draining: true}, ""},
		{[]byte("de"), true, Backend{Country: "DE", Draining: true}, ""},
		{"Brazil", int64(1), Backend{Draining: true}, "country"}, // the drain holds
		{"é", int64(1), Backend{Draining: true}, "country"},
		{"b1", nil, Backend{}, "country"},
		{"ıı", nil, Backend{}, "country"}, // becomes II in upper case
		{"\xff\xff", int64(1), Backend{Draining: true}, "country"},
		{1.5, nil, Backend{}, "country"},
		{strings.Repeat("B", megabyte), nil, Backend{}, "country"},
		{"BR", "yes", Backend{Country: "BR"}, "draining"},
		{"BR", 0.5, Backend{Country: "BR"}, "draining"},
		{"??", "??", Backend{}, "country"},
	} {
		var b Backend
		err := b.ApplyOptions([]any{"id", c.country, c.draining, nil, nil})
		fe, failed := errors.AsType[*FieldError](err)
		if b != c.want || (err != nil) != (c.field != "") || failed && fe.Field != c.field {
			t.Errorf("%.20q, %v: %+v, %v; want %+v and %q named", fmt.Sprint(c.country), c.draining, b, err, c.want, c.field)
		}
	}
	was := Backend{Country: "BR", Draining: true}
	if err := was.ApplyOptions([]any{"id", nil, nil, nil, nil}); err != nil || was.Draining || was.Country != "" {
		t.Errorf("NULLs: %+v, %v; want the defaults", was, err)
	}
	for _, short := range [][]any{nil, {"a"}, {"a", nil}, {"a", nil, nil}, {"a", nil, nil, nil}, {"a", nil, nil, nil, nil, nil}} {
		if err := was.ApplyOptions(short); err == nil {
			t.Errorf("options of %d columns were taken", len(short))
		}
	}
}

func TestCapacity(t *testing.T) {
	for _, c := range []struct {
		soft, weight int64
		want         float64
	}{{50, 2, 100}, {0, 0, 1}, {0, 7, 7}, {7, 0, 7}, {MaxNumber, MaxNumber, float64(MaxNumber) * float64(MaxNumber)}} {
		b := Backend{SoftLimit: c.soft, Weight: c.weight}
		if got := b.Capacity(); got != c.want {
			t.Errorf("soft %d, weight %d: %v, want %v", c.soft, c.weight, got, c.want)
		}
	}
}

func TestRoutable(t *testing.T) {
	for i := range 8 {
		b := Backend{Healthy: i&1 != 0, Deleted: i&2 != 0, Draining: i&4 != 0}
		if want := i == 1; b.Routable() != want {
			t.Errorf("%+v: %v", b, b.Routable())
		}
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("x", 64)} {
		if clip(s) != s {
			t.Errorf("%q became %q", s, clip(s))
		}
	}
	for pad := range 8 {
		s := strings.Repeat("x", pad) + strings.Repeat("日", 40)
		got := clip(s)
		kept := strings.TrimSuffix(got, "…")
		if !utf8.ValidString(got) || kept == got || !strings.HasPrefix(s, kept) || len(kept) < 60 || len(kept) > 64 {
			t.Errorf("%q became %q", s, got)
		}
	}
	if got := clip(strings.Repeat("\x80", 1000)); len(got) > 70 {
		t.Errorf("%d bytes", len(got))
	}
}
