package sqlite

import (
	"os/exec"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
)

const everyColumn = "app deleted hard_limit healthy port region soft_limit weight wg_ip"

// TestCapture: what any process writes, and only that, is sealed.
func TestCapture(t *testing.T) {
	for _, c := range []struct{ name, statements, want string }{
		{"insert", "INSERT INTO backends VALUES ('d','x','sa','10.0.0.1',1,1,1,1,1,0)", "d " + everyColumn},
		{"insert of some columns", "INSERT INTO backends (id, port) VALUES ('d', 1)", "d " + everyColumn},
		{"several rows in one transaction", "BEGIN; INSERT INTO backends (id) VALUES ('d'), ('e'); UPDATE backends SET port = 9 WHERE id = 'a'; COMMIT", "a port; d " + everyColumn + "; e " + everyColumn},
		{"insert or replace of a row", "INSERT OR REPLACE INTO backends (id, port) VALUES ('a', 1)", "a " + everyColumn},
		{"replace with recursive triggers", "PRAGMA recursive_triggers = 1; REPLACE INTO backends (id, port) VALUES ('a', 1)", "a " + everyColumn},
		{"insert or ignore of a row", "INSERT OR IGNORE INTO backends (id, port) VALUES ('a', 1), ('d', 2)", "d " + everyColumn},
		{"upsert", "INSERT INTO backends (id, port) VALUES ('a', 7) ON CONFLICT (id) DO UPDATE SET port = excluded.port", "a port"},
		{"update", "UPDATE backends SET weight = weight + 1 WHERE id < 'c'", "a weight; b weight"},
		{"update of two columns", "UPDATE backends SET port = 2, app = NULL WHERE id = 'a'", "a app port"},
		{"two updates", "UPDATE backends SET port = 2 WHERE id = 'a'; UPDATE backends SET weight = 9 WHERE id = 'a'", "a port weight"},
		{"update or ignore", "UPDATE OR IGNORE backends SET id = 'b', port = 5 WHERE id = 'a'; UPDATE OR IGNORE backends SET port = 6 WHERE id = 'c'", "c port"},
		{"update or replace", "UPDATE OR REPLACE backends SET id = 'b' WHERE id = 'a'", "a †; b " + everyColumn},
		{"update or fail", "UPDATE OR FAIL backends SET port = 6 WHERE id = 'c'", "c port"},
		{"update that changes nothing", "UPDATE backends SET weight = weight, app = app", ""},
		{"type that changes", "UPDATE backends SET app = x'01' WHERE id = 'a'", "a app"},
		{"delete", "DELETE FROM backends WHERE id = 'a'", "a †"},
		{"delete of all", "DELETE FROM backends", "a †; b †; c †"},
		{"delete and insert", "DELETE FROM backends WHERE id = 'a'; INSERT INTO backends (id) VALUES ('a')", "a " + everyColumn},
		{"insert and delete", "INSERT INTO backends (id) VALUES ('d'); DELETE FROM backends WHERE id = 'd'", ""},
		{"another id", "UPDATE backends SET id = 'd' WHERE id = 'a'", "a †; d " + everyColumn},
		{"no id", "INSERT INTO backends (id, port) VALUES (NULL, 1); UPDATE backends SET port = 2 WHERE id IS NULL; DELETE FROM backends WHERE id IS NULL", ""},
		{"an id for none", "INSERT INTO backends (id, port) VALUES (NULL, 1); UPDATE backends SET id = 'd' WHERE id IS NULL", "d " + everyColumn},
		{"no id any more", "UPDATE backends SET id = NULL WHERE id = 'a'", "a †"},
		{"rollback", "BEGIN; DELETE FROM backends; ROLLBACK", ""},
		{"the other table", "INSERT INTO backend_options (id, country, draining) VALUES ('a', 'BR', 0); UPDATE backend_options SET draining = 1", "a country draining health_check proxy_protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPop(t, newPath(t), "sa")
			elsewhere(t, p.path, "INSERT INTO backends VALUES ('a','x','sa','10.0.0.1',1,1,1,1,1,0), ('b','x','sa','10.0.0.1',1,1,1,1,1,0), ('c','x','sa','10.0.0.1',1,1,1,1,1,0)")
			if got := len(p.fold()); got != 3 {
				t.Fatalf("%d records", got)
			}
			elsewhere(t, p.path, c.statements)
			if got := stamped(p.fold()); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if f := p.check(); len(f.Restored)+len(f.Damaged)+f.Edited > 0 || f.TriggersRestored {
				t.Errorf("afterwards: %+v", f)
			}
			other := newPop(t, newPath(t), "us")
			other.pull(p, 300)
			raw(t, p.path, "DELETE FROM backends WHERE id IS NULL")
			agree(t, p, other)
		})
	}
}

