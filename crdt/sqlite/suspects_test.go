package sqlite

import (
	"errors"
	"slices"
	"testing"

	"github.com/edgeproxy/edgeproxy/crdt"
	"pgregory.net/rapid"
)

// TestCulprit: a process that ends in the middle of applying some records
// applies them one by one when it is back; the one at which it ends again stays
// out, by name, and nothing else does; until its row is written anew.
func TestCulprit(t *testing.T) {
	from := newPop(t, newPath(t), "us")
	put(t, from.Store, "a", "b", "c", "d", "e")
	from.fold()
	path := newPath(t)
	p := newPop(t, path, "sa")

	// crash ends the life of the process in the n-th transaction of a pull.
	crash := func(n int) {
		t.Helper()
		before := p.now
		p.now = func() int64 {
			said := suspects{crashes: map[uint64]uint32{}}
			if len(said.parse(p.replica.suspects.buf)) > 0 { // asked for once in each transaction, at least
				if n--; n <= 0 {
					panic("crash")
				}
			}
			return before()
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Fatal("there was nothing to crash in")
				}
			}()
			p.pull(from, 1<<20)
		}()
		p.now = before
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p.Store = openStore(t, path)
	}

	crash(1) // in all five at once
	if begun := p.begin(); begun.Crashed != 5 {
		t.Errorf("%d records were being applied, want 5", begun.Crashed)
	}
	crash(6) // one by one, each transaction asks twice: in the third of them
	if begun := p.begin(); begun.Crashed != 1 {
		t.Errorf("%d record was being applied, want 1", begun.Crashed)
	}
	a := p.pull(from, 1<<20)
	if len(a.Refused) != 1 || !errors.Is(a.Refused[0].Err, errCulprit) {
		t.Fatalf("refused %v", a.Refused)
	}
	culprit := a.Refused[0].Key
	rows := p.all()
	for key := range from.all() {
		if _, here := rows[key]; here == (key == culprit) {
			t.Errorf("%s is here: %t; %s is to stay out", key, here, culprit)
		}
	}
	if begun := func() Begun { p.Close(); p.Store = openStore(t, path); return p.begin() }(); begun.Crashed != 0 {
		t.Errorf("%d records after an apply that went well", begun.Crashed)
	}
	raw(t, from.path, "UPDATE backends SET weight = 9")
	from.fold()
	if a := p.pull(from, 1<<20); len(a.Refused) > 0 {
		t.Errorf("written anew, and refused: %v", a.Refused)
	}
	agree(t, from, p)
}

// TestSuspectsFile: whatever is in the file, it is read without harm, and what
// was written is read back.
func TestSuspectsFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "content")
		s := &suspects{crashes: map[uint64]uint32{}}
		s.parse(b)
	})
	path := newPath(t)
	s, found, err := openSuspects(path)
	if err != nil || found != 0 {
		t.Fatal(found, err)
	}
	var records []crdt.Record
	for _, id := range []string{"a", "b", "c"} {
		records = append(records, crdt.Record{Key: backend(id)})
	}
	s.begin(records)
	for n, want := range []int{3, 0} {
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		if s, found, err = openSuspects(path); err != nil || found != want || len(s.crashes) != 3 {
			t.Fatalf("start %d: %d found, %v, %v", n, found, s.crashes, err)
		}
	}
	if n := s.next(records); n != 1 {
		t.Errorf("%d at once", n)
	}
	other := slices.Insert(slices.Clone(records), 0, crdt.Record{Key: backend("x")}, crdt.Record{Key: backend("y")})
	if n := s.next(other); n != 2 {
		t.Errorf("%d at once, before the first suspect", n)
	}
	s.done(records)
	if n := s.next(records); n != 3 {
		t.Errorf("%d at once, when all are cleared", n)
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
}
