package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// atRest is a database in which things were written, with what its caller
// keeps beside it, and what its tables show.
func atRest(t *testing.T, rows int) (image []byte, life Life, table string) {
	p := newPop(t, newPath(t), "sa")
	var all []string
	for i := range rows {
		all = append(all, fmt.Sprintf("sa-node-%d", i))
	}
	put(t, p.Store, all...)
	raw(t, p.path, "INSERT INTO backend_options (id, country) VALUES ('sa-node-1', 'BR')", "UPDATE backends SET app='myapp', wg_ip='10.50.1.1', port=8080, weight=2")
	p.fold()
	table = p.table()
	if err := errors.Join(p.End(t.Context()), p.Close()); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	return image, p.life, table
}

// TestBitFlips: a file in which a bit has changed is refused as damaged when it
// is opened, or holds what it held once it is checked. It never writes anything
// that nobody wrote.
func TestBitFlips(t *testing.T) {
	image, life, table := atRest(t, 30)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	kinds := map[string]int{}
	flip := func(at int, bit byte) {
		path := newPath(t)
		b := slices.Clone(image)
		b[at] ^= 1 << bit
		write(t, path, b)
		s, err := open(t.Context(), path, time.Second)
		switch {
		case errors.Is(err, ErrDamaged):
			kinds["refused"]++
			return
		case errors.Is(err, ErrNewer) && at < 100: // the number of the schema's version has no copy
			return
		case err != nil:
			t.Fatalf("byte %d, bit %d: %v", at, bit, err)
		}
		defer s.Close()
		if s.ReadOnly() && at < 100 { // by its header another program's
			return
		}
		q := &pop{Store: s, t: t, life: life, now: wall}
		begun, f := q.begin(), q.check()
		if begun.Edited+f.Edited > 0 || len(q.fold()) > 0 || q.table() != table {
			t.Errorf("byte %d, bit %d: %+v, %+v, table\n%s", at, bit, begun, f, q.table())
		}
		switch {
		case len(f.Restored) > 0:
			kinds["row set right"]++
		case len(f.Damaged) > 0:
			kinds["record named"]++
		default:
			kinds["nothing there"]++
		}
	}
	flip(47, 7) // the number of the tables' format, for which SQLite has an error of its own
	for range 6 {
		flip(r.IntN(len(image)), byte(r.IntN(8)))
	}
	// Most of a page is empty: so where the rows, their records and the schema are.
	for _, text := range []string{"10.50.1.1", "sa-node-7", "myapp", "crdt_backends_delete", "wg_ip TEXT", "panic_threshold INTEGER", "epoch INTEGER", `["app"`} {
		if at := strings.Index(string(image), text); at < 0 {
			t.Errorf("%q is not in the file", text)
		} else {
			flip(at+r.IntN(len(text)), byte(r.IntN(6)))
		}
	}
	t.Log(kinds)
}

// TestSoundToSQLite: what somebody's table has against its own constraints is no damage.
func TestSoundToSQLite(t *testing.T) {
	path := made(t, newPath(t), "a")
	raw(t, path, "CREATE TABLE notes (n INTEGER NOT NULL CHECK (n > 1))", "INSERT INTO notes VALUES (5)",
		"PRAGMA ignore_check_constraints = ON", "UPDATE notes SET n = 0")
	s := openStore(t, path)
	wantIDs(t, s, "a")
}

// TestMoveAside: the damaged file keeps its log and all its bytes under another
// name, through a link too, and a second one does not take the first one's.
func TestMoveAside(t *testing.T) {
	path := newPath(t)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 26, 5, 42, 0, 0, time.UTC)
	for _, want := range []string{path + ".20261126T054200Z.damaged", path + ".20261126T054200Z-2.damaged"} {
		write(t, path, []byte("file of "+want))
		write(t, path+"-wal", []byte("log of "+want))
		aside, err := MoveAside(link, now)
		if err != nil || aside != want {
			t.Fatalf("moved to %s, %v, want %s", aside, err, want)
		}
		for _, part := range []string{"", "-wal"} {
			if b, err := os.ReadFile(aside + part); err != nil || !strings.HasSuffix(string(b), " of "+want) {
				t.Errorf("%s holds %q, %v", aside+part, b, err)
			}
			if _, err := os.Stat(path + part); err == nil {
				t.Errorf("%s is still there", path+part)
			}
		}
	}
	s := openStore(t, link)
	put(t, s, "a")
	if _, err := os.Stat(path); err != nil {
		t.Error("the new file is not where the link points")
	}
	if _, err := MoveAside(newPath(t), now); err == nil {
		t.Error("nothing was moved, and no error")
	}
}

