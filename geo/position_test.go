package geo

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePosition(t *testing.T) {
	for in, want := range map[string]Position{
		"-23.55,-46.63":      {-23.55, -46.63},
		" 50.11 , 8.68 ":     {50.11, 8.68},
		"0,0":                {},
		"90,-180":            {90, -180},
		"-90,180":            {-90, 180},
		"+1.5,1e2":           {1.5, 100},
		"1.3521,103.8198000": {1.3521, 103.8198},
	} {
		got, err := ParsePosition(in)
		if err != nil || got != want {
			t.Errorf("ParsePosition(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
}

func TestParsePositionRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":              "want lat,lon",
		"50.11":         "want lat,lon",
		"50.11 8.68":    "want lat,lon",
		"1,2,3":         "want lat,lon",
		"50,11;8,68":    "want lat,lon",
		",":             `latitude "" is not a number`,
		"50.11,":        `longitude "" is not a number`,
		"north,8":       `latitude "north" is not a number`,
		"50.11,8.68E":   `longitude "8.68E" is not a number`,
		"90.0001,0":     "latitude 90.0001 is outside -90 to 90",
		"-90.0001,0":    "latitude -90.0001 is outside -90 to 90",
		"103.82,1.35":   "latitude comes first",
		"0,180.01":      "longitude 180.01 is outside -180 to 180",
		"0,-1e999":      "longitude -1e999 is outside -180 to 180",
		"NaN,0":         "latitude NaN is outside",
		"0,nan":         "longitude nan is outside",
		"Inf,0":         "latitude Inf is outside",
		"0,-infinity":   "longitude -infinity is outside",
		"50.11\x00,8.6": "is not a number",
	} {
		got, err := ParsePosition(in)
		if err == nil || got != (Position{}) {
			t.Errorf("ParsePosition(%q) = %v, %v; want an error", in, got, err)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePosition(%q): error %q does not say %q", in, err, want)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"-23.55,-46.63", "0,0", "NaN,Inf", "1e999,1", ",", "90,-180", "0x1p-2,-0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		if !p.Valid() || !p.Vector().Known() {
			t.Fatalf("ParsePosition(%q) = %v is not valid", s, p)
		}
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Fatalf("ParsePosition(%q) = %v, which prints %q and parses to %v, %v", s, p, p.String(), again, err)
		}
	})
}

func drawPosition(t *rapid.T, label string) Position {
	return Position{
		Lat: rapid.Float64Range(-90, 90).Draw(t, label+".lat"),
		Lon: rapid.Float64Range(-180, 180).Draw(t, label+".lon"),
	}
}

func TestPositionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPosition(t, "p")
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Fatalf("%#v prints %q, parses to %#v, %v", p, p.String(), again, err)
		}
	})
}

// TestDistanceKnown compares with figures that do not come from this code: quarter and half circles, one degree, and
// city pairs by the haversine on the same sphere.
func TestDistanceKnown(t *testing.T) {
	circle := 2 * math.Pi * 6371.0088
	haversine := func(a, b Position) float64 {
		rad := math.Pi / 180
		s := func(x float64) float64 { return math.Sin(x/2) * math.Sin(x/2) }
		h := s((b.Lat-a.Lat)*rad) + math.Cos(a.Lat*rad)*math.Cos(b.Lat*rad)*s((b.Lon-a.Lon)*rad)
		return 2 * 6371.0088 * math.Asin(math.Sqrt(h))
	}
	saoPaulo, ashburn := Position{-23.55, -46.63}, Position{39.04, -77.49}
	frankfurt, singapore := Position{50.11, 8.68}, Position{1.35, 103.82}
	for _, c := range []struct {
		name     string
		a, b     Position
		km, give float64
	}{
		{"same point", saoPaulo, saoPaulo, 0, 0},
		{"pole to pole", Position{90, 0}, Position{-90, 77}, circle / 2, 1e-6},
		{"antipodes on the equator", Position{0, -90}, Position{0, 90}, circle / 2, 1e-6},
		{"antipodes anywhere", Position{33.3, 44.4}, Position{-33.3, -135.6}, circle / 2, 1e-6},
		{"quarter", Position{0, 10}, Position{0, 100}, circle / 4, 1e-6},
		{"one degree of latitude", Position{0, 0}, Position{1, 0}, circle / 360, 1e-6},
		{"across the date line", Position{0, 179.5}, Position{0, -179.5}, circle / 360, 1e-6},
		{"same pole, other longitude", Position{90, 0}, Position{90, 120}, 0, 1e-9},
		{"one millimetre", Position{0, 0}, Position{0, 360 * 1e-6 / circle}, 1e-6, 1e-11},
		{"a metre short of the antipode", Position{0, 0}, Position{0, 180 - 360*1e-3/circle}, circle/2 - 1e-3, 1e-9},
		{"São Paulo to Ashburn", saoPaulo, ashburn, haversine(saoPaulo, ashburn), 1e-6},
		{"Frankfurt to Singapore", frankfurt, singapore, haversine(frankfurt, singapore), 1e-6},
		{"Frankfurt to Singapore, by an atlas", frankfurt, singapore, 10_260, 30},
	} {
		if got := Distance(c.a, c.b); math.Abs(got-c.km) > c.give {
			t.Errorf("%s: %.9f km, want %.9f ± %g", c.name, got, c.km, c.give)
		}
	}
}

func TestDistanceUnknown(t *testing.T) {
	here := Position{50, 8}.Vector()
	for _, c := range [][2]Vector{{{}, here}, {here, {}}, {{}, {}}} {
		if got := c[0].Distance(c[1]); !math.IsInf(got, 1) {
			t.Errorf("distance of %v = %v, want +Inf", c, got)
		}
	}
	for _, p := range []Position{{91, 0}, {0, -181}, {math.NaN(), 0}, {0, math.Inf(1)}} {
		if p.Valid() || p.Vector().Known() {
			t.Errorf("%v passes for a place", p)
		}
	}
	if !(Position{}).Vector().Known() {
		t.Error("0°N 0°E is a place")
	}
}

// TestDistanceLaws: what makes it a metric, up to the rounding of a few parts in 10^16 of the Earth's size.
func TestDistanceLaws(t *testing.T) {
	const rounding = 1e-8 // km: a hundredth of a millimetre
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := drawPosition(t, "a"), drawPosition(t, "b"), drawPosition(t, "c")
		ab, ba := Distance(a, b), Distance(b, a)
		if ab != ba {
			t.Fatalf("%v to %v is %v km, back %v km", a, b, ab, ba)
		}
		if !(0 <= ab && ab <= 20015.2) {
			t.Fatalf("%v to %v is %v km", a, b, ab)
		}
		if aa := Distance(a, a); aa != 0 {
			t.Fatalf("%v to itself is %v km", a, aa)
		}
		if ac, bc := Distance(a, c), Distance(b, c); ac > ab+bc+rounding {
			t.Fatalf("%v km from %v to %v is more than %v + %v over %v", ac, a, c, ab, bc, b)
		}
	})
}

func TestVectorIsUnit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPosition(t, "p")
		if v := p.Vector(); math.Abs(norm(v.X, v.Y, v.Z)-1) > 1e-15*4 {
			t.Fatalf("%v is %v of length %v", p, v, norm(v.X, v.Y, v.Z))
		}
	})
}

func BenchmarkDistance(b *testing.B) {
	v, w := Position{-23.55, -46.63}.Vector(), Position{50.11, 8.68}.Vector()
	b.ReportAllocs()
	for b.Loop() {
		if v.Distance(w) < 9000 {
			b.Fatal("too near")
		}
	}
}
