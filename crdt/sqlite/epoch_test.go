package sqlite

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
)

// copied copies the whole of a database that is not being written.
func copied(t *testing.T, from, to string) {
	t.Helper()
	elsewhere(t, from, "PRAGMA wal_checkpoint(TRUNCATE)")
	shell(t, `cp "$1" "$2"`, from, to)
}

// restart closes the store, does something to its file and begins again.
func (p *pop) restart(t *testing.T, clean bool, between func()) Begun {
	t.Helper()
	if clean {
		if err := p.End(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	between()
	p.Store = openStore(t, p.path)
	return p.begin()
}

// TestEpochs: a file that is not the one that was left begins a new epoch, so
// that no number is used twice; the one that was left goes on.
func TestEpochs(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, p *pop) Begun
		expect string
	}{
		{"clean end", func(t *testing.T, p *pop) Begun { return p.restart(t, true, func() {}) }, ""},
		{"clean end, twice", func(t *testing.T, p *pop) Begun {
			p.restart(t, true, func() {})
			return p.restart(t, true, func() {})
		}, ""},
		{"killed, nothing sealed since the start", func(t *testing.T, p *pop) Begun {
			p.restart(t, true, func() {})
			return p.restart(t, false, func() {})
		}, ""},
		{"killed after writes", func(t *testing.T, p *pop) Begun { return p.restart(t, false, func() {}) }, "not clean"},
		{"backup of this life, killed, restored", func(t *testing.T, p *pop) Begun {
			copied(t, p.path, p.path+".copy")
			put(t, p.Store, "later")
			p.fold()
			return p.restart(t, false, func() { rename(t, p.path+".copy", p.path) })
		}, "not clean"},
		{"backup of this life, clean end, restored", func(t *testing.T, p *pop) Begun {
			copied(t, p.path, p.path+".copy")
			return p.restart(t, true, func() { rename(t, p.path+".copy", p.path) })
		}, "copy or a backup"},
		{"copy at rest, started, restored", func(t *testing.T, p *pop) Begun {
			p.restart(t, true, func() { shell(t, `cp "$1" "$1".copy`, p.path) })
			return p.restart(t, true, func() { rename(t, p.path+".copy", p.path) })
		}, "copy or a backup"},
		{"another POP's file", func(t *testing.T, p *pop) Begun {
			return p.restart(t, true, func() {
				q := newPop(t, newPath(t), "us")
				copied(t, q.path, p.path)
			})
		}, "written by us"},
		{"life was lost", func(t *testing.T, p *pop) Begun {
			return p.restart(t, true, func() { p.life = Life{Node: "sa"} })
		}, "copy or a backup"},
		{"file was lost", func(t *testing.T, p *pop) Begun {
			return p.restart(t, true, func() { shell(t, `rm "$1"`, p.path) })
		}, "no records"},
		{"both were lost", func(t *testing.T, p *pop) Begun {
			p.now = func() int64 { return wall() + 2000 }
			return p.restart(t, true, func() {
				shell(t, `rm "$1"`, p.path)
				p.life = Life{Node: "sa"}
			})
		}, "first start"},
		{"backup command", func(t *testing.T, p *pop) Begun {
			if err := p.Backup(t.Context(), p.path+".backup"); err != nil {
				t.Fatal(err)
			}
			return p.restart(t, true, func() { rename(t, p.path+".backup", p.path) })
		}, "copy or a backup"},
		{"moved over by a backup", func(t *testing.T, p *pop) Begun {
			copied(t, p.path, p.path+".copy")
			put(t, p.Store, "later")
			p.fold()
			rename(t, p.path+".copy", p.path)
			p.fold()
			begun, _ := p.Rebegun()
			return begun
		}, "copy or a backup"},
		{"restored in place", func(t *testing.T, p *pop) Begun {
			copied(t, p.path, p.path+".copy")
			put(t, p.Store, "later")
			p.fold()
			elsewhere(t, p.path, "ATTACH '"+p.path+".copy' AS old; UPDATE crdt_control SET version = (SELECT version FROM old.crdt_control)")
			p.fold()
			begun, _ := p.Rebegun()
			return begun
		}, "copy or a backup"},
		{"moved away and back", func(t *testing.T, p *pop) Begun {
			rename(t, p.path, p.path+".away")
			if _, err := p.Fold(t.Context()); err == nil {
				t.Error("sealed into a file that is gone")
			}
			rename(t, p.path+".away", p.path)
			p.fold()
			begun, _ := p.Rebegun()
			return begun
		}, ""},
		{"a peer knows more of us", func(t *testing.T, p *pop) Begun {
			o := must(p.Origin(t.Context()))
			must(p.Apply(t.Context(), "us", crdt.Delta{Ranges: []crdt.Range{{Origin: o, To: 50}}}))
			begun, _ := p.Rebegun()
			return begun
		}, "a peer has writes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPop(t, newPath(t), "sa")
			q := newPop(t, newPath(t), "eu") // has seen all that p sent
			q.now = func() int64 { return wall() + 2000 }
			put(t, p.Store, "a", "b")
			p.fold()
			q.pull(p, 1000)
			before := p.life.Epoch
			begun := c.do(t, p)
			if begun.NewEpoch != (c.expect != "") || !strings.Contains(begun.Why, c.expect) {
				t.Errorf("%+v, want %q", begun, c.expect)
			}
			if (p.life.Epoch > before) != begun.NewEpoch {
				t.Errorf("epoch %d after %d", p.life.Epoch, before)
			}
			put(t, p.Store, "c")
			p.fold()
			q.pull(p, 1000)
			p.pull(q, 1000)
			agree(t, p, q)
		})
	}
}