// TestLostLog: SQLite leaves out what follows a damaged page of the log, and
// says nothing; Open does, and keeps it.
func TestLostLog(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	for i := range 12 {
		put(t, p.Store, fmt.Sprint(i))
	}
	image, log := copyOf(t, p.path), copyOf(t, p.path+"-wal")
	frame := frameHeader + 4096
	for name, c := range map[string]struct {
		change func([]byte) []byte
		lost   bool
	}{
		"as it is":                {func(b []byte) []byte { return b }, false},
		"none":                    {func([]byte) []byte { return nil }, false},
		"torn in the last frame":  {func(b []byte) []byte { return b[:len(b)-100] }, false},
		"an older log behind it":  {func(b []byte) []byte { return append(b, make([]byte, 2*frame)...) }, false},
		"a bit of a page":         {func(b []byte) []byte { b[walHeader+frame+frameHeader+1000] ^= 4; return b }, true},
		"a bit of a checksum":     {func(b []byte) []byte { b[walHeader+frame+17] ^= 1; return b }, true},
		"a bit of a frame's salt": {func(b []byte) []byte { b[walHeader+9] ^= 128; return b }, true},
		"a bit of the header":     {func(b []byte) []byte { b[17] ^= 1; return b }, true},
		"a bit of the page size":  {func(b []byte) []byte { b[8] ^= 1; return b }, true},
		"a bit of the last page":  {func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			write(t, path, image)
			write(t, path+"-wal", c.change(slices.Clone(log)))
			before := copyOf(t, path+"-wal")
			s := openStore(t, path)
			lost := s.LostLog()
			if (lost != "") != c.lost {
				t.Fatalf("lost: %q", lost)
			}
			kept, _ := filepath.Glob(path + "-wal.*.damaged")
			if c.lost && (len(kept) != 1 || !strings.Contains(lost, kept[0]) || string(copyOf(t, kept[0])) != string(before)) {
				t.Errorf("%q, kept %q", lost, kept)
			}
			put(t, s, "after")
			sound(t, path)
		})
	}
}

// TestLostLogOfHalfAFold: a POP that is killed while SQLite folds the log into
// the file leaves a file that is whole only together with it. Where that log is
// damaged too, the error says so of both.
func TestLostLogOfHalfAFold(t *testing.T) {
	p := newPop(t, newPath(t), "sa")
	for i := range 200 {
		put(t, p.Store, fmt.Sprint(i))
	}
	image, log := copyOf(t, p.path), copyOf(t, p.path+"-wal")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	folded := copyOf(t, p.path)
	half := append(slices.Clone(folded[:len(folded)/2&^4095]), image[min(len(image), len(folded)/2&^4095):]...)
	path := newPath(t)
	write(t, path, half)
	write(t, path+"-wal", log)
	openStore(t, path).Close() // with its log it is whole

	write(t, path, half)
	log[walHeader+frameHeader+1000] ^= 4
	write(t, path+"-wal", log)
	_, err := open(t.Context(), path, time.Second)
	kept, _ := filepath.Glob(path + "-wal.*.damaged")
	if !errors.Is(err, ErrDamaged) || len(kept) != 1 || !strings.Contains(err.Error(), kept[0]) {
		t.Errorf("%v, kept %q", err, kept)
	}
}

func copyOf(t *testing.T, path string) []byte {
	t.Helper()
	return shell(t, `cat "$1"`, path)
}
