package clustertests

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// absent is the value of a row that is not there.
const absent = -1

// write is one attempt to write a row, or to delete it (value absent), on one POP.
type write struct {
	at    time.Duration // since the scenario began
	pop   string
	row   string
	value int
	err   error // nil: acknowledged; else it may have happened or not
}

// recorder remembers every write of a scenario. Those on one POP to one row
// come one after the other. Safe for concurrent use.
type recorder struct {
	began time.Time
	acked atomic.Int64

	mu     sync.Mutex
	writes []write
	values int
}

// next is a value that no other write has, so that one can tell whose it was.
func (r *recorder) next() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values++
	return r.values
}

// do has f write, and remembers how it went.
func (r *recorder) do(pop, row string, value int, f func() error) error {
	w := write{at: time.Since(r.began), pop: pop, row: row, value: value}
	w.err = f()
	if w.err == nil {
		r.acked.Add(1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, w)
	return w.err
}

// counts are for the log.
func (r *recorder) counts() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	refused := 0
	for _, w := range r.writes {
		if w.err != nil {
			refused++
		}
	}
	return fmt.Sprintf("%d writes, %d of them refused or without an answer", len(r.writes), refused)
}

// history is what happened to a row, for a person.
func (r *recorder) history(row string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, w := range r.writes {
		if w.row != row {
			continue
		}
		fmt.Fprintf(&b, "\n    %8.3fs %s: ", w.at.Seconds(), w.pop)
		if w.value == absent {
			b.WriteString("delete")
		} else {
			fmt.Fprintf(&b, "%d", w.value)
		}
		if w.err != nil {
			fmt.Fprintf(&b, " (%.120s)", w.err)
		}
	}
	return b.String()
}

// possible is what a row may be once all POPs agree, by one rule: on one POP
// a later write beats an earlier one. So of each POP's acknowledged writes the
// last one can have won, and each without an answer too.
func possible(writes []write) map[string][]int {
	type place struct{ row, pop string }
	last, acked := map[place]int{}, map[string]bool{}
	can := map[string][]int{}
	for _, w := range writes {
		if w.err != nil {
			can[w.row] = append(can[w.row], w.value)
			continue
		}
		last[place{w.row, w.pop}], acked[w.row] = w.value, true
	}
	for p, v := range last {
		can[p.row] = append(can[p.row], v)
	}
	for row := range can {
		if !acked[row] {
			can[row] = append(can[row], absent)
		}
	}
	return can
}

// check compares the rows of a POP with what may have become of them.
func (r *recorder) check(rows map[string]int) (faults []string) {
	r.mu.Lock()
	writes := slices.Clone(r.writes)
	r.mu.Unlock()
	can := possible(writes)
	wrong := func(what, row string) {
		faults = append(faults, fmt.Sprintf("%s: %s, want one of %d%s", what, row, can[row], r.history(row)))
	}
	for _, row := range sorted(can) {
		have, there := rows[row]
		if !there {
			have = absent
		}
		if slices.Contains(can[row], have) {
			continue
		}
		switch {
		case !there:
			wrong("lost", row)
		case !slices.ContainsFunc(writes, func(w write) bool { return w.row == row && w.value == have }):
			wrong(fmt.Sprintf("invented %d", have), row)
		case slices.Equal(can[row], []int{absent}):
			wrong(fmt.Sprintf("resurrected %d", have), row)
		default:
			wrong(fmt.Sprintf("lost a write, back at %d", have), row)
		}
	}
	for _, row := range sorted(rows) {
		if _, known := can[row]; !known {
			faults = append(faults, "invented: "+row)
		}
	}
	return faults
}

func TestRecorderFindsFaults(t *testing.T) {
	t.Parallel()
	refused := fmt.Errorf("refused")
	for _, tc := range []struct {
		name   string
		writes []write
		rows   map[string]int
		want   string // how the only fault begins, "" for none
	}{
		{"all well", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "x", value: 2}}, map[string]int{"a": 2}, ""},
		{"lost", []write{{row: "a", pop: "x", value: 1}}, nil, "lost: a"},
		{"an earlier write came back", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "x", value: 2}}, map[string]int{"a": 1}, "lost a write, back at 1: a"},
		{"resurrected", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "x", value: absent}}, map[string]int{"a": 1}, "resurrected 1: a"},
		{"invented row", nil, map[string]int{"a": 1}, "invented: a"},
		{"invented value", []write{{row: "a", pop: "x", value: 1}}, map[string]int{"a": 7}, "invented 7: a"},
		{"either of two POPs", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "y", value: 2}}, map[string]int{"a": 1}, ""},
		{"neither of two POPs", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "y", value: 2}}, nil, "lost: a"},
		{"no answer, happened", []write{{row: "a", pop: "x", value: 1, err: refused}}, map[string]int{"a": 1}, ""},
		{"no answer, did not happen", []write{{row: "a", pop: "x", value: 1, err: refused}}, nil, ""},
		{"no answer to a delete", []write{{row: "a", pop: "x", value: 1}, {row: "a", pop: "x", value: absent, err: refused}}, nil, ""},
	} {
		faults := (&recorder{writes: tc.writes}).check(tc.rows)
		if tc.want == "" && len(faults) > 0 || tc.want != "" && (len(faults) != 1 || !strings.HasPrefix(faults[0], tc.want)) {
			t.Errorf("%s: %q, want %q", tc.name, faults, tc.want)
		}
	}
}
