package clustertests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// neverReread is a POP without the safety net: what it notices, it noticed.
const neverReread = "EDGEPROXY_DB_RELOAD_SECS=3600"

// TestHotReload: what sqlite3 writes decides the next connection. It runs
// beside no other test, because it measures.
func TestHotReload(t *testing.T) {
	p := startPOP(t, []row{startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()}, noAffinity, neverReread)
	p.sql(t, "UPDATE backends SET healthy=0 WHERE id='b'")
	eventually(t, soon, func() error { return p.goesTo("", "a") })

	const rounds = 20
	var sinceStart, sinceEnd []time.Duration
	next := "b"
	for range rounds {
		began := time.Now()
		p.sql(t, fmt.Sprintf("UPDATE backends SET healthy = (id = '%s')", next))
		done := time.Now()
		eventually(t, soon, func() error { return p.goesTo("", next) })
		sinceStart, sinceEnd = append(sinceStart, time.Since(began)), append(sinceEnd, time.Since(done))
		next = other(next)
	}
	t.Logf("a connection follows an UPDATE by sqlite3: median %s after sqlite3 was started, %s after it had ended (of %d)",
		median(sinceStart), median(sinceEnd), rounds)
	// The median, for which a machine would have to do other work all the time.
	if m := median(sinceEnd); m > 2*time.Second {
		t.Errorf("changes took effect %s after sqlite3 had ended", m)
	}
}

// TestEveryStatementCounts: INSERT, UPDATE, REPLACE, DELETE, a transaction, a key that changes.
func TestEveryStatementCounts(t *testing.T) {
	t.Parallel()
	a, b := startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()
	p := startPOP(t, nil, noAffinity, neverReread)
	renamed := b
	renamed.id = "renamed"
	for _, step := range []struct{ sql, want string }{
		{insert(a), "a"},
		{insert(b) + "DELETE FROM backends WHERE id='a'", "b"},
		{"BEGIN;" + insert(a) + "UPDATE backends SET healthy=0 WHERE id='b'; COMMIT", "a"},
		{"REPLACE INTO backends VALUES " + b.values() + "; DELETE FROM backends WHERE id='a'", "b"},
		{"UPDATE backends SET app='other'", "b"},
	} {
		p.sql(t, step.sql)
		eventually(t, soon, func() error { return p.goesTo("", step.want) })
	}
	p.sql(t, "UPDATE backends SET id='renamed'")
	eventually(t, soon, func() error {
		if _, ok := p.backends(t)["renamed"]; !ok {
			return fmt.Errorf("backends %v", p.backends(t))
		}
		return nil
	})
	if len(p.backends(t)) != 1 {
		t.Errorf("backends %v, want the renamed one alone", p.backends(t))
	}
	p.sql(t, "DELETE FROM backends")
	eventually(t, soon, func() error {
		if v, err := p.call(""); err == nil {
			v.Close()
			return errors.New("still served")
		}
		return nil
	})
	if err := p.isReady(); err != nil {
		t.Errorf("a POP without backends: %v", err)
	}
}

// TestNothingIsReadWhileNothingChanges: one change is one read, however it is
// made and although the log is folded into the file afterwards; else only the
// safety net reads.
func TestNothingIsReadWhileNothingChanges(t *testing.T) {
	t.Parallel()
	rows := startBackends(t, "sa")
	reads := func(p *pop) float64 { return p.metric(t, "edgeproxy_database_reads_total") }
	p := startPOP(t, rows, neverReread)
	p.folded(t)
	before := reads(p)
	for i := range 3 {
		p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d", 10+i))
		eventually(t, soon, func() error {
			if w := p.backends(t)["sa-1"].Weight; w != int64(10+i) {
				return fmt.Errorf("weight %d", w)
			}
			return nil
		})
	}
	p.ask(t, "PATCH", "/api/v1/backends/sa-1", `{"weight":20}`)
	p.sql(t, "SELECT * FROM backends") // changes nothing
	p.folded(t)
	if n := reads(p) - before; n < 4 || n > 5 { // the API's own change may be read by the watcher as well
		t.Errorf("4 changes were %g reads, want 4 or 5", n)
	}

	p = startPOP(t, rows, "EDGEPROXY_DB_RELOAD_SECS=0.5")
	p.folded(t)
	began := time.Now() // first: a read may come between
	before = reads(p)
	eventually(t, soon, func() error {
		if n := reads(p) - before; n < 4 {
			return fmt.Errorf("%g reads", n)
		}
		return nil
	})
	// Three intervals lie between, the first of which a late read may have shortened.
	if took := time.Since(began); took < time.Second {
		t.Errorf("4 reads in %s, although nothing changed and the safety net reads every 500 ms", took)
	}
}

// TestAPIAndSQLSeeEachOther: what one says done, the other finds done.
func TestAPIAndSQLSeeEachOther(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "a", "sa")
	p := startPOP(t, nil, neverReread)
	if r := p.ask(t, "POST", "/api/v1/backends", fmt.Sprintf(`{"id":"a","region":"sa","addr":%q,"weight":3}`, a.addr)); r.code != 201 {
		t.Fatalf("POST: %+v", r)
	}
	if got := p.goes(t, ""); got != "a" {
		t.Errorf("right after POST a client got %q", got)
	}
	expectLines(t, "the row", p.sql(t, "SELECT id,region,port,healthy,weight,deleted FROM backends"), fmt.Sprintf("a|sa|%d|1|3|0", a.addr.Port()))
	p.sql(t, "UPDATE backends SET soft_limit=77")
	eventually(t, soon, func() error {
		if got := p.backends(t)["a"]; got.SoftLimit != 77 || got.Weight != 3 {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	if r := p.ask(t, "DELETE", "/api/v1/backends/a", ""); r.code != 204 {
		t.Errorf("DELETE: %+v", r)
	}
	expectLines(t, "the rows after DELETE", p.sql(t, "SELECT count(*) FROM backends"), "0")
	if e := asClient(t, p, func(ctx context.Context, c *api.Client) (string, error) {
		e, err := c.Explain(ctx, netip.MustParseAddr("200.160.2.3"), "")
		return e.Chosen, err
	}); e != "" {
		t.Errorf("after DELETE a client would go to %s", e)
	}
}
