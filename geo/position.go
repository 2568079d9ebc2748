package geo

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// earthRadius is the mean radius R1 of the Earth in km, (2a+b)/3 of the WGS 84 ellipsoid (IUGG; Moritz, Geodetic
// Reference System 1980). A sphere of this radius is at most 0.6 % off the ellipsoid, far below what routes differ by.
const earthRadius = 6371.0088

// Position is a point on the Earth in degrees: latitude -90 to 90, north positive; longitude -180 to 180, east positive.
// The zero value is a real point (in the Gulf of Guinea); unknown is said by a zero Vector.
type Position struct{ Lat, Lon float64 }

// ParsePosition reads "lat,lon" in decimal degrees, such as "-23.55,-46.63". Spaces around the numbers are allowed.
func ParsePosition(s string) (Position, error) {
	lat, lon, ok := strings.Cut(s, ",")
	if !ok || strings.Contains(lon, ",") {
		return Position{}, fmt.Errorf("position %q: want lat,lon in degrees, such as -23.55,-46.63", s)
	}
	p := Position{}
	var err error
	if p.Lat, err = parseDegrees("latitude", lat, 90); err != nil {
		return Position{}, fmt.Errorf("position %q: %w (latitude comes first)", s, err)
	}
	if p.Lon, err = parseDegrees("longitude", lon, 180); err != nil {
		return Position{}, fmt.Errorf("position %q: %w", s, err)
	}
	return p, nil
}

func parseDegrees(name, s string, limit float64) (float64, error) {
	s = strings.TrimSpace(s)
	v, err := strconv.ParseFloat(s, 64)
	// An overflow ("1e999") comes back as an infinity with an error; the range is what is wrong with it.
	if err != nil && !math.IsInf(v, 0) {
		return 0, fmt.Errorf("%s %q is not a number", name, s)
	}
	if !within(v, limit) {
		return 0, fmt.Errorf("%s %s is outside -%g to %g degrees", name, s, limit, limit)
	}
	return v, nil
}

// within is false for NaN, which compares false with everything.
func within(v, limit float64) bool { return -limit <= v && v <= limit }

// Valid reports whether both coordinates are numbers within their ranges.
func (p Position) Valid() bool { return within(p.Lat, 90) && within(p.Lon, 180) }

// String is "lat,lon" with as many digits as it takes for ParsePosition to give back exactly p.
func (p Position) String() string {
	b := strconv.AppendFloat(nil, p.Lat, 'f', -1, 64)
	b = append(b, ',')
	return string(strconv.AppendFloat(b, p.Lon, 'f', -1, 64))
}

// Vector is p as a unit vector; of a Position that is not Valid, the unknown Vector.
func (p Position) Vector() Vector {
	if !p.Valid() {
		return Vector{}
	}
	sinLat, cosLat := math.Sincos(p.Lat * (math.Pi / 180))
	sinLon, cosLon := math.Sincos(p.Lon * (math.Pi / 180))
	return Vector{X: cosLat * cosLon, Y: cosLat * sinLon, Z: sinLat}
}

// Vector is a point on the Earth as a unit vector from its centre: X towards 0°N 0°E, Y towards 0°N 90°E, Z towards the
// north pole. Distances between vectors need one arc tangent instead of six sines, and a picker asks for many of them.
// The zero value is no place at all and means unknown.
type Vector struct{ X, Y, Z float64 }

// Known reports whether v is a place.
func (v Vector) Known() bool { return v != Vector{} }

// Distance is the great-circle distance in km, 0 to half the Earth's circumference (20,015.1 km), and +Inf when either
// end is unknown, so that the unknown never passes for the nearest.
//
// The angle is 2·atan2(|v-w|, |v+w|): W. Kahan, "How Futile are Mindless Assessments of Roundoff in Floating-Point
// Computation?" (2006), §12. Unlike the arc cosine of the dot product it is accurate at every angle (for near points
// the difference is computed exactly, for antipodal ones the sum is), and unlike the haversine it has no argument that
// rounding can push out of a function's domain.
func (v Vector) Distance(w Vector) float64 {
	if !v.Known() || !w.Known() {
		return math.Inf(1)
	}
	apart := norm(v.X-w.X, v.Y-w.Y, v.Z-w.Z)
	along := norm(v.X+w.X, v.Y+w.Y, v.Z+w.Z)
	return 2 * earthRadius * math.Atan2(apart, along)
}

// norm needs none of math.Hypot's care for overflow: its arguments are within ±2.
func norm(x, y, z float64) float64 { return math.Sqrt(x*x + y*y + z*z) }

// Distance is the great-circle distance between two positions in km; +Inf when either is not Valid.
func Distance(a, b Position) float64 { return a.Vector().Distance(b.Vector()) }
