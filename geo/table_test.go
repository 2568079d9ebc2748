package geo

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// wantRegions spells out where every country belongs, independently of the code: the first line of each region is the
// seed's list, the others are the rest of each continent.
var wantRegions = map[Region]string{
	SA: `BR AR CL PE CO UY PY BO EC VE
	     FK GF GY SR`,
	US: `US CA MX
	     AG AI AW BB BL BM BQ BS BZ CR CU CW DM DO GD GL GP GT HN HT JM KN KY LC MF MQ MS NI PA PM PR SV SX TC TT VC VG VI`,
	EU: `PT ES FR DE NL IT GB IE BE CH AT PL CZ SE NO DK FI RU UA
	     AD AL AX BA BG BY CY EE FO GG GI GR HR HU IM IS JE LI LT LU LV MC MD ME MK MT RO RS SI SJ SK SM VA XK`,
	AP: `JP KR TW HK SG MY TH VN ID PH AU NZ CN IN
	     AE AF AM AZ BD BH BN BT CC CX GE IL IO IQ IR JO KG KH KP KW KZ LA LB LK MM MN MO MV NP OM PK PS QA SA SY TJ TM TR UZ YE
	     AS CK FJ FM GU KI MH MP NC NF NR NU PF PG PN PW SB TK TL TO TV UM VU WF WS`,
	AF: `AC AO BF BI BJ BW CD CF CG CI CM CV DJ DZ EG EH ER ET GA GH GM GN GQ GW KE KM LR LS LY MA MG ML MR MU MW MZ NA NE NG
	     RE RW SC SD SH SL SN SO SS ST SZ TA TD TG TN TZ UG YT ZA ZM ZW`,
	"": `AQ BV GS HM TF`,
}

