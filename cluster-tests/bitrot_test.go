package clustertests

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// refilled is how long a POP may take that begins with nothing.
const refilled = 30 * time.Second

// flip changes bits of a file at rest, as a dying disk does.
func flip(t testing.TB, path string, bits func(b []byte) []int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range bits(b) {
		b[at] ^= 4
	}
	overwrite(t, path, b)
}

// pageTypes are the first bytes of a database's pages: nothing that stands on them can be found.
func pageTypes(b []byte) (at []int) {
	for page := 4096; page < len(b); page += 4096 {
		at = append(at, page)
	}
	return at
}

// rotten is a mesh of two, with rows, whose second POP is then stopped or killed.
func rotten(t testing.TB) (m *mesh, first, p *pop) {
	m = newMesh(t, 2)
	first, p = m.pops[0], m.pops[1]
	rows := startBackends(t, "sa")
	for i := range 300 {
		rows = append(rows, at(fmt.Sprintf("b-%03d", i), "us", refusing(t)))
	}
	first.sql(t, insert(rows...)+"UPDATE backends SET healthy=0 WHERE region='us'; INSERT INTO backend_options (id, country) VALUES ('b-001', 'BR');")
	settle(t, converged, m.pops...)
	return m, first, p
}

// recovers starts the POP and waits until it serves and holds what the others hold.
func (m *mesh) recovers(t testing.TB, p *pop) {
	t.Helper()
	began := time.Now()
	p.start(t)
	if err := p.goesTo("", "sa-1"); err != nil {
		t.Errorf("ready, but %v", err)
	}
	served := time.Since(began)
	settle(t, refilled, m.pops...)
	t.Logf("serves %s after its start, equal after %s", served.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if got := p.sql(t, "PRAGMA integrity_check"); got != "ok\n" {
		t.Errorf("integrity_check: %s", got)
	}
	goesOn(t, "after", m.pops...)
}

// kept is the one file to which something damaged was moved.
func (p *pop) kept(t testing.TB, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(p.db + pattern)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s%s: %q, %v; want one file", p.db, pattern, files, err)
	}
	return files[0]
}

// TestDamagedDatabase is found at the start, moved aside, and filled again by
// the others; nothing of the damage gets to them.
func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	m, first, p := rotten(t)
	stopAll(t, p)
	flip(t, p.db, pageTypes)
	damaged, err := os.ReadFile(p.db)
	if err != nil {
		t.Fatal(err)
	}
	m.recovers(t, p)
	aside := p.kept(t, ".*.damaged")
	p.expectLog(t, `"level":"error"`, "routing database was damaged", aside)
	if b, err := os.ReadFile(aside); err != nil || !bytes.Equal(b, damaged) {
		t.Errorf("%s is not what was found: %v", aside, err)
	}
	if code, out, errs := p.run(t, "check"); code != 0 || !holds(out, []string{"mended already", aside}) {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
	everywhere(t, "SELECT count(*) FROM backends WHERE id LIKE 'b-%'", "300", first, p)
}

// TestDamagedRows: what SQLite cannot know of, a letter of a row and one of a
// record, is found and set right too.
func TestDamagedRows(t *testing.T) {
	t.Parallel()
	m, first, p := rotten(t)
	first.sql(t, "UPDATE backends SET app='quite-a-long-name' WHERE id='b-017'")
	settle(t, converged, m.pops...)
	stopAll(t, p)
	flip(t, p.db, func(b []byte) (all []int) {
		for at := range b {
			if bytes.HasPrefix(b[at:], []byte("quite-a-long-name")) {
				all = append(all, at+9)
			}
		}
		if len(all) < 2 {
			t.Fatalf("the name stands in the file %d times, want in the row and in its record", len(all))
		}
		return all
	})
	m.recovers(t, p)
	everywhere(t, "SELECT count(*) FROM backends WHERE app='quite-a-long-name'", "1", m.pops...)
	p.expectLog(t, `"level":"warn"`, "b-017", "damaged")
}

// TestDamagedLog: of the log that a killed POP leaves behind SQLite takes what
// comes before the damage, and says nothing. The POP does, also where it was
// killed while the log was folded into the file, which is then damaged as well.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	m, first, p := rotten(t)
	n := 0
	eventually(t, soon, func() error {
		n++
		first.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d", n%7+2))
		settle(t, converged, m.pops...)
		p.kill(t)
		if fi, err := os.Stat(p.db + "-wal"); err == nil && fi.Size() > 20_000 {
			return nil
		}
		p.start(t)
		together(t, m.pops...)
		return errors.New("the log had just been folded")
	})
	flip(t, p.db+"-wal", func([]byte) []int { return []int{32 + 24 + 1000} })
	m.recovers(t, p)
	p.expectLog(t, `"level":"error"`, "pages in its write-ahead log are lost", p.kept(t, "-wal.*.damaged"))
}

// TestDamagedAlone: who knows nobody to fill a new one keeps what can be read,
// and says so.
func TestDamagedAlone(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	stopAll(t, p)
	flip(t, p.db, pageTypes)
	before, err := os.ReadFile(p.db)
	if err != nil {
		t.Fatal(err)
	}
	p.refuses(t, 1, p.db, "not a sound SQLite database", "knows no other", ".recover", "EDGEPROXY_JOIN")
	if after, err := os.ReadFile(p.db); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed, %v", err)
	}
	if code, out, _ := p.run(t, "check"); code != 2 || !holds(out, []string{p.db, "not a sound SQLite database"}) {
		t.Errorf("check: %d %q", code, out)
	}
}