// TestAdoption: rows of a file by hand count as written before all others.
func TestAdoption(t *testing.T) {
	mesh := newPop(t, newPath(t), "us")
	put(t, mesh.Store, "sa-node-1")
	raw(t, mesh.path, "UPDATE backends SET weight = 77 WHERE id = 'sa-node-1'")
	mesh.fold()
	path := newPath(t)
	raw(t, path, seedTable, seedRows)
	p := &pop{Store: openStore(t, path), t: t, life: Life{Node: "sa"}, now: wall}
	begun := p.begin()
	if begun.Adopted != 3 || begun.Edited != 0 || !begun.NewEpoch {
		t.Errorf("%+v", begun)
	}
	if rec := p.record("us-node-1"); rec.Newest().Time != crdt.Floor || len(rec.Cells) != 9 {
		t.Errorf("%v", rec)
	}
	p.pull(mesh, 1000)
	mesh.pull(p, 1000)
	agree(t, p, mesh)
	if got := cell(t, p.path, "SELECT weight FROM backends WHERE id = 'sa-node-1'"); got != "77" {
		t.Errorf("weight %s", got)
	}
	p.fold()
	// A write to an adopted row stamps its column only.
	raw(t, p.path, "UPDATE backends SET weight = 3 WHERE id = 'eu-node-1'")
	if got := stamped(p.fold()); got != "eu-node-1 weight" {
		t.Errorf("sealed %q", got)
	}
}

