// Package geo says in which region of the mesh a country lies and how far two places on the Earth are apart.
//
//	table, err := geo.NewTable(map[string]geo.Region{"TR": geo.EU}) // nil: the defaults
//	place, ok := table.Place("br")                                  // {Country: "BR", Region: "sa", At: its centre}
//	home, err := geo.ParsePosition("-23.55,-46.63")                 // EDGEPROXY_POSITION
//	if at := home.Vector(); at.Known() && place.At.Known() {
//		km := at.Distance(place.At)
//	}
//
// Invariants: every function depends on its arguments and on the embedded countries.csv alone; a Table never changes
// after NewTable, so that any number of goroutines may share one; Place and Distance allocate nothing. Zero values mean
// "unknown" (Region, Vector, Place) and are never taken for a place: an unknown Vector is infinitely far from everything.
//
// It does not map addresses to countries (geo/mmdb does), does not know which POPs exist, and does not choose.
package geo

import (
	"fmt"
	"strings"
)

// Region is the short lower-case code of a part of the mesh, such as "eu". Operators may invent their own; the empty
// Region means none or unknown.
type Region string

// The regions that countries map to by default. AF has no default position: the seed never placed anything there.
const (
	SA Region = "sa" // South America
	US Region = "us" // North and Central America
	EU Region = "eu" // Europe
	AP Region = "ap" // Asia and the Pacific
	AF Region = "af" // Africa
)

// maxRegion bounds a code, because regions end up in DNS names, metric labels and packets.
const maxRegion = 32

// ParseRegion trims and lower-cases s and checks that it is 1 to 32 characters of a-z, 0-9, '-' and '_'.
func ParseRegion(s string) (Region, error) {
	code := []byte(strings.TrimSpace(s))
	if len(code) == 0 || len(code) > maxRegion {
		return "", regionError(s)
	}
	for i, c := range code {
		switch {
		case 'A' <= c && c <= 'Z':
			// Not strings.ToLower: it turns some letters outside ASCII (the Kelvin sign) into ASCII ones.
			code[i] = c + ('a' - 'A')
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return "", regionError(s)
		}
	}
	return Region(code), nil
}

func regionError(s string) error {
	const rule = "want 1 to 32 characters of a-z, 0-9, '-' and '_', such as \"eu\""
	if len(s) > 2*maxRegion {
		return fmt.Errorf("region %q… (%d bytes): %s", s[:maxRegion], len(s), rule)
	}
	return fmt.Errorf("region %q: %s", s, rule)
}

// RegionPosition returns where a region is taken to be when no POP in it says its position: the city that most networks
// of the region reach soonest. Only the four regions of the seed have such a default.
func RegionPosition(r Region) (Position, bool) {
	switch r {
	case SA:
		return Position{Lat: -23.55, Lon: -46.63}, true // São Paulo
	case US:
		return Position{Lat: 39.04, Lon: -77.49}, true // Ashburn
	case EU:
		return Position{Lat: 50.11, Lon: 8.68}, true // Frankfurt
	case AP:
		return Position{Lat: 1.35, Lon: 103.82}, true // Singapore
	}
	return Position{}, false
}