// TestCaptureWhileDown: the triggers are in the file.
func TestCaptureWhileDown(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	put(t, p.Store, "a", "b")
	p.fold()
	epoch := p.life.Epoch
	for _, clean := range []bool{true, false} {
		if clean {
			if err := p.End(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		p.Store.Close()
		elsewhere(t, p.path, "UPDATE backends SET weight = coalesce(weight, 0) + 7 WHERE id = 'a'; DELETE FROM backends WHERE id = 'b'")
		p.Store = openStore(t, p.path)
		begun := p.begin()
		if begun.NewEpoch == clean {
			t.Errorf("clean end %v, yet %+v", clean, begun)
		}
		if want := map[bool]int{true: 2, false: 1}[clean]; begun.Edited != want {
			t.Errorf("%+v, want %d edited", begun, want)
		}
	}
	if p.life.Epoch <= epoch {
		t.Errorf("epoch %d after %d", p.life.Epoch, epoch)
	}
	if rec := p.record("a"); rec.Cell("weight").Value != crdt.IntValue(14) {
		t.Errorf("record %v", rec)
	}
}

// TestCaptureTimes: an edit counts from when it was made, on mesh time, and
// never from a time that is to come.
func TestCaptureTimes(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	p.now = func() int64 { return 5_000_000 } // a mesh that is not at our clock's time
	begun := time.Now()
	raw(t, p.path, "INSERT INTO backends (id) VALUES ('past'), ('now'), ('future')",
		"UPDATE crdt_inbox SET at = at - 1.0 / 1440 WHERE pk = 'past'", "UPDATE crdt_inbox SET at = at + 3 WHERE pk = 'future'")
	p.fold()
	took := time.Since(begun).Milliseconds()
	for id, want := range map[string]int64{"now": 5_000_000, "past": 4_940_000, "future": 5_000_000} {
		if got := p.record(id).Latest().Milli(); got > want+5 || got < want-took-5 {
			t.Errorf("%s: stamped %d, want %d", id, got, want)
		}
	}
}

// TestCaptureOfAddedColumns: columns that the operator added travel, also to
// POPs that have none, and through them.
func TestCaptureOfAddedColumns(t *testing.T) {
	a, b, c := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us"), newPop(t, newPath(t), "eu")
	put(t, a.Store, "x", "y")
	a.fold()
	b.pull(a, 1000)
	elsewhere(t, a.path, "ALTER TABLE backends ADD COLUMN country TEXT DEFAULT 'ZZ'; UPDATE backends SET country = 'BR' WHERE id = 'x'")
	elsewhere(t, a.path, "INSERT INTO backends VALUES ('z','x','sa','10.0.0.1',1,1,1,1,1,0,'US')")
	if f := a.check(); f.TriggersRestored {
		t.Errorf("%+v", f)
	}
	if got := stamped(a.fold()); got != "x country; z country" {
		t.Errorf("sealed %q", got)
	}
	elsewhere(t, a.path, "UPDATE backends SET country = 'AR' WHERE id = 'z'")
	a.fold()
	b.pull(a, 1000)
	c.pull(b, 1000)
	for _, p := range []*pop{a, b, c} {
		for id, want := range map[string]string{"x": "BR", "z": "AR"} {
			if got := p.record(id).Cell("country").Value; got != crdt.TextValue(want) {
				t.Errorf("%s has %s of %v", p.life.Node, id, got)
			}
		}
	}
	if a.digest().Sum != c.digest().Sum {
		t.Error("different digests")
	}
	// A POP that adds the column later shows what it knows.
	elsewhere(t, c.path, "ALTER TABLE backends ADD COLUMN country TEXT DEFAULT 'ZZ'")
	if f := c.check(); f.Edited != 0 {
		t.Errorf("%+v", f)
	}
	if got := cell(t, c.path, "SELECT group_concat(id || country, ' ') FROM backends ORDER BY id"); got != "xBR yZZ zAR" {
		t.Errorf("countries %q", got)
	}
	if len(c.fold()) != 0 {
		t.Error("adding a column stamped something")
	}
}

// TestUnfit rows stay local, by name, until they are records again.
func TestUnfit(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, "a", "b")
	p.fold()
	elsewhere(t, p.path, "UPDATE backends SET app = printf('%.*c', 40000, 'x'), weight = 5 WHERE id = 'a'; INSERT INTO backends (id) VALUES (CAST(x'ff41' AS TEXT)); UPDATE backends SET weight = 3 WHERE id = 'b'")
	if got := stamped(p.fold()); got != "b weight" {
		t.Errorf("sealed %q", got)
	}
	if f := p.check(); len(f.Unfit) != 2 || len(f.Restored) > 0 {
		t.Errorf("%+v", f)
	}
	elsewhere(t, p.path, "UPDATE backends SET app = 'short' WHERE id = 'a'; DELETE FROM backends WHERE id NOT IN ('a', 'b')")
	if got := stamped(p.fold()); got != "a app weight" {
		t.Errorf("sealed %q", got)
	}
	if f := p.check(); len(f.Unfit) != 0 {
		t.Errorf("%+v", f)
	}
	q.pull(p, 100)
	agree(t, p, q)
}

// TestDumpAndRead: a file that was dumped and read in again captures on.
func TestDumpAndRead(t *testing.T) {
	cli, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 here")
	}
	p := newPop(t, newPath(t), "sa")
	put(t, p.Store, "a", "b")
	p.fold()
	begun := p.restart(t, true, func() {
		shell(t, `"$1" "$2" .dump | "$1" "$2.new" && "$1" "$2.new" "UPDATE backends SET port = 3 WHERE id = 'a'" && mv "$2.new" "$2"`, cli, p.path)
	})
	if begun.Edited != 1 || begun.TriggersRestored {
		t.Errorf("%+v", begun)
	}
	if f := p.check(); len(f.Restored)+len(f.Damaged)+f.Edited > 0 {
		t.Errorf("%+v", f)
	}
	q := newPop(t, newPath(t), "us")
	q.pull(p, 100)
	agree(t, p, q)
}
