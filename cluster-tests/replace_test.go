package clustertests

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// copyOver is cp: it writes into the file that is there.
func copyOver(t testing.TB, from, to string) {
	t.Helper()
	body, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, to, body)
}

func overwrite(t testing.TB, path string, body []byte) {
	t.Helper()
	if err := os.WriteFile(path, body, 0o644); err != nil {
		t.Fatal(err)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// database makes one with these backends beside the POP's.
func (p *pop) database(t testing.TB, name string, rows ...row) string {
	t.Helper()
	path := filepath.Join(p.dir, name)
	makeDB(t, path, rows...)
	return path
}

// TestDatabaseReplaced: another file under the name is the database from then
// on, however it got there, and however fresh the last change of the old one is.
func TestDatabaseReplaced(t *testing.T) {
	t.Parallel()
	a, b := startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()
	for name, replace := range map[string]func(t testing.TB, from, to string){"mv": func(t testing.TB, from, to string) { rename(t, from, to) }, "cp": copyOver} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPOP(t, []row{a}, noAffinity, neverReread)
			open := p.visit(t, "")
			for i := range 4 {
				next := []row{b, a}[i%2]
				path := p.database(t, fmt.Sprintf("other-%d.db", i), next)
				p.folded(t)
				if i > 1 { // a change that still stands in the log of the old one
					p.sql(t, "UPDATE backends SET weight=weight+1")
				}
				replace(t, path, p.db)
				eventually(t, soon, func() error { return p.goesTo("", next.id) })
				eventually(t, soon, p.isReady)
				expectLines(t, "what sqlite3 sees", p.sql(t, "SELECT id, weight FROM backends"), next.id+"|1")
				p.sql(t, "UPDATE backends SET weight=9")
				eventually(t, soon, func() error {
					if w := p.backends(t)[next.id].Weight; w != 9 {
						return fmt.Errorf("weight %d in the new file", w)
					}
					return nil
				})
			}
			open.alive(t)
			if got := strings.TrimSpace(p.sql(t, "PRAGMA integrity_check")); got != "ok" {
				t.Errorf("integrity_check: %s", got)
			}
		})
	}
}

