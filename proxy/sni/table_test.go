package sni

import (
	"strings"
	"testing"
)

func TestLookup(t *testing.T) {
	table := NewTable([]Entry[string]{
		{"www.example.com", "exact"}, {"*.example.com", "wildcard"}, {"*.internal", "short"}, {"Shop.Example.ORG.", "shop"}, {"*", "default"},
	})
	only := NewTable([]Entry[string]{{"*.example.com", "wildcard"}})
	for _, tt := range []struct {
		name, want, only string
	}{
		{"www.example.com", "exact", "wildcard"},
		{"api.example.com", "wildcard", "wildcard"},
		{"example.com", "default", ""},          // a wildcard is a label, not none
		{"a.b.example.com", "default", ""},      // nor two
		{"www.example.com.evil", "default", ""}, // nor a suffix
		{"x.internal", "short", ""},
		{"shop.example.org", "shop", ""},
		{"*.example.com", "wildcard", "wildcard"}, // no name that Parse returns
		{".example.com", "default", ""},
		{"*", "default", ""},
		{"", "default", ""},
	} {
		if got, ok := table.Lookup(tt.name); got != tt.want || !ok {
			t.Errorf("%q: %q, want %q", tt.name, got, tt.want)
		}
		if got, ok := only.Lookup(tt.name); got != tt.only || ok != (tt.only != "") {
			t.Errorf("%q without a default: %q, want %q", tt.name, got, tt.only)
		}
	}
	var none *Table[string]
	if _, ok := none.Lookup("a"); ok {
		t.Error("an empty table knows a name")
	}
}

func TestFirstWins(t *testing.T) {
	table := NewTable([]Entry[int]{{"a.example", 1}, {"*", 2}, {"A.example.", 3}, {"*.example", 4}, {"*", 5}, {"*.EXAMPLE", 6}})
	for name, want := range map[string]int{"a.example": 1, "b.example": 4, "": 2} {
		if got, _ := table.Lookup(name); got != want {
			t.Errorf("%q: %d, want %d", name, got, want)
		}
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	table := NewTable([]Entry[int]{{"www.example.com", 1}, {"*.example.com", 2}, {"*", 3}})
	for _, name := range []string{"www.example.com", "api.example.com", "other.example", ""} {
		if n := testing.AllocsPerRun(100, func() { table.Lookup(name) }); n != 0 {
			t.Errorf("%q: %v allocations", name, n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	var entries []Entry[int]
	for i := range 1000 {
		entries = append(entries, Entry[int]{string(rune('a'+i%26)) + strings.Repeat("x", i%60) + ".example.com", i})
	}
	table := NewTable(append(entries, Entry[int]{"*.example.com", -1}))
	b.ReportAllocs()
	for b.Loop() {
		table.Lookup("nothing-like-it.example.com")
	}
}