// TestReplacedByHand: in a file that edgeproxy did not write, what differs is
// written now, and what is missing comes back.
func TestReplacedByHand(t *testing.T) {
	for _, inPlace := range []bool{false, true} {
		t.Run(fmt.Sprint("in place ", inPlace), func(t *testing.T) {
			p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
			raw(t, p.path, seedRows, "INSERT INTO backend_options (id, country, draining) VALUES ('x', 'BR', 0)")
			p.fold()
			raw(t, q.path, "INSERT INTO pop_keys VALUES ('us', 'key')")
			q.fold()
			q.pull(p, 1000)
			p.pull(q, 1000)
			settle(t, p.Store)
			next := p.path + ".new"
			raw(t, next, seedTable, strings.Replace(seedRows, "8080, 1, 2, 50, 100, 0),", "8080, 1, 9, 50, 100, 0),", 1),
				"DELETE FROM backends WHERE id = 'us-node-1'", "INSERT INTO backends (id) VALUES ('new')")
			if inPlace {
				shell(t, `cat "$1" > "$2"`, next, p.path)
			} else {
				rename(t, next, p.path)
			}
			noticed(t, p.Store)
			sealed := stamped(p.fold())
			begun, is := p.Rebegun()
			if !inPlace && (sealed != "new "+everyColumn+"; sa-node-1 weight" || begun.NewEpoch || begun.Restored != 3) {
				t.Errorf("sealed %q, %+v", sealed, begun)
			}
			if !is || inPlace != begun.NewEpoch {
				t.Errorf("%+v", begun)
			}
			p.pull(q, 1000)
			q.pull(p, 1000)
			agree(t, p, q)
			want := "sa-node-1 9, us-node-1 2, eu-node-1 2, new"
			if got := cell(t, q.path, "SELECT group_concat(concat_ws(' ', id, weight), ', ') FROM backends"); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if got := cell(t, p.path, "SELECT country FROM backend_options WHERE id = 'x'"); got != "BR" {
				t.Errorf("country %q", got)
			}
			if f := p.check(); len(f.Restored) > 0 || f.TriggersRestored {
				t.Errorf("%+v", f)
			}
		})
	}
}

// TestReplacedAlone: a POP that knows no other has nobody from whom a row
// could come back, so the new file is all there is.
func TestReplacedAlone(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	raw(t, p.path, seedRows)
	p.fold()
	settle(t, p.Store)
	next := p.path + ".new"
	raw(t, next, seedTable, "INSERT INTO backends (id) VALUES ('new')")
	rename(t, next, p.path)
	noticed(t, p.Store)
	p.fold()
	if got := cell(t, p.path, "SELECT group_concat(id) FROM backends"); got != "new" {
		t.Errorf("%q, want the new row only", got)
	}
	q := newPop(t, newPath(t), "us")
	q.pull(p, 1000)
	agree(t, p, q)
}

// TestTriggersGone: what differs was written meanwhile.
func TestTriggersGone(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	put(t, p.Store, "a", "b", "c")
	p.fold()
	elsewhere(t, p.path, "DROP TRIGGER crdt_backends_update; DROP TRIGGER crdt_backends_insert; DROP TRIGGER crdt_backends_delete; UPDATE backends SET port = 5 WHERE id = 'a'; DELETE FROM backends WHERE id = 'b'; INSERT INTO backends (id) VALUES ('d')")
	if f := p.check(); !f.TriggersRestored || f.Edited != 3 || len(f.Restored) != 0 {
		t.Errorf("%+v", f)
	}
	if got := stamped(p.fold()); got != "a port; b †; d "+everyColumn {
		t.Errorf("sealed %q", got)
	}
	elsewhere(t, p.path, "UPDATE backends SET port = 6 WHERE id = 'd'")
	if got := stamped(p.fold()); got != "d port" {
		t.Errorf("sealed %q", got)
	}
	if f := p.check(); f.TriggersRestored || f.Edited != 0 {
		t.Errorf("%+v", f)
	}
}

// TestReplacedWhileDown: in a POP that has lived, a file without records is
// somebody's word of now.
func TestReplacedWhileDown(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	raw(t, p.path, seedRows)
	p.fold()
	q.pull(p, 1000)
	begun := p.restart(t, true, func() {
		shell(t, `rm "$1"`, p.path)
		raw(t, p.path, seedTable, "INSERT INTO backends (id, weight) VALUES ('us-node-1', 9)")
	})
	if begun.Adopted != 0 || begun.Edited != 1 || !begun.NewEpoch {
		t.Errorf("%+v", begun)
	}
	p.pull(q, 1000)
	q.pull(p, 1000)
	agree(t, p, q)
	if got := cell(t, q.path, "SELECT group_concat(weight) FROM backends"); got != "2,9,2" {
		t.Errorf("weights %s", got)
	}
}

