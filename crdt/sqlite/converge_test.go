package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
	"pgregory.net/rapid"
)

// gossipStore is what gossip wants of a store.
type gossipStore interface {
	Heads(ctx context.Context) (crdt.Heads, error)
	Horizon(ctx context.Context) (crdt.Heads, error)
	Since(ctx context.Context, have crdt.Heads, limit int) (part crdt.Delta, more bool, err error)
	Apply(ctx context.Context, peer string, d crdt.Delta) (crdt.Applied, error)
	States(ctx context.Context, horizon crdt.Heads) ([]crdt.Sum, error)
	Bucket(ctx context.Context, buckets []int) ([]crdt.Record, error)
	Purge(ctx context.Context, peer crdt.Heads, has func(crdt.Key) bool) (purged int, err error)
}

var _ gossipStore = (*Store)(nil)

// TestConcurrentColumns: two POPs write one row; each column's later write stays.
func TestConcurrentColumns(t *testing.T) {
	a, b := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, a.Store, "x")
	a.fold()
	b.pull(a, 1000)
	raw(t, a.path, "UPDATE backends SET weight = 5, port = 1 WHERE id = 'x'")
	a.fold()
	raw(t, b.path, "UPDATE backends SET deleted = 1, port = 2 WHERE id = 'x'")
	b.fold()
	b.pull(a, 1000)
	if got := a.pull(b, 1000); got.Conflicts != 0 || len(got.Changed) != 1 { // b has merged by now
		t.Errorf("%+v", got)
	}
	agree(t, a, b)
	if got := cell(t, a.path, "SELECT weight || ' ' || port || ' ' || deleted FROM backends"); got != "5 2 1" {
		t.Errorf("weight, port, deleted: %s", got)
	}
	// Both owners' numbers find the row.
	for _, p := range []*pop{a, b} {
		for o, head := range crdt.Heads(must(a.Heads(t.Context()))) {
			have := must(a.Heads(t.Context()))
			have[o] = head - 1
			d, more, err := p.Since(t.Context(), have, 1000)
			if err != nil || more || len(d.Records) != 1 || len(d.Ranges) != 1 {
				t.Errorf("%s lacks %s above %d: %+v %v %v", p.life.Node, o, head-1, d, more, err)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestDeleteAgainstUpdate: the later one wins, and an update after a delete
// brings back all of the row.
func TestDeleteAgainstUpdate(t *testing.T) {
	for _, deleteLast := range []bool{false, true} {
		a, b := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
		raw(t, a.path, "INSERT INTO backends VALUES ('x','app','sa','10.0.0.1',1,1,1,1,1,0)")
		a.fold()
		b.pull(a, 1000)
		now := wall()
		a.now, b.now = func() int64 { return now }, func() int64 { return now + 10 }
		if deleteLast {
			a.now, b.now = b.now, a.now
		}
		// A captured change of the future has no age, so that only now tells the two apart.
		raw(t, a.path, "DELETE FROM backends", "UPDATE crdt_inbox SET at = julianday('now') + 1")
		raw(t, b.path, "UPDATE backends SET weight = 9", "UPDATE crdt_inbox SET at = julianday('now') + 1")
		a.fold()
		b.fold()
		a.pull(b, 1000)
		b.pull(a, 1000)
		agree(t, a, b)
		want := "x app sa 10.0.0.1 1 1 9 1 1 0"
		if deleteLast {
			want = ""
		}
		got := cell(t, a.path, "SELECT group_concat(concat_ws(' ', id, app, region, wg_ip, port, healthy, weight, soft_limit, hard_limit, deleted)) FROM backends")
		if got != want {
			t.Errorf("delete last %v: row %q, want %q", deleteLast, got, want)
		}
		if d := b.digest(); deleteLast != (d.Tombstones == 1) || deleteLast == (d.Rows == 1) {
			t.Errorf("digest %+v", d)
		}
	}
}

// TestRemoteRowsAreSeen by Read at once, and told by Poll.
func TestRemoteRowsAreSeen(t *testing.T) {
	a, b := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, a.Store, "x")
	a.fold()
	if _, err := b.Poll(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantPoll(t, b.Store, false)
	b.pull(a, 1000)
	wantIDs(t, b.Store, "x")
	wantPoll(t, b.Store, true)
	wantPoll(t, b.Store, false)
	if len(b.fold()) != 0 {
		t.Error("an applied row was captured")
	}
	settle(t, b.Store)
}

// TestApplySealsFirst: a local write that was not sealed yet is stamped before
// a remote one lands on it.
func TestApplySealsFirst(t *testing.T) {
	a, b := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, a.Store, "x")
	a.fold()
	b.pull(a, 1000)
	raw(t, a.path, "UPDATE backends SET weight = 1")
	a.fold()
	raw(t, b.path, "UPDATE backends SET weight = 2, port = 2")
	b.pull(a, 1000)
	if got := stamped(b.fold()); got != "x port weight" {
		t.Errorf("sealed %q", got)
	}
	a.pull(b, 1000)
	agree(t, a, b)
	if got := cell(t, a.path, "SELECT weight || ' ' || port FROM backends"); got != "2 2" {
		t.Errorf("weight, port: %s", got)
	}
}

// TestRefused records keep none of the others back.
func TestRefusedRecords(t *testing.T) {
	a := newPop(t, newPath(t), "sa")
	o := crdt.Origin{Node: "eu", Epoch: 1}
	cells := func(n uint64, names ...string) (cells []crdt.Cell) {
		for _, name := range names {
			cells = append(cells, crdt.Cell{Column: name, Value: crdt.IntValue(1), Stamp: crdt.Stamp{Time: 7, Origin: o, Seq: n}})
		}
		return cells
	}
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprintf("c%02d", i))
	}
	d := crdt.Delta{Ranges: []crdt.Range{{Origin: o, To: 7}}, Records: []crdt.Record{
		{Key: crdt.Key{Table: "secrets", PK: crdt.PK(crdt.TextValue("a"))}, Cells: cells(1, "port")},
		{Key: crdt.Key{Table: "backends", PK: crdt.PK(crdt.IntValue(1))}, Cells: cells(2, "port")},
		{Key: crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue("a"), crdt.TextValue("b"))}, Cells: cells(3, "port")},
		{Key: backend("wide"), Cells: cells(4, many...)},
		{Key: backend("long"), Cells: []crdt.Cell{{Column: "app", Value: crdt.TextValue(strings.Repeat("x", 40000)), Stamp: crdt.Stamp{Time: 7, Origin: o, Seq: 5}}}},
		{Key: backend("good"), Cells: cells(6, "port", "unknown")},
		{Key: backend("text"), Cells: []crdt.Cell{{Column: "port", Value: crdt.TextValue("12"), Stamp: crdt.Stamp{Time: 7, Origin: o, Seq: 7}}}},
	}}
	got, err := a.Apply(t.Context(), "eu", d)
	if err != nil || len(got.Refused) != 5 || len(got.Changed) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	wantIDs(t, a.Store, "good", "text")
	if heads := must(a.Heads(t.Context())); heads[o] != 7 {
		t.Errorf("heads %v", heads)
	}
	// What the table cannot show is passed on as it came.
	for _, rec := range d.Records[5:] {
		if got := a.all()[rec.Key]; !got.Equal(rec) {
			t.Errorf("%v came back as %v", rec, got)
		}
	}
	if f := a.check(); len(f.Restored)+len(f.Unshown) > 0 {
		t.Errorf("%+v", f)
	}
}

