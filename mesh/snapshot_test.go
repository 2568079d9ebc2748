package mesh

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/geo"
)

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

// TestDuplicates come from tables without a primary key. The first counts.
func TestDuplicates(t *testing.T) {
	var rows Rows
	for i := range 40 {
		r := row("id", fmt.Sprint("twin-", i%2))
		r[indexOf("port")] = int64(1 + i)
		rows.Backends = append(rows.Backends, r)
	}
	rows.Options = [][]any{{"twin-0", nil, int64(1), nil, nil}, {"twin-0", nil, int64(0), nil, nil}, {"nobody", nil, nil, nil, nil}, {"nobody", nil, nil, nil, nil}}
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

// TestRowsNamedByBlobs are left out of every table, each by a name that SQL takes,
// and hide no row that is named by text.
func TestRowsNamedByBlobs(t *testing.T) {
	blob := []byte("n8")
	s := NewSnapshot(POP{}, Rows{
		Backends:      [][]any{row("id", blob), row("id", "n8")},
		Options:       [][]any{{blob, nil, int64(1), nil, nil}},
		Services:      [][]any{{blob, nil, nil, nil, int64(7), nil, nil, nil, nil, nil, nil, nil, nil, nil}},
		Registrations: [][]any{{blob, "us", int64(1), int64(1), int64(1), "down"}},
		PopStatus:     [][]any{{blob, `[{"error":"x"}]`}},
	}, nil)
	if len(s.Backends) != 1 || !s.Backends[0].Routable() || len(s.Services) != 0 || len(s.Faults) != 0 {
		t.Errorf("left are %+v, %+v, %+v", s.Backends, s.Services, s.Faults)
	}
	if len(s.Problems) != 5 {
		t.Errorf("problems %v, want one of each table", s.Problems)
	}
	for _, p := range s.Problems {
		if p.ID != "x'6e38'" || !strings.Contains(p.Message, "is a blob, not text") {
			t.Errorf("problem %v", p)
		}
	}
}

func TestSnapshotOptions(t *testing.T) {
	rows := Rows{
		Backends: [][]any{row("id", "a"), row("id", "b"), row("id", "c"), row("id", "d")},
		Options: [][]any{
			{"b", "de", int64(1), "off", nil},
			{"nobody", "DE", int64(1), nil, nil}, // may be written before its backend
			{nil, "DE", int64(1), nil, nil},
			{"c", "Germany", int64(1), nil, nil},
			{"d", nil, "perhaps", nil, nil},
			{"\xff", nil, nil, nil, nil},
			{1.5, nil, nil, nil, nil},
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
