package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
	"pgregory.net/rapid"
)

// tomorrow is a table that a newer edgeproxy has, and colour a column.
var tomorrow = Table{Name: "tomorrow", Columns: []string{"id", "what", "much"}}

// newer opens files as an edgeproxy does that has them.
func newer(open func()) {
	tablesNow, schemaNow := tables, schema
	defer func() { tables, schema = tablesNow, schemaNow }()
	tables = append(slices.Clone(tables), tomorrow)
	tables[1].Columns = append(slices.Clone(tables[1].Columns), "colour")
	tables[1].added = append(slices.Clone(tables[1].added), addedColumn{"colour", "TEXT"})
	schema += "CREATE TABLE IF NOT EXISTS tomorrow (id TEXT PRIMARY KEY, what TEXT, much INTEGER);"
	open()
}

// newerPop is one that runs it.
func newerPop(t *testing.T, node string) (p *pop) {
	t.Helper()
	newer(func() { p = newPop(t, newPath(t), node) })
	return p
}

// upgrade ends a POP and has a newer one go on with its file.
func upgrade(t *testing.T, p *pop) (f Findings) {
	t.Helper()
	if err := errors.Join(p.End(t.Context()), p.Close()); err != nil {
		t.Fatal(err)
	}
	newer(func() {
		p.Store = openStore(t, p.path)
		p.begin()
		f = p.check()
	})
	return f
}

const tomorrows = "SELECT group_concat(id || '=' || ifnull(what, '') || '=' || ifnull(much, ''), ' ') FROM (SELECT * FROM tomorrow ORDER BY id)"
const colours = "SELECT group_concat(id || '=' || ifnull(country, '') || '=' || ifnull(colour, ''), ' ') FROM (SELECT * FROM backend_options ORDER BY id)"

// TestNewerPOPs: two POPs that have another table and another column agree
// through one that has neither and edits the same rows, whatever is written in
// whatever order; upgraded, it shows what they have.
func TestNewerPOPs(t *testing.T) {
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		if n++; testing.Short() && n > 3 || n > 10 { // each opens three files
			return
		}
		a, old, c := newerPop(t, "a"), newPop(t, newPath(t), "old"), newerPop(t, "c")
		exchange := func() {
			for _, pair := range [][2]*pop{{a, old}, {c, old}, {a, old}} {
				for _, p := range pair {
					p.fold()
				}
				pair[0].pull(pair[1], 300)
				if got := pair[1].pull(pair[0], 300); len(got.Refused) > 0 {
					r.Fatalf("%s refuses %v", pair[1].life.Node, got.Refused)
				}
			}
		}
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			id := fmt.Sprintf("row-%d", rapid.IntRange(0, 3).Draw(r, "row"))
			value := rapid.IntRange(0, 99).Draw(r, "value")
			from := rapid.SampledFrom([]*pop{a, c}).Draw(r, "from")
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				raw(t, from.path, fmt.Sprintf("INSERT INTO tomorrow VALUES ('%s', 'w', %d) ON CONFLICT (id) DO UPDATE SET much = excluded.much", id, value))
			case 1:
				raw(t, from.path, "DELETE FROM tomorrow WHERE id = '"+id+"'")
			case 2:
				raw(t, from.path, fmt.Sprintf("INSERT INTO backend_options (id, colour) VALUES ('%s', 'c%d') ON CONFLICT (id) DO UPDATE SET colour = excluded.colour", id, value))
			case 3:
				raw(t, old.path, fmt.Sprintf("INSERT INTO backend_options (id, country) VALUES ('%s', 'B%d') ON CONFLICT (id) DO UPDATE SET country = excluded.country", id, value))
			case 4:
				exchange()
			}
		}
		exchange()
		rows, options := cell(t, a.path, tomorrows), cell(t, a.path, colours)
		if got := cell(t, c.path, tomorrows); got != rows {
			r.Fatalf("through the older one %q became %q", rows, got)
		}
		if got := cell(t, c.path, colours); got != options {
			r.Fatalf("through the older one %q became %q", options, got)
		}
		if d, e := a.digest(), old.digest(); d.Sum != e.Sum {
			r.Fatalf("the older one prints %v, the newer %v", e, d)
		}
		if f := upgrade(t, old); len(f.Restored) > 0 || f.Edited > 0 {
			r.Fatalf("upgraded: %+v", f)
		}
		if records := old.fold(); len(records) > 0 {
			r.Fatalf("the upgrade writes %s", stamped(records))
		}
		if got := cell(t, old.path, tomorrows); got != rows {
			r.Fatalf("upgraded it shows %q, want %q", got, rows)
		}
		if got := cell(t, old.path, colours); got != options {
			r.Fatalf("upgraded it shows %q, want %q", got, options)
		}
	})
}