func table(t testing.TB, overrides map[string]Region) *Table {
	t.Helper()
	table, err := NewTable(overrides)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTableRegions(t *testing.T) {
	table := table(t, nil)
	var listed []string
	for region, codes := range wantRegions {
		for _, code := range strings.Fields(codes) {
			listed = append(listed, code)
			p, ok := table.Place(code)
			if !ok || p.Country != code || p.Region != region || !p.At.Known() {
				t.Errorf("Place(%s) = %+v, %t; want region %q and a position", code, p, ok, region)
			}
		}
	}
	slices.Sort(listed)
	if codes := table.Codes(); !slices.Equal(codes, listed) {
		t.Errorf("countries of the table:\n%v\nof this test:\n%v", codes, listed)
	}
	if n := strings.Count(strings.TrimSpace(countriesCSV), "\n"); n != len(listed) {
		t.Errorf("countries.csv has %d rows, the table %d countries", n, len(listed))
	}
}

// TestTablePositions guards against swapped or shifted columns: each of these centres is known well enough.
func TestTablePositions(t *testing.T) {
	table := table(t, nil)
	for code, near := range map[string]Position{
		"BR": {-10.7, -53}, "DE": {51, 10.4}, "JP": {36.5, 138}, "KE": {0.5, 37.9}, "US": {39.8, -98.6}, "FJ": {-17.8, 178}, "NZ": {-44, 170.5},
	} {
		if p, _ := table.Place(code); p.At.Distance(near.Vector()) > 100 {
			t.Errorf("%s lies %.0f km from where it should", code, p.At.Distance(near.Vector()))
		}
	}
}

func TestTableCodes(t *testing.T) {
	table := table(t, nil)
	for _, code := range []string{"BR", "br", "Br", "bR"} {
		if p, ok := table.Place(code); !ok || p.Country != "BR" || table.Name(code) != "Brazil" {
			t.Errorf("Place(%q) = %+v, %t, Name %q", code, p, ok, table.Name(code))
		}
	}
	for _, code := range []string{"ZZ", "EU", "zz"} {
		want := Place{Country: strings.ToUpper(code)}
		if p, ok := table.Place(code); ok || p != want || table.Name(code) != "" {
			t.Errorf("Place(%q) = %+v, %t, Name %q; want %+v, false", code, p, ok, table.Name(code), want)
		}
	}
	for _, code := range []string{"", "B", "BRA", "B1", "1B", "@A", "A[", "A{", "A`", "\x01\x02", "ß", "\xff\xff", " BR", "B\x00"} {
		if p, ok := table.Place(code); ok || p != (Place{}) || table.Name(code) != "" {
			t.Errorf("Place(%q) = %+v, %t, Name %q; want nothing", code, p, ok, table.Name(code))
		}
	}
	codes := table.Codes()
	clear(codes)
	if slices.Contains(table.Codes(), "") {
		t.Error("the caller of Codes wrote into the table")
	}
}

func TestTableOverrides(t *testing.T) {
	table := table(t, map[string]Region{"tr": EU, "BR": "GRU-1", "Ru": "", "aq": AP})
	for code, want := range map[string]Region{"TR": EU, "BR": "gru-1", "RU": "", "AQ": AP, "AR": SA, "GR": EU} {
		if p, ok := table.Place(code); !ok || p.Region != want || !p.At.Known() {
			t.Errorf("Place(%s) = %+v, %t; want region %q", code, p, ok, want)
		}
	}
	if p, _ := table.Place("TR"); p.Country != "TR" {
		t.Errorf("override changed the code to %q", p.Country)
	}
}

func TestTableOverridesRefused(t *testing.T) {
	table, err := NewTable(map[string]Region{"ZZ": EU, "DEU": EU, "": EU, "de": "eu west", "FR": US, "fr": EU, "IT": AP})
	if err == nil || table != nil {
		t.Fatalf("NewTable = %v, %v; want an error only", table, err)
	}
	for _, want := range []string{`"ZZ"`, `"DEU"`, `""`, `"de"`, `"eu west"`, `FR is given twice, as "FR" and "fr"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not name %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "IT") {
		t.Errorf("error names a good override:\n%v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	const head = "alpha2,name,continent,lat,lon\n"
	for name, text := range map[string]string{
		"empty":             "",
		"heading only":      head,
		"missing field":     head + "BR,Brazil,SA,-10\n",
		"three letters":     head + "BRA,Brazil,SA,-10,-53\n",
		"no name":           head + "BR,,SA,-10,-53\n",
		"unknown continent": head + "BR,Brazil,XX,-10,-53\n",
		"bad position":      head + "BR,Brazil,SA,-53,-200\n",
		"twice":             head + "BR,Brazil,SA,-10,-53\nBR,Brazil,SA,-10,-53\n",
	} {
		if err := (&Table{}).load(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestPlaceTotal: any string gives an answer whose code is the upper-case form of the question, or nothing at all.
func TestPlaceTotal(t *testing.T) {
	table := table(t, nil)
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.OneOf(rapid.String(), rapid.StringN(2, 2, 2)).Draw(t, "code")
		p, ok := table.Place(code)
		if p.Country != "" && p.Country != strings.ToUpper(code) || ok && !slices.Contains(table.codes, p.Country) {
			t.Fatalf("Place(%q) = %+v, %t", code, p, ok)
		}
	})
}

func TestPlaceAllocs(t *testing.T) {
	table := table(t, nil)
	raw := [][]byte{[]byte("BR"), []byte("br"), []byte("ZZ"), []byte(""), []byte("no country at all")}
	if n := testing.AllocsPerRun(1000, func() {
		for _, b := range raw {
			table.Place(string(b)) // from bytes, as geo/mmdb asks: Place must not keep its argument
		}
	}); n != 0 {
		t.Errorf("Place allocates %v times", n)
	}
}

func BenchmarkPlace(b *testing.B) {
	table := table(b, nil)
	b.ReportAllocs()
	for b.Loop() {
		if p, ok := table.Place("BR"); !ok || p.Region != SA {
			b.Fatal(p)
		}
	}
}

func BenchmarkNewTable(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		table(b, nil)
	}
}