// TestFirstStartThatFails is still the first when it is tried again.
func TestFirstStartThatFails(t *testing.T) {
	path := newPath(t)
	raw(t, path, seedTable, seedRows)
	p := &pop{Store: openStore(t, path), t: t, life: Life{Node: "sa"}, now: wall}
	full := errors.New("no space")
	if _, err := p.Replicate(t.Context(), Replication{Life: p.life, Save: func(Life) error { return full }, Now: wall}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	p.begin()
	if rec := p.record("us-node-1"); rec.Newest().Time != crdt.Floor {
		t.Errorf("%v", rec)
	}
}

// TestReplicateReadOnly says so, and the store serves on.
func TestReplicateReadOnly(t *testing.T) {
	if os.Getuid() == 0 {
		// The superuser may write what he likes; a file system that is read-only he may not.
		t.Log("as the superuser: by the store's own word only")
	}
	s := openStore(t, newPath(t))
	put(t, s, "a")
	s.mu.Lock()
	s.readOnly = true
	s.mu.Unlock()
	_, err := s.Replicate(t.Context(), Replication{Life: Life{Node: "sa"}, Save: func(Life) error { return nil }, Now: wall})
	if !errors.Is(err, ErrReadOnly) {
		t.Errorf("%v", err)
	}
	wantIDs(t, s, "a")
	if _, err := s.Fold(t.Context()); err == nil {
		t.Error("sealed in a file that is read-only")
	}
}

// TestApplyOnAFullDisk: nothing is lost, and the next call goes on.
func TestApplyOnAFullDisk(t *testing.T) {
	p, q := newPop(t, newPath(t), "sa"), newPop(t, newPath(t), "us")
	put(t, p.Store, many("row", 200)...)
	raw(t, p.path, "UPDATE backends SET app = printf('%.*c', 2000, 'x')")
	q.now = func() int64 { return wall() }
	limit := func(pages int) {
		if _, err := q.writer.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	p.fold()
	limit(1) // the least that it takes is what the file has
	d, _, err := p.Since(t.Context(), nil, 1<<20)
	if err != nil || len(d.Records) != 200 {
		t.Fatal(len(d.Records), err)
	}
	before := must(q.Heads(t.Context()))
	if _, err := q.Apply(t.Context(), "sa", d); !errors.Is(err, ErrFull) {
		t.Errorf("%v", err)
	}
	elsewhere(t, q.path, "INSERT INTO backends (id) VALUES ('mine')")
	if got := must(q.Heads(t.Context())); len(got) != len(before) {
		t.Errorf("heads %v after %v", got, before)
	}
	limit(1 << 20)
	begun, is := q.Rebegun()
	if is {
		t.Errorf("a full disk began an epoch: %+v", begun)
	}
	q.pull(p, 1<<20)
	p.pull(q, 1<<20)
	q.fold()
	p.pull(q, 1<<20)
	agree(t, p, q)
}

// TestRestoreAsWritten: the copy's rows count as written now, also over what
// the mesh has that did not arrive here yet.
func TestRestoreAsWritten(t *testing.T) {
	p, q := newPop(t, newPath(t), "us"), newPop(t, newPath(t), "sa")
	raw(t, p.path, seedRows)
	p.fold()
	q.pull(p, 1000)
	backup := p.path + ".backup"
	if err := p.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	raw(t, q.path, "UPDATE backends SET weight = 9 WHERE id = 'us-node-1'")
	q.fold()
	if err := Restore(t.Context(), p.path, backup, true); err != nil {
		t.Fatal(err)
	}
	p.fold()
	p.pull(q, 1000)
	q.pull(p, 1000)
	agree(t, p, q)
	if got := cell(t, q.path, "SELECT weight FROM backends WHERE id = 'us-node-1'"); got != "2" {
		t.Errorf("weight %s, want the copy's", got)
	}
}