// foreign is a record of a table that nobody here knows.
func foreign(table, id string, seq uint64, size int) crdt.Record {
	key := crdt.Key{Table: table, PK: crdt.PK(crdt.TextValue(id), crdt.IntValue(int64(seq)))} // of two columns, and why not
	return crdt.Record{Key: key, Cells: []crdt.Cell{{Column: "x", Value: crdt.TextValue(strings.Repeat("x", size)),
		Stamp: crdt.Stamp{Time: crdt.At(wall()), Origin: crdt.Origin{Node: "new", Epoch: 1}, Seq: seq}}}}
}

// TestForeignIsBounded: what is kept for others has a limit of bytes and of
// tables, and says so by name; what nobody declared is refused.
func TestForeignIsBounded(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	apply := func(declared bool, records ...crdt.Record) crdt.Applied {
		t.Helper()
		d := crdt.Delta{Records: records, Declared: map[string]bool{}}
		for _, rec := range records {
			d.Declared[rec.Table] = declared
		}
		a, err := p.Apply(t.Context(), "new", d)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := apply(false, foreign("strange", "a", 1, 10)); len(a.Refused) != 1 || !strings.Contains(a.Refused[0].Error(), `there is no table "strange" here`) {
		t.Fatalf("undeclared: %+v", a)
	}
	for i := range maxForeignTables + 10 {
		// A row of ours beside it takes no table's place.
		a := apply(true, typical(crdt.Origin{Node: "new", Epoch: 1}, uint64(500+i), 1), foreign(fmt.Sprintf("table-%d", i), "a", uint64(i+1), 10))
		if full := i >= maxForeignTables; full != (len(a.Refused) == 1) || full && !strings.Contains(a.Refused[0].Error(), "64 others") {
			t.Fatalf("table %d: %+v", i, a.Refused)
		}
	}
	if got := len(p.Tables()); got != len(tables)+maxForeignTables {
		t.Errorf("%d tables are declared", got)
	}
	const size = 30 << 10
	taken, r := 0, rand.New(rand.NewPCG(1, 2))
	for seq := uint64(1000); ; seq += 100 {
		var records []crdt.Record
		for i := range uint64(100) {
			records = append(records, foreign(fmt.Sprintf("table-%d", r.IntN(5)), "big", seq+i, size))
		}
		a := apply(true, records...)
		if taken += 100 - len(a.Refused); len(a.Refused) > 0 {
			if !strings.Contains(a.Refused[0].Error(), "MiB are kept") {
				t.Fatal(a.Refused[0])
			}
			break
		}
		if taken*size > 2*maxForeign {
			t.Fatalf("%d MiB were taken", taken*size>>20)
		}
	}
	if taken*size < maxForeign/2 {
		t.Errorf("only %d MiB were taken", taken*size>>20)
	}
	// What is kept goes on being written and deleted: else it would come back from here.
	gone := foreign("table-0", "a", 1, 10)
	gone.Dead = crdt.Stamp{Time: gone.Latest() + 1, Origin: gone.Cells[0].Stamp.Origin, Seq: 1 << 40}
	if a := apply(true, gone); len(a.Refused) > 0 || len(a.Changed) != 1 {
		t.Errorf("deleted where there is no more room: %+v", a)
	}
	put(t, p.Store, "row") // ours are not concerned
	if got := stamped(p.fold()); !strings.HasPrefix(got, "row ") {
		t.Errorf("sealed %q", got)
	}
}

// TestForeignKeysWithoutARow: what was kept for a table may have keys that its
// rows cannot have. The upgraded POP starts all the same, and leaves them out.
func TestForeignKeysWithoutARow(t *testing.T) {
	old := newPop(t, newPath(t), "old")
	strange := foreign("tomorrow", "a", 1, 10)
	a, err := old.Apply(t.Context(), "new", crdt.Delta{Records: []crdt.Record{strange}, Declared: map[string]bool{"tomorrow": true}})
	if err != nil || len(a.Changed) != 1 {
		t.Fatal(a, err)
	}
	upgrade(t, old)
	if got := cell(t, old.path, "SELECT count(*) FROM tomorrow"); got != "0" {
		t.Errorf("%s rows", got)
	}
}
