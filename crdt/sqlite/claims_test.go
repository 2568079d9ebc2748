package sqlite

import (
	"fmt"
	"maps"
	"os"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// sameHeads fails unless each has all that the other has.
func sameHeads(t testing.TB, a, b *pop) {
	t.Helper()
	x, y := must(a.Heads(t.Context())), must(b.Heads(t.Context()))
	if !maps.Equal(x, y) {
		t.Fatalf("heads of %s %v, of %s %v", a.life.Node, x, b.life.Node, y)
	}
}

// meet has POPs exchange all they have, both ways.
func meet(a, b *pop) {
	a.pull(b, 1<<20)
	b.pull(a, 1<<20)
	a.pull(b, 1<<20)
}

// TestWhatOthersHaveIsNotCorrected: a POP whose idea of mesh time was two
// seconds ahead, and which then hears only one that lacks what it has written,
// leaves the stamps as they are: a third may have them.
func TestWhatOthersHaveIsNotCorrected(t *testing.T) {
	now, ahead := wall(), int64(2000)
	p := &pop{Store: openStore(t, newPath(t)), t: t, life: Life{Node: "sa"}, now: func() int64 { return now + ahead }}
	p.heard = func() bool { return true }
	p.begin()
	q, r := newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	q.now, r.now = func() int64 { return now + 2000 }, func() int64 { return now }
	put(t, r.Store, "other")
	r.fold()
	meet(p, r)
	meet(q, r)

	put(t, p.Store, "row")
	p.fold()
	q.pull(p, 1<<20) // r is cut off
	ahead = 0
	p.begin()
	r.pull(p, 1<<20)
	raw(t, p.path, "UPDATE backends SET weight = 9 WHERE id = 'row'")
	p.fold()
	now += 3000
	must(r.Release(t.Context()))
	meet(p, q)
	meet(q, r)
	meet(p, r)
	for _, other := range []*pop{q, r} {
		sameHeads(t, p, other)
		agree(t, p, other)
	}
	if got := p.record("row").Cell("weight").Value; got != crdt.IntValue(9) {
		t.Errorf("its last write was undone: %v", got)
	}
}

// TestCorrectedComesBack: where there is a copy of what was corrected after
// all, it comes back and merges: nobody claims to have what is gone.
func TestCorrectedComesBack(t *testing.T) {
	p, meets := lonely(t, hour)
	put(t, p.Store, "row", "other")
	p.fold()
	raw(t, p.path, "DELETE FROM backends WHERE id = 'other'")
	p.fold()
	must(p.Collect(t.Context(), must(p.Heads(t.Context())))) // nobody else is to see the delete
	copied := newPath(t)
	if err := p.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	q, r := newPop(t, copied, "us"), newPop(t, newPath(t), "eu")
	now := wall()
	meets(now)
	q.now, r.now = func() int64 { return now }, func() int64 { return now }
	meet(p, r)
	sameHeads(t, p, r)
	agree(t, p, r)
	raw(t, p.path, "UPDATE backends SET weight = 9 WHERE id = 'row'")
	p.fold()
	for range 2 {
		for _, pair := range [][2]*pop{{p, q}, {q, r}, {p, r}} {
			meet(pair[0], pair[1])
		}
	}
	now += 2 * hour
	meets(now)
	for _, x := range []*pop{p, q, r} {
		must(x.Release(t.Context()))
	}
	sameHeads(t, p, q)
	sameHeads(t, p, r)
	agree(t, p, q)
	agree(t, p, r)
}

// TestWaitingIsNotLost: what waits at one POP while another has merged it stays,
// although its writer, whose file was an older copy, writes the row again by a
// lower stamp.
func TestWaitingIsNotLost(t *testing.T) {
	now := wall()
	p, q, r := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	put(t, p.Store, "row")
	p.fold()
	meet(p, q)
	meet(p, r)
	copied := newPath(t)
	if err := p.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	p.now, q.now, r.now = func() int64 { return now + 2000 }, func() int64 { return now }, func() int64 { return now + 2000 }
	raw(t, p.path, "UPDATE backends SET weight = 7 WHERE id = 'row'")
	p.fold()
	q.pull(p, 1<<20)
	r.pull(p, 1<<20)
	p.now = q.now
	p.restore(copied)
	raw(t, p.path, "UPDATE backends SET weight = 8 WHERE id = 'row'")
	p.fold()
	for _, pair := range [][2]*pop{{p, q}, {q, r}, {p, r}, {p, q}} {
		meet(pair[0], pair[1])
	}
	now += 3000
	for _, x := range []*pop{p, q, r} {
		must(x.Release(t.Context()))
	}
	sameHeads(t, p, q)
	sameHeads(t, p, r)
	agree(t, p, q)
	agree(t, p, r)
}

// restore puts a copy in the place of the file, between two lives.
func (p *pop) restore(copied string) {
	p.t.Helper()
	if err := p.Close(); err != nil {
		p.t.Fatal(err)
	}
	for _, tail := range []string{"-wal", "-shm"} {
		_ = os.Remove(p.path + tail)
	}
	if err := os.Rename(copied, p.path); err != nil {
		p.t.Fatal(err)
	}
	s, err := open(p.t.Context(), p.path, busyTimeout)
	if err != nil {
		p.t.Fatal(fmt.Errorf("%s: %w", p.life.Node, err))
	}
	p.t.Cleanup(func() { _ = s.Close() })
	p.Store = s
	p.begin()
}
