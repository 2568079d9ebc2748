package mmdb

import (
	"fmt"

	"github.com/oschwald/maxminddb-golang/v2/mmdbdata"

	"github.com/edgeproxy/edgeproxy/geo"
)

// record is what the known schemas say about a network:
//
//	MaxMind, DB-IP   {"country": {"iso_code": "BR", …}, "registered_country": {"iso_code": "US", …},
//	                  "location": {"latitude": -23.5, "longitude": -46.6, …}, …}
//	flat             {"country_code": "BR", "latitude": -23.5, "longitude": -46.6, …}
//
// A field of another type than expected counts as missing: somebody else's schema is no damage.
type record struct {
	country  alpha2 // as in the file
	located  bool
	position geo.Position
}

// alpha2 is a country's code by value; zero: none.
type alpha2 [2]byte

func (a alpha2) known() bool { return a != alpha2{} }

// maxFields bounds the work that a damaged record can cause. The largest real ones have some 30 fields on a level.
const maxFields = 1024

// read fills the zero record from the file without allocating: keys and strings are looked at where they lie. (The
// reader's own Decode wants a pointer in an interface, which allocates, and makes a new string of every value.) Here and
// below, structs are filled in place: returning them by value cost 50 of 200 ns.
func (rec *record) read(c mmdbdata.Cursor) error {
	var f fields
	var flat, registered alpha2
	var lat, lon coordinate
	for f.open(c); !(rec.country.known() && lat.ok && lon.ok) && f.next(); {
		switch string(f.key) {
		case "country_code":
			flat, f.err = countryCode(f.value)
		case "country":
			rec.country, f.err = isoCode(f.value)
		case "registered_country":
			registered, f.err = isoCode(f.value)
		case "location":
			f.err = location(f.value, &lat, &lon)
		case "latitude":
			f.err = lat.read(f.value)
		case "longitude":
			f.err = lon.read(f.value)
		}
	}
	if f.err != nil {
		return f.err
	}
	// Where the network is used, or else where it was registered.
	if !rec.country.known() {
		rec.country = flat
	}
	if !rec.country.known() {
		rec.country = registered
	}
	if lat.ok && lon.ok {
		rec.position = geo.Position{Lat: lat.degrees, Lon: lon.degrees}
		// Zero for both is how files without a position for a network say so; nobody lives there.
		rec.located = rec.position.Valid() && rec.position != geo.Position{}
	}
	return nil
}

// isoCode reads iso_code of a country's map; zero where there is none.
func isoCode(c mmdbdata.Cursor) (alpha2, error) {
	kind, err := c.Kind()
	if err != nil || kind != mmdbdata.KindMap {
		return alpha2{}, err
	}
	var f fields
	for f.open(c); f.next(); {
		if string(f.key) == "iso_code" {
			return countryCode(f.value)
		}
	}
	return alpha2{}, f.err
}

func location(c mmdbdata.Cursor, lat, lon *coordinate) error {
	kind, err := c.Kind()
	if err != nil || kind != mmdbdata.KindMap {
		return err
	}
	var f fields
	for f.open(c); !(lat.ok && lon.ok) && f.next(); {
		switch string(f.key) {
		case "latitude":
			f.err = lat.read(f.value)
		case "longitude":
			f.err = lon.read(f.value)
		}
	}
	return f.err
}

// countryCode is zero for anything but a string of two bytes.
func countryCode(c mmdbdata.Cursor) (alpha2, error) {
	kind, err := c.Kind()
	if err != nil || kind != mmdbdata.KindString {
		return alpha2{}, err
	}
	// ReadMapKey reads any string, and is the way to get one without a copy.
	s, _, err := c.ReadMapKey()
	if err != nil || len(s) != len(alpha2{}) {
		return alpha2{}, err
	}
	return alpha2(s), nil
}

type coordinate struct {
	degrees float64
	ok      bool
}

func (x *coordinate) read(c mmdbdata.Cursor) error {
	kind, err := c.Kind()
	if err != nil || kind != mmdbdata.KindFloat64 && kind != mmdbdata.KindFloat32 {
		return err
	}
	x.degrees, _, err = c.ReadFloat()
	x.ok = err == nil
	return err
}

// fields walks over a map. A value is skipped only when the next one is asked for, so that leaving early costs nothing.
type fields struct {
	key   []byte // lies in the file; must not be written to
	value mmdbdata.Cursor
	err   error

	first mmdbdata.Cursor // the first key
	left  uint
	begun bool
}

// open begins with the map at c. It fails, through err, if there is another kind of value.
func (f *fields) open(c mmdbdata.Cursor) {
	m, err := c.MapReader()
	if err == nil && m.Len() > maxFields {
		err = fmt.Errorf("a record with %d fields", m.Len())
	}
	if err != nil {
		f.err = err
		return
	}
	f.first, f.left = m.First(), m.Len()
}

// next moves to the next field, and is false after the last one or an error.
func (f *fields) next() bool {
	if f.err != nil || f.left == 0 {
		return false
	}
	at := f.first
	if f.begun {
		if at, f.err = f.value.Skip(); f.err != nil {
			return false
		}
	}
	f.begun = true
	f.left--
	f.key, f.value, f.err = at.ReadMapKey()
	return f.err == nil
}
