// Package mesh is the picture of the whole mesh that every POP holds: which
// POPs and backends there are and what is known of them, as immutable values.
//
//	snap := mesh.NewSnapshot(mesh.POP{Node: "sa-1f2e3d4c", Region: geo.SA}, rows, options, nil)
//	for _, p := range snap.Problems {
//		fmt.Println(p) // backends "us-1": port: 0 is out of range 1 to 65535
//	}
//	b, ok := snap.Backend("sa-node-1")
//
// A Snapshot never changes after NewSnapshot; readers on any goroutine share
// it without locks. A row that makes no sense is left out by itself and named
// in Problems; it never hides another. The package reads no file, socket or
// clock and decides nothing: choosing is package route.
package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/edgeproxy/edgeproxy/geo"
)

// POP is one point of presence: a member of the mesh.
type POP struct {
	Node     string // name in the mesh, unique
	Region   geo.Region
	Position geo.Vector // zero: unknown
}

// Problem names a row that is left out of the snapshot, or of which a part is
// left out, and says why.
type Problem struct {
	Table   string `json:"table"`
	ID      string `json:"id"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

func (p Problem) String() string {
	return fmt.Sprintf("%s %q: %s: %s", p.Table, p.ID, p.Field, p.Message)
}

// Snapshot is the mesh at one moment.
type Snapshot struct {
	Self      POP
	Backends  []Backend                 // by ID, no two alike
	Services  []Service                 // by App, no two alike
	Positions map[geo.Region]geo.Vector // where the backends of a region are taken to be
	Problems  []Problem
}

// Rows are the rows of the operator's tables as a database returns them.
type Rows struct {
	Backends [][]any // columns as BackendColumns
	Options  [][]any // columns as BackendOptionColumns
	Services [][]any // columns as ServiceColumns
}

// NewSnapshot validates every row by itself; of two with one id the first
// counts. The positions override the
// defaults of geo.RegionPosition; self's position stands for its own region.
func NewSnapshot(self POP, rows Rows, positions map[geo.Region]geo.Vector) *Snapshot {
	s := &Snapshot{
		Self:      self,
		Backends:  make([]Backend, 0, len(rows.Backends)),
		Positions: make(map[geo.Region]geo.Vector),
	}
	s.services(rows.Services)
	for i, row := range rows.Backends {
		b, err := ParseBackend(row)
		if err != nil {
			s.skip("backends", rowName(row, i), err)
			continue
		}
		b.inherit(s.Service(b.App), row)
		s.Backends = append(s.Backends, b)
	}
	slices.SortStableFunc(s.Backends, func(a, b Backend) int { return cmp.Compare(a.ID, b.ID) })
	s.Backends = slices.CompactFunc(s.Backends, func(a, b Backend) bool {
		if a.ID == b.ID {
			s.skip("backends", b.ID, errTwice)
		}
		return a.ID == b.ID
	})

	applied := make(map[string]bool, len(rows.Options))
	for i, row := range rows.Options {
		if err := s.apply(row, applied); err != nil {
			s.skip("backend_options", rowName(row, i), err)
		}
	}

	s.place(positions)
	return s
}

// apply adds a row of backend_options to its backend, unless one was already.
func (s *Snapshot) apply(row []any, applied map[string]bool) error {
	var p parser
	var id string
	if len(row) > 0 { // ApplyOptions refuses a row that is too short
		id = p.name("id", row[0], true)
	}
	if p.err != nil {
		return p.err
	}
	if applied[id] {
		return errTwice
	}
	applied[id] = true
	b, ok := s.Backend(id)
	if !ok {
		b = new(Backend) // options may be written before their backend
	}
	return b.ApplyOptions(row)
}

var errTwice = &FieldError{Field: "id", Message: "stands twice; the table's id is not a primary key, or one is text and one a blob"}

// place finds where the regions are: what the operator says, else this POP's
// own position for its own region, else the defaults.
func (s *Snapshot) place(positions map[geo.Region]geo.Vector) {
	for i := range s.Backends {
		r := s.Backends[i].Region
		if _, done := s.Positions[r]; done {
			continue
		}
		if p, ok := geo.RegionPosition(r); ok {
			s.Positions[r] = p.Vector()
		}
	}
	if s.Self.Position.Known() {
		s.Positions[s.Self.Region] = s.Self.Position
	}
	maps.Copy(s.Positions, positions)
}

// Backend finds a backend by its id. The pointer is into the snapshot: read only.
func (s *Snapshot) Backend(id string) (*Backend, bool) {
	i, ok := slices.BinarySearchFunc(s.Backends, id, func(b Backend, id string) int { return cmp.Compare(b.ID, id) })
	if !ok {
		return nil, false
	}
	return &s.Backends[i], true
}

func (s *Snapshot) skip(table, id string, err error) {
	p := Problem{Table: table, ID: id, Field: "id", Message: err.Error()}
	if fe, ok := errors.AsType[*FieldError](err); ok {
		p.Field, p.Message = fe.Field, fe.Message
	}
	s.Problems = append(s.Problems, p)
}

// rowName is what a person can find the row by, even where the id is what is wrong.
func rowName(row []any, i int) string {
	if len(row) > 0 {
		switch id := row[0].(type) {
		case nil:
			return fmt.Sprintf("row %d (NULL id)", i+1)
		case int64:
			return fmt.Sprint(id)
		case string:
			if id != "" {
				return clip(id)
			}
		case []byte:
			if len(id) > 0 {
				return clip(string(id))
			}
		}
	}
	return fmt.Sprintf("row %d", i+1)
}
