package mesh

import (
	"errors"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/geo"
)

// FuzzParseBackend: no row ends the process, one that is accepted is as the
// documentation says, and means the same when it is written down and read again.
func FuzzParseBackend(f *testing.F) {
	f.Add("seed", "sa-node-1|myapp|sa|10.50.1.1", int64(8080), int64(100), 1.0)
	f.Add("nnnnnnnnnn", "", int64(0), int64(0), 0.0)
	f.Add("ssssssssss", "a|b|eu|fe80::1%eth0|80|1|2|3|4|0", int64(1), int64(-1), 80.0)
	f.Add("bbbbfifbis", "a|b|EU |::ffff:1.2.3.4|65535|1", int64(70000), int64(math.MaxInt64), math.NaN())
	f.Add("isssfiffif", "|||not-an-ip", int64(math.MinInt64), int64(1), 1e300)
	f.Fuzz(func(t *testing.T, kinds, text string, n, m int64, x float64) {
		parts := strings.Split(text, "|")
		row := make([]any, len(BackendColumns))
		for i := range row {
			part := ""
			if i < len(parts) {
				part = parts[i]
			}
			kind := byte('s')
			if i < len(kinds) {
				kind = kinds[i]
			}
			switch kind {
			case 'n':
			case 'i':
				row[i] = n
			case 'm':
				row[i] = m
			case 'f':
				row[i] = x
			case 'b':
				row[i] = []byte(part)
			case 't':
				row[i] = n > m
			default:
				row[i] = part
			}
		}
		b, err := ParseBackend(row)
		snap := NewSnapshot(POP{Region: geo.EU}, Rows{Backends: [][]any{row}, Options: [][]any{{row[0], row[1], row[5], row[2]}}, Services: [][]any{{row[1], row[2], row[5], row[7], row[8]}}}, nil)
		if err != nil {
			if _, ok := errors.AsType[*FieldError](err); !ok || len(err.Error()) > 1000 || !utf8.ValidString(err.Error()) {
				t.Fatalf("%T: %q", err, err)
			}
			if len(snap.Backends) != 0 || len(snap.Problems) == 0 {
				t.Fatalf("snapshot %+v", snap)
			}
			return
		}
		sane(t, b)
		if len(snap.Backends) != 1 {
			t.Fatalf("snapshot %+v", snap)
		}
		again, err := ParseBackend(written(b))
		if err != nil || !reflect.DeepEqual(again, b) {
			t.Fatalf("%+v reads back as %+v, %v", b, again, err)
		}
	})
}

// sane checks what the documentation promises of every backend.
func sane(t *testing.T, b Backend) {
	t.Helper()
	for _, name := range []string{b.ID, b.App} {
		if !utf8.ValidString(name) || len(name) > MaxName || strings.ContainsFunc(name, unicode.IsControl) {
			t.Errorf("name %q", name)
		}
	}
	if b.ID == "" {
		t.Error("no id")
	}
	if r, err := geo.ParseRegion(string(b.Region)); err != nil || r != b.Region {
		t.Errorf("region %q", b.Region)
	}
	ip := b.Addr.Addr()
	if !b.Addr.IsValid() || b.Addr.Port() == 0 || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() || ip == netip.MustParseAddr("255.255.255.255") || len(ip.Zone()) > 15 {
		t.Errorf("address %v", b.Addr)
	}
	for _, n := range []int64{b.Weight, b.SoftLimit, b.HardLimit} {
		if n < 0 || n > MaxNumber {
			t.Errorf("number %d", n)
		}
	}
	if c := b.Capacity(); !(c >= 1) || math.IsInf(c, 0) {
		t.Errorf("capacity %v", c)
	}
}

// written is the row as a program would write it.
func written(b Backend) []any {
	number := func(v bool) int64 {
		if v {
			return 1
		}
		return 0
	}
	return []any{
		b.ID, b.App, string(b.Region), b.Addr.Addr().String(), int64(b.Addr.Port()), number(b.Healthy),
		b.Weight, b.SoftLimit, b.HardLimit, number(b.Deleted),
	}
}
