package sqlite

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestCrowd: of one POP so many rows are taken and no more, by name; those that
// are here go on being written, other POPs' rows come in, and deleted ones make
// room once they are forgotten.
func TestCrowd(t *testing.T) {
	liar, honest, p := newPop(t, newPath(t), "liar"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "sa")
	p.replica.mostOwned = 10
	for i := range 12 {
		put(t, liar.Store, fmt.Sprintf("a-%02d", i))
		liar.fold()
	}
	put(t, honest.Store, "h-1", "h-2")
	honest.fold()

	a := p.pull(liar, 1<<20)
	if len(a.Refused) != 2 || !strings.Contains(a.Refused[0].Err.Error(), "liar has 10 rows") {
		t.Fatalf("refused %v, want the last two", a.Refused)
	}
	if a := p.pull(honest, 1<<20); len(a.Refused) > 0 || len(p.all()) != 12 {
		t.Errorf("%d rows; of an honest POP were refused %v", len(p.all()), a.Refused)
	}
	raw(t, liar.path, "UPDATE backends SET weight = 9 WHERE id < 'a-05'")
	liar.fold()
	if a := p.pull(liar, 1<<20); len(a.Refused) > 0 {
		t.Errorf("rows that are here, written again: refused %v", a.Refused)
	}

	raw(t, liar.path, "DELETE FROM backends WHERE id < 'a-05'")
	liar.fold()
	p.pull(liar, 1<<20)
	heads, err := p.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.Collect(t.Context(), heads); err != nil || n != 5 {
		t.Fatalf("%d deletes forgotten, %v", n, err)
	}
	for _, c := range p.replica.crowds {
		c.counted = c.counted.Add(-recount - time.Second)
	}
	put(t, liar.Store, "b-1", "b-2")
	liar.fold()
	if a := p.pull(liar, 1<<20); len(a.Refused) > 0 {
		t.Errorf("five of ten are gone, and refused were %v", a.Refused)
	}
}
