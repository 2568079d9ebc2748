package mesh

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/geo"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// row is the seed's first example with one column changed.
func row(column string, value any) []any {
	r := []any{"sa-node-1", "myapp", "sa", "10.50.1.1", int64(8080), int64(1), int64(2), int64(50), int64(100), int64(0)}
	if column != "" {
		r[indexOf(column)] = value
	}
	return r
}

func indexOf(column string) int {
	for i, c := range BackendColumns {
		if c == column {
			return i
		}
	}
	panic("no column " + column)
}

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
		{"id", []byte("blob"), func(b Backend) any { return b.ID }, "blob"},
		{"id", int64(7), func(b Backend) any { return b.ID }, "7"},
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

const megabyte = 1 << 20

// bad is what somebody may have written into a column, and what the message says of it.
var bad = []struct {
	column string
	value  any
	says   string
}{
	{"id", nil, "NULL"},
	{"id", "", "empty"},
	{"id", []byte{}, "empty"},
	{"id", "a\xffb", "not valid UTF-8"},
	{"id", []byte("\xc3\x28"), "not valid UTF-8"},
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

// TestFirstMistakeIsNamed where a row has several.
func TestFirstMistakeIsNamed(t *testing.T) {
	_, err := ParseBackend([]any{"a", "app", "eu", "nonsense", int64(0), "x", int64(-1), nil, nil, nil})
	if fe, ok := errors.AsType[*FieldError](err); !ok || fe.Field != "wg_ip" {
		t.Errorf("%v, want the address named", err)
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
		err := b.ApplyOptions([]any{"id", c.country, c.draining, nil})
		fe, failed := errors.AsType[*FieldError](err)
		if b != c.want || (err != nil) != (c.field != "") || failed && fe.Field != c.field {
			t.Errorf("%.20q, %v: %+v, %v; want %+v and %q named", fmt.Sprint(c.country), c.draining, b, err, c.want, c.field)
		}
	}
	was := Backend{Country: "BR", Draining: true}
	if err := was.ApplyOptions([]any{"id", nil, nil, nil}); err != nil || was.Draining || was.Country != "" {
		t.Errorf("NULLs: %+v, %v; want the defaults", was, err)
	}
	for _, short := range [][]any{nil, {"a"}, {"a", nil}, {"a", nil, nil}, {"a", nil, nil, nil, nil}} {
		if err := was.ApplyOptions(short); err == nil {
			t.Errorf("options of %d columns were taken", len(short))
		}
	}
}

// TestBadRowsHideNoOthers: each is named, by itself.
func TestBadRowsHideNoOthers(t *testing.T) {
	var rows Rows
	var good []string
	for i, c := range bad {
		id := fmt.Sprintf("good-%03d", i)
		good = append(good, id)
		broken := row(c.column, c.value)
		if c.column != "id" {
			broken[0] = fmt.Sprintf("bad-%03d", i)
		}
		rows.Backends = append(rows.Backends, broken, row("id", id))
	}
	s := NewSnapshot(POP{Region: geo.EU}, rows, nil)
	var ids []string
	for _, b := range s.Backends {
		ids = append(ids, b.ID)
	}
	if !reflect.DeepEqual(ids, good) {
		t.Errorf("backends %q, want %q", ids, good)
	}
	if len(s.Problems) != len(bad) {
		t.Fatalf("%d problems, want %d", len(s.Problems), len(bad))
	}
	for i, c := range bad {
		p := s.Problems[i]
		if p.Table != "backends" || p.Field != c.column || !strings.Contains(p.Message, c.says) {
			t.Errorf("%s = %.40q: %.300v", c.column, fmt.Sprint(c.value), p)
		}
		if want := fmt.Sprintf("bad-%03d", i); c.column != "id" && p.ID != want {
			t.Errorf("problem is of %q, want %q", p.ID, want)
		}
		if len(p.String()) > 600 || p.ID == "" {
			t.Errorf("%s = %.40q: the problem does not name the row: %.300q", c.column, fmt.Sprint(c.value), p)
		}
	}
	if got := s.Problems[0].String(); got != `backends "row 1 (NULL id)": id: is NULL; give the row a name` {
		t.Errorf("the first problem reads %s", got)
	}
}

func TestSnapshotOfNothing(t *testing.T) {
	s := NewSnapshot(POP{}, Rows{}, nil)
	if len(s.Backends)+len(s.Problems)+len(s.Positions) != 0 {
		t.Errorf("%+v", s)
	}
	if b, ok := s.Backend("a"); ok || b != nil {
		t.Errorf("found %v", b)
	}
	// Rows of no columns come from no database, and must not end the process.
	s = NewSnapshot(POP{}, Rows{Backends: [][]any{nil, {}}, Options: [][]any{nil, {}, {"a"}}}, nil)
	if len(s.Problems) != 5 {
		t.Errorf("problems %v, want 5", s.Problems)
	}
}

func TestSnapshotIsSortedAndFindsEveryBackend(t *testing.T) {
	ids := []string{"b", "a", "é", "B", "a-1", "a1", "10", "9", "ab"}
	var rows Rows
	for i, id := range ids {
		r := row("id", id)
		r[indexOf("port")] = int64(1000 + i)
		rows.Backends = append(rows.Backends, r)
	}
	s := NewSnapshot(POP{}, rows, nil)
	for i := 1; i < len(s.Backends); i++ {
		if s.Backends[i-1].ID >= s.Backends[i].ID {
			t.Errorf("%q stands before %q", s.Backends[i-1].ID, s.Backends[i].ID)
		}
	}
	for i, id := range ids {
		if b, ok := s.Backend(id); !ok || b.ID != id || b.Addr.Port() != uint16(1000+i) {
			t.Errorf("%q: %+v, %v", id, b, ok)
		}
	}
	for _, id := range []string{"", "A", "a ", "zz", "a\x00"} {
		if b, ok := s.Backend(id); ok {
			t.Errorf("%q: %+v", id, b)
		}
	}
}

// TestDuplicates come from tables without a primary key and from ids that are
// a blob in one row and text in the other. The first counts.
func TestDuplicates(t *testing.T) {
	var rows Rows
	for i := range 40 {
		r := row("id", fmt.Sprint("twin-", i%2))
		if i >= 20 {
			r[0] = []byte(r[0].(string))
		}
		r[indexOf("port")] = int64(1 + i)
		rows.Backends = append(rows.Backends, r)
	}
	rows.Options = [][]any{{"twin-0", nil, int64(1), nil}, {[]byte("twin-0"), nil, int64(0), nil}, {"nobody", nil, nil, nil}, {"nobody", nil, nil, nil}}
	s := NewSnapshot(POP{}, rows, nil)
	if len(s.Backends) != 2 || s.Backends[0].Addr.Port() != 1 || s.Backends[1].Addr.Port() != 2 {
		t.Errorf("backends %+v, want the first of each", s.Backends)
	}
	if !s.Backends[0].Draining || s.Backends[1].Draining {
		t.Errorf("backends %+v, want the first options of twin-0", s.Backends)
	}
	count := map[string]int{}
	for _, p := range s.Problems {
		if p.Field != "id" || !strings.Contains(p.Message, "twice") {
			t.Errorf("problem %v", p)
		}
		count[p.Table+" "+p.ID]++
	}
	want := map[string]int{"backends twin-0": 19, "backends twin-1": 19, "backend_options twin-0": 1, "backend_options nobody": 1}
	if !reflect.DeepEqual(count, want) {
		t.Errorf("problems %v, want %v", count, want)
	}
}

func TestSnapshotOptions(t *testing.T) {
	rows := Rows{
		Backends: [][]any{row("id", "a"), row("id", "b"), row("id", "c"), row("id", "d")},
		Options: [][]any{
			{"b", "de", int64(1), "off"},
			{"nobody", "DE", int64(1), nil}, // may be written before its backend
			{nil, "DE", int64(1), nil},
			{"c", "Germany", int64(1), nil},
			{"d", nil, "perhaps", nil},
			{"\xff", nil, nil, nil},
			{1.5, nil, nil, nil},
		},
	}
	s := NewSnapshot(POP{}, rows, nil)
	for id, want := range map[string]string{"a": " false", "b": "DE true", "c": " true", "d": " false"} {
		if b, ok := s.Backend(id); !ok || fmt.Sprint(b.Country, " ", b.Draining) != want {
			t.Errorf("%s: %+v, want %s", id, b, want)
		}
	}
	var named []string
	for _, p := range s.Problems {
		named = append(named, fmt.Sprintf("%s %s %s", p.Table, p.ID, p.Field))
	}
	want := []string{
		"backend_options row 3 (NULL id) id", "backend_options c country", "backend_options d draining",
		"backend_options \xff id", "backend_options row 7 id",
	}
	if !reflect.DeepEqual(named, want) {
		t.Errorf("problems of %q, want %q", named, want)
	}
}

func TestPositions(t *testing.T) {
	at := func(lat, lon float64) geo.Vector { return geo.Position{Lat: lat, Lon: lon}.Vector() }
	frankfurt, _ := geo.RegionPosition(geo.EU)
	ashburn, _ := geo.RegionPosition(geo.US)
	rows := Rows{Backends: [][]any{
		row("region", "eu"), row("region", "us"), row("region", "gru"), row("region", "mars"), row("port", int64(0)),
	}}
	for i, r := range rows.Backends {
		r[0] = fmt.Sprint("b", i)
	}
	home := at(51, 0)
	gru := at(-23, -46)
	for _, c := range []struct {
		name      string
		self      POP
		positions map[geo.Region]geo.Vector
		want      map[geo.Region]geo.Vector
	}{
		{"defaults", POP{Region: geo.SA}, nil, map[geo.Region]geo.Vector{"eu": frankfurt.Vector(), "us": ashburn.Vector()}},
		{"this POP stands for its region", POP{Region: geo.EU, Position: home}, nil, map[geo.Region]geo.Vector{"eu": home, "us": ashburn.Vector()}},
		{"also where no backend is", POP{Region: "lhr", Position: home}, nil, map[geo.Region]geo.Vector{"lhr": home, "eu": frankfurt.Vector(), "us": ashburn.Vector()}},
		{"what the operator says wins", POP{Region: geo.EU, Position: home}, map[geo.Region]geo.Vector{"eu": gru, "gru": gru}, map[geo.Region]geo.Vector{"eu": gru, "us": ashburn.Vector(), "gru": gru}},
	} {
		given := len(c.positions)
		if got := NewSnapshot(c.self, rows, c.positions).Positions; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if len(c.positions) != given {
			t.Errorf("%s: the caller's map was changed", c.name)
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
