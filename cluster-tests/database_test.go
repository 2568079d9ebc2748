package clustertests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

func truncate(t testing.TB, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// shapeless is a database whose table is not ours.
func (p *pop) shapeless(t testing.TB) string {
	t.Helper()
	path := p.dir + "/shapeless.db"
	runSQL(t, path, "CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, ip TEXT, port INTEGER); INSERT INTO backends VALUES ('x','y','sa','10.0.0.1',80)")
	return path
}

// newer is a database of a later version's.
func (p *pop) newer(t testing.TB) string {
	t.Helper()
	path := p.database(t, "newer.db")
	runSQL(t, path, "PRAGMA user_version=99")
	return path
}

// tableless is a database that has other tables.
func (p *pop) tableless(t testing.TB) string {
	t.Helper()
	path := p.dir + "/tableless.db"
	runSQL(t, path, "CREATE TABLE phones (name TEXT, number TEXT)")
	return path
}

// folded waits until everything stands in the file and nothing in its log, and
// the POP is done with both.
func (p *pop) folded(t testing.TB) {
	t.Helper()
	eventually(t, soon, func() error {
		fi, err := os.Stat(p.db + "-wal")
		if err == nil && fi.Size() > 0 {
			err = fmt.Errorf("%d bytes in the log", fi.Size())
		}
		return err
	})
	// A write waits for the fold, and this one comes to nothing.
	if a := p.ask(t, "PATCH", "/api/v1/backends/nobody", `{"weight":1}`); a.code != 404 {
		t.Fatalf("PATCH of nobody: %+v", a)
	}
}

// TestLockedDatabase: while somebody holds it, traffic goes on, a change by
// API gets a clear answer, and everything works again afterwards.
func TestLockedDatabase(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), noAffinity, "EDGEPROXY_DB_RELOAD_SECS=0.2")
	open := p.visit(t, "")
	holder := openSQL(t, p.db)
	holder.do(t, "BEGIN EXCLUSIVE")
	holder.do(t, "UPDATE backends SET weight=50")

	reads := p.metric(t, "edgeproxy_database_reads_total")
	refused := make(chan answer, 1) // it takes as long as writers wait, and no longer than request does
	go func() {
		a, err := p.request("PATCH", "/api/v1/backends/sa-1", `{"weight":5}`)
		if err != nil {
			a.body = err.Error()
		}
		refused <- a
	}()
	for waiting := true; waiting; {
		select {
		case a := <-refused:
			waiting = false
			if a.code != 503 || !strings.Contains(a.body, "locked") || !strings.Contains(a.body, "another process holds it") {
				t.Errorf("a change by API: %+v, want 503 and who is in the way", a)
			}
		case <-time.After(20 * time.Millisecond):
			if got := p.goes(t, ""); got != "sa-1" {
				t.Errorf("meanwhile a client went to %q", got)
			}
		}
	}
	open.alive(t)
	if n := p.metric(t, "edgeproxy_database_reads_total"); n <= reads {
		t.Error("the safety net read nothing while the database was locked for writing")
	}
	if w := p.backends(t)["sa-1"].Weight; w != 1 {
		t.Errorf("weight %d while the transaction is open, want 1", w)
	}

	holder.do(t, "COMMIT")
	eventually(t, soon, func() error {
		if w := p.backends(t)["sa-1"].Weight; w != 50 {
			return fmt.Errorf("weight %d after the commit", w)
		}
		return nil
	})
	if a := p.ask(t, "PATCH", "/api/v1/backends/sa-1", `{"weight":6}`); a.code != 200 {
		t.Errorf("a change by API afterwards: %+v", a)
	}
	eventually(t, soon, p.isReady)
}

// TestStatusOfALockedDatabase: while another process holds the database, and
// what another POP writes waits for it, the POP still says how it is.
func TestStatusOfALockedDatabase(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2, unchecked)
	other, p := m.pops[0], m.pops[1]
	other.sql(t, insert(startBackend(t, "sa-1", "sa").row()))
	settle(t, converged, m.pops...)
	holder := openSQL(t, p.db)
	holder.do(t, "BEGIN IMMEDIATE")
	other.sql(t, "UPDATE backends SET weight = 3")
	client := http.Client{Timeout: 2 * time.Second} // of the five that a write waits
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		for _, path := range []string{"/metrics", "/api/v1/status", "/ready"} {
			var res *http.Response
			var err error
			for range 2 { // a machine may stand still once; who waits for the lock waits each time
				if res, err = client.Get("http://" + p.apiAddr() + path); err == nil {
					break
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			res.Body.Close()
		}
	}
	holder.do(t, "ROLLBACK")
	settle(t, soon, m.pops...)
}

// TestLockedAtStart: a database that somebody holds since before the start is said to be locked, and by what to find whom.
func TestLockedAtStart(t *testing.T) {
	t.Parallel()
	p := newPOP(t)
	p.seed(t)
	holder := openSQL(t, p.db)
	holder.do(t, "BEGIN EXCLUSIVE")
	p.refuses(t, 1, "locked", "fuser", p.db)
	holder.do(t, "ROLLBACK")
	p.start(t)
}