// TestDatabaseOverwrittenInABadMoment: while the log is being folded into the
// file, which a POP does right after it has opened one. What comes of the file
// then is nobody's promise; but the POP must not go on as if nothing had
// happened: what it could not notice, the safety net finds.
func TestDatabaseOverwrittenInABadMoment(t *testing.T) {
	t.Parallel()
	a, b := startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()
	p := startPOP(t, []row{a}, noAffinity, "EDGEPROXY_DB_RELOAD_SECS=0.2")
	other := p.database(t, "b.db", b)
	for i := range 15 {
		rename(t, p.database(t, "a.db", a), p.db)
		eventually(t, soon, func() error { return p.goesTo("", "a") })
		copyOver(t, other, p.db)
		began := time.Now()
		err := waitFor(soon, func() error {
			if p.notReady("routing.db") == nil {
				return nil // it noticed that the file is broken
			}
			err := p.goesTo("", "b")
			if err == nil || time.Since(began) < 5*time.Second {
				return err
			}
			out, sqlErr := cli(p.db, "SELECT id FROM backends ORDER BY id").CombinedOutput()
			has := slices.Sorted(maps.Keys(p.backends(t)))
			if sqlErr == nil && slices.Equal(has, strings.Fields(string(out))) {
				return nil // the copy was lost, or mixed with the log: the POP has what the file says
			}
			return fmt.Errorf("%w; it has %v, the file says %q, %v", err, has, out, sqlErr)
		})
		if err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

// TestDatabaseLost: a database that vanishes or breaks leaves the last good
// routes in use; /ready, the log, the metric and the commands say so; and it
// is taken back without a restart.
func TestDatabaseLost(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "a", "sa").row()
	noise := make([]byte, 200000)
	for i, r := 0, rand.New(rand.NewPCG(1, 2)); i < len(noise); i++ {
		noise[i] = byte(r.Uint32())
	}
	for name, c := range map[string]struct {
		lose func(t *testing.T, p *pop)
		word string // in the reason
	}{
		"removed":   {func(t *testing.T, p *pop) { rename(t, p.db, p.db+".away") }, "gone"},
		"garbage":   {func(t *testing.T, p *pop) { overwrite(t, p.db, noise) }, "not a sound SQLite database"},
		"text":      {func(t *testing.T, p *pop) { overwrite(t, p.db, []byte(strings.Repeat("routes: none\n", 900))) }, "not a sound SQLite database"},
		"emptied":   {func(t *testing.T, p *pop) { overwrite(t, p.db, nil) }, ""}, // no table, or none that its log fits to
		"truncated": {func(t *testing.T, p *pop) { truncate(t, p.db, 6000) }, "not a sound SQLite database"},
		"pages broken": {func(t *testing.T, p *pop) {
			body, err := os.ReadFile(p.db)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, p.db, append(body[:4096:4096], noise[:len(body)-4096]...))
		}, "not a sound SQLite database"},
		"another shape":  {func(t *testing.T, p *pop) { rename(t, p.shapeless(t), p.db) }, "lacks wg_ip"},
		"newer":          {func(t *testing.T, p *pop) { rename(t, p.newer(t), p.db) }, "newer version"},
		"a directory":    {func(t *testing.T, p *pop) { rename(t, p.db, p.db+".away"); mkdir(t, p.db) }, "not a regular file"},
		"backends taken": {func(t *testing.T, p *pop) { rename(t, p.tableless(t), p.db) }, "no table backends"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPOP(t, []row{a}, noAffinity)
			open := p.visit(t, "")
			good := filepath.Join(p.dir, "good.db")
			p.sql(t, "VACUUM INTO '"+good+"'")
			p.folded(t)
			c.lose(t, p)
			eventually(t, soon, func() error { return p.notReady("routing.db", c.word) })
			p.expectLog(t, `"level":"error"`, "serving the last good picture", c.word)
			if p.metric(t, "edgeproxy_ready") != 0 {
				t.Error("the metric says ready")
			}
			if code, _, errs := p.run(t, "healthcheck"); code != 1 || !strings.Contains(errs, c.word) {
				t.Errorf("healthcheck: %d %q", code, errs)
			}
			if r := p.ask(t, "PATCH", "/api/v1/backends/a", `{"weight":5}`); r.code != 503 || !strings.Contains(r.body, c.word) {
				t.Errorf("a change by API: %+v, want 503 and the reason", r)
			}
			open.alive(t)
			if got := p.goes(t, ""); got != "a" {
				t.Errorf("a client went to %q", got)
			}

			if fi, err := os.Stat(p.db); err == nil && fi.IsDir() {
				rename(t, p.db, p.db+".dir")
			}
			rename(t, good, p.db)
			eventually(t, soon, p.isReady)
			p.expectLog(t, "readable again")
			p.sql(t, "UPDATE backends SET weight=6")
			eventually(t, soon, func() error {
				if w := p.backends(t)["a"].Weight; w != 6 {
					return fmt.Errorf("weight %d", w)
				}
				return nil
			})
			open.alive(t)
			if n := len(p.log.lines("serving the last good picture")); n > 4 {
				t.Errorf("the log says %d times that the database is lost", n)
			}
		})
	}
}

// TestDatabaseRestoredInPlace: garbage by cp, then the good copy by cp.
func TestDatabaseRestoredInPlace(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), noAffinity)
	good := filepath.Join(p.dir, "good.db")
	for i := range 3 {
		p.sql(t, "VACUUM INTO '"+good+"'")
		overwrite(t, p.db, []byte(strings.Repeat("garbage ", 1000+i)))
		eventually(t, soon, func() error { return p.notReady("not a sound SQLite database") })
		copyOver(t, good, p.db)
		eventually(t, soon, p.isReady)
		p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d", 30+i))
		eventually(t, soon, func() error {
			if w := p.backends(t)["sa-1"].Weight; w != int64(30+i) {
				return fmt.Errorf("weight %d", w)
			}
			return nil
		})
		if err := os.Remove(good); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDatabaseCameBack: moved away and back, with what was written to it meanwhile.
func TestDatabaseCameBack(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), noAffinity)
	for i := range 3 {
		p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d", 40+i)) // may still stand in the log
		rename(t, p.db, p.db+".away")
		eventually(t, soon, func() error { return p.notReady("gone") })
		rename(t, p.db+".away", p.db)
		eventually(t, soon, p.isReady)
		eventually(t, soon, func() error { return p.goesTo("", "sa-1") })
		if w := p.backends(t)["sa-1"].Weight; w != int64(40+i) {
			t.Errorf("round %d: weight %d after the file came back, want %d", i, w, 40+i)
		}
	}
}
