package sqlite

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// pop is a store that replicates, with what its caller keeps beside it.
type pop struct {
	*Store
	t    testing.TB
	life Life
	now  func() int64

	untimed func() bool
	heard   func() bool
	span    func() int64
}

func wall() int64 { return time.Now().UnixMilli() }

// newPop opens a file and replicates it as a node's.
func newPop(t *testing.T, path, node string) *pop {
	t.Helper()
	p := &pop{Store: openStore(t, path), t: t, life: Life{Node: node}, now: wall}
	p.begin()
	return p
}

// begin replicates, as at a start.
func (p *pop) begin() Begun {
	p.t.Helper()
	begun, err := p.Replicate(p.t.Context(), Replication{
		Life: p.life,
		Save: func(l Life) error { p.life = l; return nil },
		Now:  func() int64 { return p.now() }, Untimed: p.untimed, Heard: p.heard, Span: p.span,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return begun
}

// fold seals all there is and returns the records.
func (p *pop) fold() (records []crdt.Record) {
	p.t.Helper()
	for {
		d, err := p.Fold(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		if len(d.Ranges) == 0 {
			return records
		}
		records = append(records, d.Records...)
	}
}

// pull takes from another all that is missing here, in small parts.
func (p *pop) pull(from *pop, limit int) (a crdt.Applied) {
	p.t.Helper()
	for more := true; more; {
		heads, err := p.Heads(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		var d crdt.Delta
		if d, more, err = from.Since(p.t.Context(), heads, limit); err != nil {
			p.t.Fatal(err)
		}
		d.Declared = map[string]bool{}
		for _, table := range from.Tables() {
			d.Declared[table] = true
		}
		got, err := p.Apply(p.t.Context(), from.life.Node, d)
		if err != nil {
			p.t.Fatal(err)
		}
		a.Changed = append(a.Changed, got.Changed...)
		a.Refused = append(a.Refused, got.Refused...)
		a.Conflicts, a.Held = a.Conflicts+got.Conflicts, a.Held+got.Held
	}
	return a
}

func (p *pop) digest() Digest {
	p.t.Helper()
	d, err := p.Digest(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *pop) check() Findings {
	p.t.Helper()
	f, err := p.Check(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// rows are the operator's tables as text, in the order of ids.
func (p *pop) table() string {
	p.t.Helper()
	img, err := p.Read(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	var lines []string
	for _, row := range append(img.Backends, img.BackendOptions...) {
		lines = append(lines, fmt.Sprintf("%d %#v", len(row), row))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// all are the records, by key.
func (p *pop) all() map[crdt.Key]crdt.Record {
	p.t.Helper()
	buckets := make([]int, crdt.Buckets)
	for i := range buckets {
		buckets[i] = i
	}
	records, err := p.Bucket(p.t.Context(), buckets)
	if err != nil {
		p.t.Fatal(err)
	}
	all := map[crdt.Key]crdt.Record{}
	for _, rec := range records {
		all[rec.Key] = rec
	}
	return all
}

func (p *pop) record(id string) crdt.Record { return p.all()[backend(id)] }

func backend(id string) crdt.Key {
	return crdt.Key{Table: "backends", PK: crdt.PK(crdt.TextValue(id))}
}

// agree fails unless the stores hold the same, in tables, records and digests.
func agree(t testing.TB, a, b *pop) {
	t.Helper()
	if x, y := a.table(), b.table(); x != y {
		t.Fatalf("%s and %s have different tables:\n%s\n--\n%s", a.life.Node, b.life.Node, x, y)
	}
	x, y := a.all(), b.all()
	for key, rec := range x {
		if !rec.Equal(y[key]) {
			t.Fatalf("%s: %v\n%v", key, rec, y[key])
		}
	}
	if len(x) != len(y) || a.digest().Sum != b.digest().Sum {
		t.Fatalf("%d and %d records, digests %v %v", len(x), len(y), a.digest(), b.digest())
	}
	s, err := a.States(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	u, err := b.States(t.Context(), nil)
	if err != nil || !slices.Equal(s, u) {
		t.Fatalf("different states, %v", err)
	}
}

// stamped names the columns of the records that have the newest stamp, and
// says † for a delete.
func stamped(records []crdt.Record) string {
	var all []string
	for _, rec := range records {
		id, _ := idOf(rec.Key)
		line := fmt.Sprint(id.Any())
		if !rec.Live() {
			line += " †"
		} else {
			for _, c := range rec.Cells {
				if c.Stamp == rec.Newest() {
					line += " " + c.Column
				}
			}
		}
		all = append(all, line)
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// TestLittleFirst: one row of an origin does not wait for the thousands of
// another, whatever their names.
func TestLittleFirst(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	for _, o := range []struct {
		node string
		rows uint64
	}{{"a", 500}, {"m", 1}, {"z", 500}} {
		origin := crdt.Origin{Node: o.node, Epoch: 1}
		d := crdt.Delta{Ranges: []crdt.Range{{Origin: origin, To: o.rows}}}
		for n := range o.rows {
			rec := typical(origin, n+1, 2)
			rec.Key = backend(fmt.Sprintf("%s-%d", o.node, n))
			d.Records = append(d.Records, rec)
		}
		if _, err := p.Apply(t.Context(), o.node, d); err != nil {
			t.Fatal(err)
		}
	}
	part, more, err := p.Since(t.Context(), crdt.Heads{}, 4<<10)
	if err != nil || !more {
		t.Fatal(more, err)
	}
	if !slices.ContainsFunc(part.Records, func(r crdt.Record) bool { return r.Key == backend("m-0") }) {
		t.Errorf("not in the first part, of %v", part.Ranges)
	}
}
