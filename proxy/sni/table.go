package sni

import (
	"slices"
	"strings"
)

// Entry is a pattern and what it leads to: a name ("www.example.com"), a
// wildcard of one label ("*.example.com", RFC 6125, 6.4.3: it matches neither
// example.com nor a.b.example.com), or "*" for every name and for none.
type Entry[T any] struct {
	Pattern string
	Value   T
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
// the same the first wins.
func NewTable[T any](entries []Entry[T]) *Table[T] {
	t := &Table[T]{exact: map[string]T{}, wildcard: map[string]T{}}
	for _, e := range slices.Backward(entries) { // so that the first is put in last
		pattern := strings.TrimSuffix(strings.ToLower(e.Pattern), ".")
		if pattern == "*" {
			t.any = &e.Value
		} else if label, ok := strings.CutPrefix(pattern, "*"); ok {
			t.wildcard[label] = e.Value
		} else {
			t.exact[pattern] = e.Value
		}
	}
	return t
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
