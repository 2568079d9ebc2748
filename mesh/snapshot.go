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
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/edgeproxy/edgeproxy/geo"
)

// POP is one point of presence: a member of the mesh.
type POP struct {
	Node     string // name in the mesh, unique
	Region   geo.Region
	Position geo.Vector // zero: unknown
}

// Problem names a field that makes no sense, says why, and whether the row is left
// out of the snapshot for it or the field alone. Of one row there may be several.
type Problem struct {
	Table   string `json:"table"`
	ID      string `json:"id"`
	Field   string `json:"field"`
	Message string `json:"message"`
	Part    bool   `json:"part,omitempty"` // of the row only this field is left out
}

func (p Problem) String() string {
	return fmt.Sprintf("%s %q: %s: %s", p.Table, p.ID, p.Field, p.Message)
}

// Snapshot is the mesh at one moment.
type Snapshot struct {
	Self      POP
	Backends  []Backend                 // by ID, no two alike
	Services  []Service                 // by App, no two alike
	Faults    []Fault                   // of all POPs, by POP
	Positions map[geo.Region]geo.Vector // where the backends of a region are taken to be
	Problems  []Problem
	Left      []Backend           // that Without left out, by ID
	POPs      map[netip.Addr]bool // addresses of POPs: they are sent to no backend that is a POP; nil where none is
}

// Rows are the rows of the operator's tables as a database returns them.
type Rows struct {
	Backends [][]any // columns as BackendColumns
	Options  [][]any // columns as BackendOptionColumns
	Services [][]any // columns as ServiceColumns

	PopStatus     [][]any         // columns as PopStatusColumns
	Registrations [][]any         // columns as RegistrationColumns
	Expired       map[string]bool // ids of registered backends of which nothing has been heard for too long
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
	s.faults(rows.PopStatus)
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
		s.apply(row, rowName(row, i), applied)
	}

	for i, row := range rows.Registrations {
		if err := s.register(row, rows.Expired); err != nil {
			s.skip("registrations", rowName(row, i), err)
		}
	}

	s.place(positions)
	return s
}

// apply adds a row of backend_options to its backend, unless one was already.
func (s *Snapshot) apply(row []any, name string, applied map[string]bool) {
	const table = "backend_options"
	var p parser
	var id string
	if len(row) > 0 { // ApplyOptions refuses a row that is too short
		id = p.key("id", row[0])
	}
	if err := p.err(); err != nil {
		s.skip(table, name, err)
		return
	}
	if applied[id] {
		s.skip(table, name, errTwice)
		return
	}
	applied[id] = true
	b, ok := s.Backend(id)
	if !ok {
		b = new(Backend) // options may be written before their backend
	}
	s.skipPart(table, name, len(row) == len(BackendOptionColumns), b.ApplyOptions(row))
}

var errTwice = &FieldError{Field: "id", Message: "stands twice; the table's id is not a primary key"}

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

// Without is the snapshot without the backends of which why says something:
// they are named in Problems instead. It is for whoever has just made the
// snapshot: why may still write to the backends.
func (s *Snapshot) Without(why func(*Backend) *FieldError) *Snapshot {
	var out []int
	next := *s
	next.Problems = slices.Clip(s.Problems)
	for i := range s.Backends {
		if err := why(&s.Backends[i]); err != nil {
			out = append(out, i)
			next.skip("backends", s.Backends[i].ID, err)
		}
	}
	if out == nil {
		return s
	}
	next.Backends = make([]Backend, 0, len(s.Backends)-len(out))
	next.Left = slices.Clip(s.Left)
	for i, b := range s.Backends {
		if len(out) > 0 && out[0] == i {
			out = out[1:]
			next.Left = append(next.Left, b)
			continue
		}
		next.Backends = append(next.Backends, b)
	}
	return &next
}

// All are the backends, and those that Without left out: nobody is sent to
// them, but their rows are there. The pointers are into the snapshot: read only.
func (s *Snapshot) All() iter.Seq[*Backend] {
	return func(yield func(*Backend) bool) {
		for _, list := range [][]Backend{s.Backends, s.Left} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// Backend finds a backend by its id. The pointer is into the snapshot: read only.
func (s *Snapshot) Backend(id string) (*Backend, bool) {
	i, ok := slices.BinarySearchFunc(s.Backends, id, func(b Backend, id string) int { return cmp.Compare(b.ID, id) })
	if !ok {
		return nil, false
	}
	return &s.Backends[i], true
}

// LeftOut finds a backend that Without left out, by its id, and says why it did.
// The pointer is into the snapshot: read only.
func (s *Snapshot) LeftOut(id string) (b *Backend, why string, ok bool) {
	i, ok := slices.BinarySearchFunc(s.Left, id, func(b Backend, id string) int { return cmp.Compare(b.ID, id) })
	if !ok {
		return nil, "", false
	}
	// Those of Without come last: the row itself may have other problems.
	for _, p := range slices.Backward(s.Problems) {
		if p.Table == "backends" && p.ID == id {
			return &s.Left[i], p.Message, true
		}
	}
	return &s.Left[i], "", true
}

// skip names a row that is left out.
func (s *Snapshot) skip(table, id string, err error) { s.skipPart(table, id, false, err) }

// skipPart names the fields of a row that are left out, and says whether the others count.
func (s *Snapshot) skipPart(table, id string, part bool, err error) {
	add := func(fe *FieldError) {
		s.Problems = append(s.Problems, Problem{Table: table, ID: id, Field: fe.Field, Message: fe.Message, Part: part})
	}
	if all, ok := errors.AsType[FieldErrors](err); ok {
		for _, fe := range all {
			add(fe)
		}
	} else if fe, ok := errors.AsType[*FieldError](err); ok {
		add(fe)
	} else if err != nil {
		add(&FieldError{Field: "id", Message: err.Error()})
	}
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
		case []byte: // as SQL has it
			return clip(fmt.Sprintf("x'%x'", id[:min(len(id), 40)]))
		}
	}
	return fmt.Sprintf("row %d", i+1)
}