// TestConstraints of the operator's own keep a row out of the table, not out
// of the mesh.
func TestConstraints(t *testing.T) {
	path := newPath(t)
	raw(t, path, strings.Replace(seedTable, "port INTEGER", "port INTEGER CHECK (port > 0)", 1))
	a, b := newPop(t, newPath(t), "sa"), newPop(t, path, "us")
	raw(t, a.path, "INSERT INTO backends (id, port) VALUES ('x', 1), ('y', -1), ('z', 2)")
	a.fold()
	if got := b.pull(a, 100); len(got.Refused) != 0 {
		t.Errorf("%+v", got)
	}
	wantIDs(t, b.Store, "x", "z")
	if a.digest().Sum != b.digest().Sum {
		t.Error("different digests")
	}
	if f := b.check(); !slices.Equal(f.Unshown, []crdt.Key{backend("y")}) || len(f.Restored) != 0 {
		t.Errorf("%+v", f)
	}
}

// TestConvergence drives two files by random SQL and random exchanges, and a
// replica in memory by the same deltas; at the end all hold the same.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		dir := t.TempDir()
		now := int64(1_700_000_000_000)
		pops := make([]*pop, 2)
		for i, node := range []string{"sa", "us"} {
			s, err := open(t.Context(), filepath.Join(dir, fmt.Sprint(node, rand.Int64())), busyTimeout)
			if err != nil {
				r.Fatal(err)
			}
			defer s.Close()
			pops[i] = &pop{Store: s, t: t, life: Life{Node: node}, now: func() int64 { return now }}
			pops[i].begin()
		}
		memory := crdt.NewReplica(crdt.Origin{Node: "memory", Epoch: 1})
		id := rapid.SampledFrom([]string{"'a'", "'b'", "'c'"})
		column := rapid.SampledFrom([]string{"app", "port", "weight", "deleted"})
		value := rapid.SampledFrom([]string{"NULL", "0", "1", "'x'", "2.5", "x'00'"})
		var wire []crdt.Delta
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			i := rapid.IntRange(0, 1).Draw(r, "at")
			p, q := pops[i], pops[1-i]
			now += int64(rapid.IntRange(0, 1).Draw(r, "tick"))
			a, b := id.Draw(r, "id"), id.Draw(r, "other")
			c, d := column.Draw(r, "column"), column.Draw(r, "column")
			v, w := value.Draw(r, "value"), value.Draw(r, "value")
			statement := ""
			switch rapid.IntRange(0, 9).Draw(r, "what") {
			case 0:
				statement = fmt.Sprintf("INSERT OR REPLACE INTO backends (id, %s) VALUES (%s, %s)", c, a, v)
			case 1:
				statement = fmt.Sprintf("INSERT INTO backends (id, %s) VALUES (%s, %s) ON CONFLICT DO UPDATE SET %s = %s", c, a, v, d, w)
			case 2:
				statement = fmt.Sprintf("UPDATE backends SET %s = %s WHERE id = %s", c, v, a)
			case 3:
				statement = fmt.Sprintf("DELETE FROM backends WHERE id = %s", a)
			case 4:
				statement = fmt.Sprintf("UPDATE OR REPLACE backends SET id = %s, %s = %s WHERE id = %s", b, c, v, a)
			case 5:
				statement = fmt.Sprintf("INSERT OR IGNORE INTO backend_options (id, country) VALUES (%s, %s)", a, v)
			case 6:
				delta, err := p.Fold(t.Context())
				if err != nil {
					r.Fatal(err)
				}
				wire = append(wire, delta)
			case 7:
				delta, _, err := q.Since(t.Context(), must(p.Heads(t.Context())), rapid.IntRange(1, 300).Draw(r, "limit"))
				if err != nil {
					r.Fatal(err)
				}
				wire = append(wire, delta)
				must(p.Apply(t.Context(), "peer", delta))
			case 8:
				if len(wire) > 0 { // late, or twice
					must(p.Apply(t.Context(), "peer", rapid.SampledFrom(wire).Draw(r, "late")))
				}
			case 9:
				must(p.Apply(t.Context(), "memory", memory.Write(backend(strings.Trim(a, "'")), crdt.At(now), map[string]crdt.Value{"port": crdt.IntValue(99), "newer": crdt.TextValue("?")})))
			}
			if statement != "" {
				db, err := sql.Open(Driver, uri(p.path, "rw"))
				if err != nil {
					r.Fatal(err)
				}
				if _, err := db.Exec(statement); err != nil {
					r.Fatalf("%s: %v", statement, err)
				}
				db.Close()
			}
		}
		for range 2 {
			for i, p := range pops {
				p.fold()
				p.pull(pops[1-i], 200)
				for more := true; more; {
					var d crdt.Delta
					d, more = memory.Since(must(p.Heads(t.Context())), 100)
					must(p.Apply(t.Context(), "memory", d))
				}
				for more := true; more; {
					var d crdt.Delta
					var err error
					if d, more, err = p.Since(t.Context(), memory.Heads(), 100); err != nil {
						r.Fatal(err)
					}
					memory.Apply(d)
				}
			}
		}
		agree(t, pops[0], pops[1])
		for _, rec := range memory.Records() {
			if got := pops[0].all()[rec.Key]; !got.Equal(rec) {
				r.Fatalf("%v\nin memory %v", got, rec)
			}
		}
		if sums := must(pops[0].States(t.Context(), nil)); pops[0].digest().Sum != memory.Digest() || !slices.Equal(sums, memory.States()) {
			r.Fatal("another digest than in memory")
		}
		for _, p := range pops {
			if f := p.check(); len(f.Restored)+len(f.Damaged)+len(f.Unshown)+f.Edited > 0 {
				r.Fatalf("%s: %+v", p.life.Node, f)
			}
		}
	})
}
