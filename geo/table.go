package geo

import (
	_ "embed" // countries.csv
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

//go:embed countries.csv
var countriesCSV string

// seedCountries is the seed program's own table, region first. It wins over the continents, so that meshes which come
// from there route as they did: by continent Russia, whose centre lies in Asia, would leave eu.
const seedCountries = `
sa BR AR CL PE CO UY PY BO EC VE
us US CA MX
eu PT ES FR DE NL IT GB IE BE CH AT PL CZ SE NO DK FI RU UA
ap JP KR TW HK SG MY TH VN ID PH AU NZ CN IN`

// Place is what is known about where a client or backend is. The zero value is unknown.
type Place struct {
	Country string // ISO 3166-1 alpha-2, upper case
	Region  Region // "" where the country's clients belong to no region
	At      Vector // its own position where that is known, else the centre of the country's main land mass
}

// Table maps countries to regions and positions. It never changes; make another to replace it. Its methods are safe for
// concurrent use and treat codes case-insensitively.
type Table struct {
	// By both letters, so that a lookup is one load without hashing. All 676 pairs carry their code in Country,
	// those that are no country too: an address database may know newer codes, and they need interning as well.
	places [26 * 26]Place
	names  [26 * 26]string // "" marks what is no country
	codes  []string
}

// NewTable makes the table of all countries: the seed's as it lists them, every other by its continent (AF af, AS and
// OC ap, EU eu, NA us, SA sa, AN none). Overrides, by ISO 3166-1 alpha-2 code, win over both; an empty Region there
// means none. Every override that makes no sense is named in the error.
func NewTable(overrides map[string]Region) (*Table, error) {
	t := &Table{}
	for a := range byte(26) {
		for b := range byte(26) {
			t.places[int(a)*26+int(b)].Country = string([]byte{'A' + a, 'A' + b})
		}
	}
	if err := t.load(countriesCSV); err != nil {
		return nil, fmt.Errorf("read countries.csv: %w", err)
	}
	for line := range strings.Lines(strings.TrimSpace(seedCountries)) {
		fields := strings.Fields(line)
		for _, code := range fields[1:] {
			if i := t.index(code); i >= 0 {
				t.places[i].Region = Region(fields[0])
			}
		}
	}
	if err := t.override(overrides); err != nil {
		return nil, err
	}
	return t, nil
}

// load fills names, codes, positions and the regions by continent.
func (t *Table) load(text string) error {
	rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil {
		return err
	}
	if len(rows) < 2 {
		return errors.New("no countries in it")
	}
	for _, row := range rows[1:] { // after the heading: alpha2,name,continent,lat,lon
		i := pair(row[0])
		region, ok := continentRegion(row[2])
		if i < 0 || t.names[i] != "" || row[1] == "" || !ok {
			return fmt.Errorf("row %q makes no sense", row)
		}
		p, err := ParsePosition(row[3] + "," + row[4])
		if err != nil {
			return fmt.Errorf("row %q: %w", row, err)
		}
		t.names[i] = row[1]
		t.places[i].Region = region
		t.places[i].At = p.Vector()
		t.codes = append(t.codes, t.places[i].Country)
	}
	slices.Sort(t.codes)
	return nil
}

func continentRegion(continent string) (Region, bool) {
	switch continent {
	case "AF":
		return AF, true
	case "AS", "OC":
		return AP, true
	case "EU":
		return EU, true
	case "NA":
		return US, true
	case "SA":
		return SA, true
	case "AN":
		return "", true
	}
	return "", false
}

func (t *Table) override(overrides map[string]Region) error {
	var errs []error
	given := make(map[int]string, len(overrides))
	for _, code := range slices.Sorted(maps.Keys(overrides)) { // sorted: the same mistakes read the same every time
		i := t.index(code)
		if i < 0 {
			errs = append(errs, fmt.Errorf("country %q is not an ISO 3166-1 alpha-2 code, such as \"BR\"", code))
			continue
		}
		if first, twice := given[i]; twice {
			errs = append(errs, fmt.Errorf("country %s is given twice, as %q and %q", t.places[i].Country, first, code))
			continue
		}
		given[i] = code
		region := overrides[code]
		if region != "" {
			var err error
			if region, err = ParseRegion(string(region)); err != nil {
				errs = append(errs, fmt.Errorf("country %q: %w", code, err))
				continue
			}
		}
		t.places[i].Region = region
	}
	return errors.Join(errs...)
}

// Place returns what the table says about a country, and false for what is not one. For two letters that are no country
// (an unassigned code, say) the Place still carries them in upper case, without region and position. No allocation.
func (t *Table) Place(code string) (Place, bool) {
	i := pair(code)
	if i < 0 {
		return Place{}, false
	}
	return t.places[i], t.names[i] != ""
}

// Name is the English name of a country, "" for what is not one.
func (t *Table) Name(code string) string {
	i := pair(code)
	if i < 0 {
		return ""
	}
	return t.names[i]
}

// Codes lists all countries in upper case and sorted. The caller owns the slice.
func (t *Table) Codes() []string { return slices.Clone(t.codes) }

// index is the position of a country's code, -1 for what is not one.
func (t *Table) index(code string) int {
	if i := pair(code); i >= 0 && t.names[i] != "" {
		return i
	}
	return -1
}

// pair numbers two ASCII letters of either case from 0 to 675, -1 for anything else.
func pair(code string) int {
	if len(code) != 2 {
		return -1
	}
	// Setting bit 5 folds the case of letters; what it makes of other bytes lies outside a to z all the same.
	a, b := (code[0]|0x20)-'a', (code[1]|0x20)-'a'
	if a >= 26 || b >= 26 {
		return -1
	}
	return int(a)*26 + int(b)
}
