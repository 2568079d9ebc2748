package mesh

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// PopStatusColumns are the columns of the table pop_status.
var PopStatusColumns = [...]string{"node", "faults"}

// Fault is something that a POP cannot do as the rows say.
type Fault struct {
	POP    string `json:"pop"`
	App    string `json:"app,omitempty"`
	Listen string `json:"listen,omitempty"` // where it should listen for the app
	Error  string `json:"error"`
}

func (f Fault) String() string {
	if f.Listen == "" {
		return f.POP + ": " + f.Error
	}
	return fmt.Sprintf("%s cannot serve %s on %s: %s", f.POP, f.App, f.Listen, f.Error)
}

// Bounds of what a POP can cost all others by its faults.
const (
	MaxFaults = 64
	maxFault  = 256      // bytes of each text
	maxFaults = 16 << 10 // of all of them, and one more
)

// NewFault is a fault of this POP's own as others see it, too.
func NewFault(app, listen, why string) Fault {
	return Fault{App: printable(app), Listen: printable(listen), Error: printable(why)}
}

// FormatFaults is what a POP writes of its faults; nil: it has none. What has no
// room in a record is counted at the end.
func FormatFaults(faults []Fault) any {
	if len(faults) == 0 {
		return nil
	}
	type said struct {
		App    string `json:"app,omitempty"`
		Listen string `json:"listen,omitempty"`
		Error  string `json:"error"`
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for i, f := range faults {
		b.WriteByte("[,"[min(i, 1)])
		if b.Len() > maxFaults || i == MaxFaults-1 && len(faults) > MaxFaults {
			f = Fault{Error: fmt.Sprintf("and %d more faults", len(faults)-i)}
			faults = nil
		}
		if err := enc.Encode(said{f.App, f.Listen, f.Error}); err != nil {
			return nil // of three texts there is nothing that could fail
		}
		if faults == nil {
			break
		}
	}
	b.WriteByte(']')
	return b.String()
}

// ParseFaults reads a row of pop_status. The error is a *FieldError, or FieldErrors.
func ParseFaults(row []any) ([]Fault, error) {
	if len(row) != len(PopStatusColumns) {
		return nil, fieldErrorf("node", "row has %d columns, want %d", len(row), len(PopStatusColumns))
	}
	var p parser
	pop := p.key("node", row[0])
	text, ok := p.text("faults", row[1])
	if err := p.err(); err != nil {
		return nil, err
	}
	if !ok {
		return nil, nil
	}
	var list []Fault
	if err := json.Unmarshal([]byte(text), &list); err != nil || len(list) > MaxFaults {
		return nil, fieldErrorf("faults", "%q is no list of faults", clip(text))
	}
	for i := range list {
		f := &list[i]
		f.POP, f.App, f.Listen, f.Error = pop, printable(f.App), printable(f.Listen), printable(f.Error)
	}
	sortFaults(list)
	return list, nil
}

// printable is what somebody wrote as it may stand on a terminal.
func printable(s string) string {
	return Shorten(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '\uFFFD'
		}
		return r
	}, s), maxFault)
}

func (s *Snapshot) faults(rows [][]any) {
	for i, row := range rows {
		faults, err := ParseFaults(row)
		if err != nil {
			s.skip("pop_status", rowName(row, i), err)
		}
		s.Faults = append(s.Faults, faults...)
	}
	sortFaults(s.Faults)
}

func sortFaults(list []Fault) {
	slices.SortFunc(list, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.POP, b.POP), cmp.Compare(a.Listen, b.Listen), cmp.Compare(a.App, b.App), cmp.Compare(a.Error, b.Error))
	})
}
