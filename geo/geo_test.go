package geo

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseRegion(t *testing.T) {
	for in, want := range map[string]Region{
		"eu":                    EU,
		" EU\n":                 EU,
		"Us":                    US,
		"x":                     "x",
		"gru-1_b":               "gru-1_b",
		"0":                     "0",
		strings.Repeat("r", 32): Region(strings.Repeat("r", 32)),
	} {
		got, err := ParseRegion(in)
		if err != nil || got != want {
			t.Errorf("ParseRegion(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseRegionRefuses(t *testing.T) {
	for _, in := range []string{"", "  ", "e u", "eu.west", "eü", "\u212A", "eu\x00", "eu/1", strings.Repeat("r", 33), "\xff"} {
		got, err := ParseRegion(in)
		if err == nil || got != "" {
			t.Errorf("ParseRegion(%q) = %q, %v; want an error and no region", in, got, err)
		}
	}
	if _, err := ParseRegion("eu west"); err == nil || !strings.Contains(err.Error(), `"eu west"`) {
		t.Errorf("error %q does not name the value", err)
	}
	if _, err := ParseRegion(strings.Repeat("r", 1<<20)); err == nil || len(err.Error()) > 200 {
		t.Errorf("error of a long value has %d bytes", len(err.Error()))
	}
}

func FuzzParseRegion(f *testing.F) {
	for _, s := range []string{"eu", " EU ", "", "a-b_c", "\u212A", strings.Repeat("x", 40)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRegion(s)
		if err != nil {
			return
		}
		if again, err := ParseRegion(string(r)); err != nil || again != r {
			t.Fatalf("ParseRegion(%q) = %q, which parses to %q, %v", s, r, again, err)
		}
	})
}

func TestRegionPosition(t *testing.T) {
	for region, city := range map[Region]Position{
		SA: {-23.5505, -46.6333}, // São Paulo
		US: {39.0438, -77.4874},  // Ashburn
		EU: {50.1109, 8.6821},    // Frankfurt
		AP: {1.3521, 103.8198},   // Singapore
	} {
		p, ok := RegionPosition(region)
		if km := Distance(p, city); !ok || km > 5 {
			t.Errorf("RegionPosition(%s) = %v, %t: %.1f km off", region, p, ok, km)
		}
	}
	for _, region := range []Region{"", AF, "gru", "EU"} {
		if p, ok := RegionPosition(region); ok {
			t.Errorf("RegionPosition(%q) = %v, want none", region, p)
		}
	}
}
