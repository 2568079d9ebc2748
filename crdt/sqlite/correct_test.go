package sqlite

import (
	"fmt"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

const (
	hour     = 3_600_000
	year2262 = 9_223_372_036_855 // where 64 bits of nanoseconds end
)

// lonely is a POP that has met nobody, by a clock that is so far off.
func lonely(t *testing.T, off int64) (p *pop, meets func(now int64)) {
	heard, now := false, wall()+off
	p = &pop{Store: openStore(t, newPath(t)), t: t, life: Life{Node: "sa"}, now: func() int64 { return now }}
	p.heard = func() bool { return heard }
	p.span = func() int64 { // of two clocks that differ by it
		if heard && off < 2*hour {
			return off
		}
		return 0
	}
	p.begin()
	return p, func(mesh int64) { now, heard = mesh, true }
}

// TestStampsAreCorrected: what a POP wrote by a clock that ran ahead gets new
// stamps when it meets another, in the order in which it was written, over
// lives and epochs.
func TestStampsAreCorrected(t *testing.T) {
	for name, off := range map[string]int64{"an hour": hour, "2262": year2262 - wall()} {
		t.Run(name, func(t *testing.T) {
			p, meets := lonely(t, off)
			for i := range 300 {
				raw(t, p.path, fmt.Sprintf("INSERT INTO backends (id, weight) VALUES ('row-%d', 1)", i))
				if i%100 == 0 {
					p.fold()
				}
			}
			raw(t, p.path, "DELETE FROM backends WHERE id = 'row-7'; UPDATE backends SET weight = 2 WHERE id = 'row-8'")
			p.fold()
			p.life.Clean = false // as after kill -9
			p.begin()
			raw(t, p.path, "UPDATE backends SET port = 3 WHERE id = 'row-8'")
			p.fold()

			q := newPop(t, newPath(t), "us")
			meets(wall())
			q.now = p.now // one mesh time, however long the machine takes
			if a := q.pull(p, 300); a.Held > 0 || len(a.Refused) > 0 {
				t.Fatalf("%d kept apart, %v", a.Held, a.Refused)
			}
			agree(t, p, q)
			sameHeads(t, p, q)
			rec := p.record("row-8")
			if id, port, weight := rec.Cell("app").Stamp, rec.Cell("port").Stamp, rec.Cell("weight").Stamp; id.Compare(weight) >= 0 || weight.Compare(port) >= 0 {
				t.Errorf("the order is lost: %v, %v, %v", id, weight, port)
			}
			if rec := p.record("row-7"); rec.Live() {
				t.Errorf("what was deleted lives: %+v", rec)
			}
			// Its next writes, and another's, follow at once.
			raw(t, p.path, "UPDATE backends SET weight = 9 WHERE id = 'row-8'")
			q.pull(p, 1<<20)
			raw(t, q.path, "UPDATE backends SET weight = 10 WHERE id = 'row-8'")
			q.fold()
			if a := p.pull(q, 1<<20); a.Held > 0 || p.record("row-8").Cell("weight").Value != crdt.IntValue(10) {
				t.Errorf("%d kept apart, %+v", a.Held, p.record("row-8"))
			}
			agree(t, p, q)
		})
	}
}

// TestTimeGoesBack: where mesh time goes back, what was written before is
// written on by all who have it.
func TestTimeGoesBack(t *testing.T) {
	now := wall() + hour
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	p.now, q.now = func() int64 { return now }, func() int64 { return now }
	put(t, p.Store, "row", "other")
	p.fold()
	q.pull(p, 1<<20)
	now -= hour
	for i := range 20 {
		from, to := p, q
		if i%2 == 0 {
			from, to = q, p
		}
		raw(t, from.path, fmt.Sprintf("UPDATE backends SET weight = %d WHERE id = 'row'", i+2), "INSERT INTO backends (id) VALUES ('new-"+fmt.Sprint(i)+"')")
		from.fold()
		if a := to.pull(from, 1<<20); a.Held > 0 {
			t.Fatalf("write %d waits", i)
		}
		if got := to.record("row").Cell("weight").Value; got != crdt.IntValue(int64(i+2)) {
			t.Fatalf("write %d: %v", i, got)
		}
	}
	agree(t, p, q)
	if at := p.record("new-19").Latest(); at > crdt.At(now+tooFar) {
		t.Errorf("a new row is stamped %v at %d", at, now)
	}
}

// TestSpan: what others may rightly stamp is merged.
func TestSpan(t *testing.T) {
	p, q, r := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	put(t, p.Store, "row")
	p.fold()
	q.now = func() int64 { return wall() - hour }
	r.now, r.span = q.now, func() int64 { return hour }
	r.begin()
	if a := q.pull(p, 1<<20); a.Held != 1 {
		t.Errorf("%d wait without a span, want 1", a.Held)
	}
	if a := r.pull(p, 1<<20); a.Held != 0 {
		t.Errorf("%d wait", a.Held)
	}
	raw(t, r.path, "UPDATE backends SET weight = 3 WHERE id = 'row'")
	r.fold()
	if a := p.pull(r, 1<<20); a.Held > 0 || p.record("row").Cell("weight").Value != crdt.IntValue(3) {
		t.Errorf("the later write waits: %+v", p.record("row"))
	}
}
