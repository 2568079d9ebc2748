package sni

import "strings"

// Entry is a pattern and what it leads to: a name ("www.example.com"), a
// wildcard of one label ("*.example.com", RFC 6125, 6.4.3: it matches neither
// example.com nor a.b.example.com), or "*" for every name and for none.
type Entry[T any] struct {
	Pattern string
	Value   T
}

// Duplicate is an entry that has no effect, its pattern being First's already.
type Duplicate[T any] struct {
	Pattern      string
	Value, First T
}

// Table finds values by name: the exact one wins, then the wildcard, then "*".
// It does not change, so any number may look up at once. A nil Table is empty.
type Table[T any] struct {
	exact    map[string]T
	wildcard map[string]T // by what follows the asterisk, with its dot
	any      *T
}

// NewTable takes patterns as rows of services have them, checked; others match no name that
// Parse returns. Upper case and a dot at the end do not matter. Of two that are
// the same the first wins, and the others are returned.
func NewTable[T any](entries []Entry[T]) (*Table[T], []Duplicate[T]) {
	t := &Table[T]{exact: map[string]T{}, wildcard: map[string]T{}}
	var twice []Duplicate[T]
	for _, e := range entries {
		pattern := strings.TrimSuffix(strings.ToLower(e.Pattern), ".")
		if first, ok := t.add(pattern, e.Value); !ok {
			twice = append(twice, Duplicate[T]{e.Pattern, e.Value, first})
		}
	}
	return t, twice
}

// add returns what has the pattern already, and false, if something has.
func (t *Table[T]) add(pattern string, value T) (first T, ok bool) {
	if pattern == "*" {
		if t.any != nil {
			return *t.any, false
		}
		t.any = &value
		return first, true
	}
	in := t.exact
	if strings.HasPrefix(pattern, "*.") {
		in, pattern = t.wildcard, pattern[1:]
	}
	if first, taken := in[pattern]; taken {
		return first, false
	}
	in[pattern] = value
	return first, true
}

// Lookup returns the value for a name as Hello has it; "" stands for none.
func (t *Table[T]) Lookup(name string) (value T, ok bool) {
	if t == nil {
		return value, false
	}
	if name != "" {
		if value, ok = t.exact[name]; ok {
			return value, true
		}
		if dot := strings.IndexByte(name, '.'); dot > 0 {
			if value, ok = t.wildcard[name[dot:]]; ok {
				return value, true
			}
		}
	}
	if t.any != nil {
		return *t.any, true
	}
	return value, false
}
