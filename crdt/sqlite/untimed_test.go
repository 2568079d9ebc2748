package sqlite

import (
	"errors"
	"testing"
)

// TestUntimed: while mesh time is not known, what is written gets no stamp,
// over a clean end and the next start, and then one of when it was written.
func TestUntimed(t *testing.T) {
	const fast = 3_600_000
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "row-0", "row-1", "row-2")
	q.pull(p, 1<<20)
	if err := p.End(t.Context()); err != nil {
		t.Fatal(err)
	}

	known := false
	p.untimed = func() bool { return !known }
	p.now = func() int64 {
		if !known {
			return wall() + fast
		}
		return wall()
	}
	nothing := func(when string) {
		t.Helper()
		d, err := p.Fold(t.Context())
		if !errors.Is(err, ErrUntimed) || len(d.Records) > 0 {
			t.Fatalf("%s: %d records, %v", when, len(d.Records), err)
		}
	}
	elsewhere(t, p.path, "UPDATE backends SET weight = 7 WHERE id = 'row-0'")
	if begun := p.begin(); begun.NewEpoch || begun.Edited > 0 {
		t.Errorf("%+v", begun)
	}
	nothing("started")
	elsewhere(t, p.path, "UPDATE backends SET weight = 8 WHERE id = 'row-1'")
	nothing("written")
	if err := p.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.begin()
	nothing("started again")

	known = true
	if got := stamped(p.fold()); got != "row-0 weight; row-1 weight" {
		t.Errorf("sealed %q", got)
	}
	if d, err := p.Fold(t.Context()); err != nil || len(d.Ranges) > 0 {
		t.Errorf("then %+v, %v", d, err)
	}
	if a := q.pull(p, 1<<20); a.Held > 0 {
		t.Errorf("%d records kept apart", a.Held)
	}
	agree(t, p, q)
}
