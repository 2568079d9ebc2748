package gossip

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// TestTablesAreDeclared at the beginning of a stream, and when more come up.
func TestTablesAreDeclared(t *testing.T) {
	var tables atomic.Pointer[[]string] // of a
	tables.Store(&[]string{"backends", "tomorrow"})
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) {
		switch c.Node {
		case "a":
			c.Tables = func() []string { return *tables.Load() }
		case "b":
			c.Tables = func() []string { return []string{"backends"} }
		}
	}, func(t *testing.T, l *lab) {
		l.startAll()
		told := func(at, of string) map[string]bool {
			for _, s := range l.pops[at].mesh.streams() {
				if s.node == of {
					return s.tables()
				}
			}
			return nil
		}
		l.within(time.Second, "declared", func() bool {
			return told("b", "a")["tomorrow"] && told("c", "a")["backends"] && told("a", "b")["backends"]
		})
		if told("a", "b")["tomorrow"] || told("a", "c") != nil {
			t.Errorf("b declares %v, c %v", told("a", "b"), told("a", "c"))
		}
		tables.Store(&[]string{"backends", "tomorrow", "the day after"})
		l.within(l.pops["a"].mesh.cfg.Ping+time.Second, "declared later", func() bool { return told("b", "a")["the day after"] })
	})
}

// TestSilenceOfATable: a snapshot says nothing of tables that its sender does
// not know, so that an older POP's takes no rows from a newer one.
func TestSilenceOfATable(t *testing.T) {
	seen := map[crdt.Key]struct{}{{Table: "backends", PK: "x"}: {}}
	for what, c := range map[string]struct {
		declared []string
		knows    []string
		not      []string
	}{
		"who declares":         {[]string{"backends", "services"}, []string{"backends", "services"}, []string{"tomorrow"}},
		"who declares nothing": {nil, []string{"backends"}, []string{"services", "tomorrow"}},
	} {
		s := &stream{}
		if c.declared != nil {
			if err := s.tookTables(tablesFrame{c.declared}); err != nil {
				t.Fatal(err)
			}
		}
		knows := s.knows(seen)
		if slices.ContainsFunc(c.knows, func(table string) bool { return !knows(table) }) || slices.ContainsFunc(c.not, knows) {
			t.Errorf("%s: knows %v, want %v and not %v", what, s.tables(), c.knows, c.not)
		}
	}
}
