package clustertests

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// What the seed's README tells people to do, word for word.
const (
	seedTable = `CREATE TABLE backends (
    id TEXT PRIMARY KEY,      -- "sa-node-1"
    app TEXT,                 -- "myapp"
    region TEXT,              -- "sa", "us", "eu"
    wg_ip TEXT,               -- WireGuard IP
    port INTEGER,             -- Backend port
    healthy INTEGER,          -- 0 or 1
    weight INTEGER,           -- Load balancing weight
    soft_limit INTEGER,       -- Comfortable connection count
    hard_limit INTEGER,       -- Maximum connections
    deleted INTEGER DEFAULT 0
);
`
	seedExample = `INSERT INTO backends VALUES
    ('sa-node-1', 'myapp', 'sa', '10.50.1.1', 8080, 1, 2, 50, 100, 0),
    ('us-node-1', 'myapp', 'us', '10.50.2.1', 8080, 1, 2, 50, 100, 0),
    ('eu-node-1', 'myapp', 'eu', '10.50.3.1', 8080, 1, 2, 50, 100, 0);
`
	seedMocks = `INSERT INTO backends (id, app, region, wg_ip, port, healthy, weight, soft_limit, hard_limit)
VALUES
  ('mock-eu-1', 'test', 'eu', '127.0.0.1', 9001, 1, 2, 100, 150),
  ('mock-eu-2', 'test', 'eu', '127.0.0.1', 9002, 1, 2, 100, 150),
  ('mock-us-1', 'test', 'us', '127.0.0.1', 9003, 1, 2, 100, 150);
`
	seedHealthy     = `SELECT id, healthy FROM backends`
	seedHealthyRows = `SELECT * FROM backends WHERE healthy=1`
)

// seedRows is what the example comes back as.
var seedRows = []string{
	"eu-node-1|myapp|eu|10.50.3.1|8080|1|2|50|100|0",
	"sa-node-1|myapp|sa|10.50.1.1|8080|1|2|50|100|0",
	"us-node-1|myapp|us|10.50.2.1|8080|1|2|50|100|0",
}

func sortedLines(s string) []string {
	return slices.Sorted(strings.SplitSeq(strings.TrimSpace(s), "\n"))
}

func expectLines(t *testing.T, what, got string, want ...string) {
	t.Helper()
	if lines := sortedLines(got); !slices.Equal(lines, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, lines, want)
	}
}

// TestSeedREADME follows the seed's README: a database made before edgeproxy
// ever ran, its variables, its queries.
func TestSeedREADME(t *testing.T) {
	t.Parallel()
	sa := startBackend(t, "sa-node-1", "sa")
	p := newPOP(t, unchecked, "EDGEPROXY_LISTEN_ADDR=0.0.0.0:0", "EDGEPROXY_DB_PATH=routing.db", "EDGEPROXY_REGION=us",
		"EDGEPROXY_DB_RELOAD_SECS=5", "EDGEPROXY_BINDING_TTL_SECS=600", "EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES=127.0.0.1")
	script(t, p.db, seedTable+seedExample)
	p.start(t)

	expectLines(t, seedHealthyRows, p.sql(t, seedHealthyRows), seedRows...)
	expectLines(t, seedHealthy, p.sql(t, seedHealthy), "eu-node-1|1", "sa-node-1|1", "us-node-1|1")
	if st := p.status(t); st.Region != "us" || !strings.HasPrefix(st.Node, "us-") || st.Backends.Total != 3 || st.Backends.Up != 3 || len(st.Problems) != 0 {
		t.Errorf("status %+v, want three backends up in us", st)
	}
	b := p.backends(t)["eu-node-1"]
	if b.App != "myapp" || b.Region != "eu" || b.Addr != "10.50.3.1:8080" || !b.Healthy || b.Weight != 2 || b.SoftLimit != 50 || b.HardLimit != 100 || b.State != "up" {
		t.Errorf("eu-node-1 became %+v", b)
	}
	if e := p.explain(t, "193.99.144.80"); e.Chosen != "eu-node-1" {
		t.Errorf("a German goes to %q", e.Chosen)
	}

	// 10.50.1.1 is not on this machine: move it here, with the daemon running.
	p.sql(t, fmt.Sprintf("UPDATE backends SET wg_ip='127.0.0.1', port=%d WHERE id='sa-node-1'", sa.addr.Port()))
	eventually(t, soon, func() error {
		if b := p.backends(t)["sa-node-1"]; b.Addr != sa.addr.String() {
			return fmt.Errorf("sa-node-1 is at %s", b.Addr)
		}
		return nil
	})
	if got := p.goes(t, "200.160.2.3"); got != "sa-node-1" {
		t.Errorf("a Brazilian goes to %q", got)
	}

	// The table is still the seed's: what it says can be put in again.
	p.stop(t)
	script(t, p.db, "DELETE FROM backends;\n"+seedExample+seedMocks)
	expectLines(t, "the rows put in again", p.sql(t, "SELECT * FROM backends"), append([]string{
		seedRows[0],
		"mock-eu-1|test|eu|127.0.0.1|9001|1|2|100|150|0", "mock-eu-2|test|eu|127.0.0.1|9002|1|2|100|150|0", "mock-us-1|test|us|127.0.0.1|9003|1|2|100|150|0",
	}, seedRows[1:]...)...)
	p.start(t)
	if st := p.status(t); st.Backends.Total != 6 || len(st.Problems) != 0 {
		t.Errorf("status %+v, want six backends", st)
	}
}

// TestSeedMocks: the INSERT with named columns, which leaves deleted out, into a running POP's new database.
func TestSeedMocks(t *testing.T) {
	t.Parallel()
	p := newPOP(t, "EDGEPROXY_REGION=eu", "EDGEPROXY_APP=test", "EDGEPROXY_HEALTH_CHECK=off") // nobody listens there
	p.start(t)                                                                                // makes the table itself
	p.expectLog(t, `"message":"serving"`, `"backends":0`)
	script(t, p.db, seedMocks)
	eventually(t, soon, func() error {
		if n := p.status(t).Backends.Up; n != 3 {
			return fmt.Errorf("%d backends up", n)
		}
		return nil
	})
	if e := p.explain(t, "193.99.144.80"); !strings.HasPrefix(e.Chosen, "mock-eu-") {
		t.Errorf("a German goes to %q", e.Chosen)
	}
	us := startBackend(t, "mock-us-1", "us")
	p.sql(t, fmt.Sprintf("UPDATE backends SET port=%d WHERE id='mock-us-1'; UPDATE backends SET healthy=0 WHERE region='eu'", us.addr.Port()))
	eventually(t, soon, func() error { return p.goesTo("", "mock-us-1") })
}

// TestSeedWithCountry: a later seed's table has a column that edgeproxy does
// not read; it is carried.
func TestSeedWithCountry(t *testing.T) {
	t.Parallel()
	p := newPOP(t, unchecked)
	script(t, p.db, strings.Replace(seedTable, "    wg_ip TEXT,", "    country TEXT,\n    wg_ip TEXT,", 1)+
		`INSERT INTO backends VALUES ('sa-node-1', 'myapp', 'sa', 'BR', '10.50.1.1', 8080, 1, 2, 50, 100, 0);`)
	p.start(t)
	if a := p.ask(t, "PATCH", "/api/v1/backends/sa-node-1", `{"weight":7}`); a.code != 200 {
		t.Errorf("PATCH: %+v", a)
	}
	p.sql(t, "INSERT INTO backends VALUES ('sa-node-2', 'myapp', 'sa', 'AR', '10.50.1.2', 8080, 1, 2, 50, 100, 0)")
	eventually(t, soon, func() error {
		if n := p.status(t).Backends.Up; n != 2 {
			return fmt.Errorf("%d backends up", n)
		}
		return nil
	})
	expectLines(t, "the rows", p.sql(t, "SELECT id, country, wg_ip, weight FROM backends"), "sa-node-1|BR|10.50.1.1|7", "sa-node-2|AR|10.50.1.2|2")
	if b := p.backends(t)["sa-node-1"]; b.Addr != "10.50.1.1:8080" || b.Weight != 7 {
		t.Errorf("sa-node-1 became %+v", b)
	}
}

// TestRepositorysSQL: sql/*.sql make a database, and do no harm to one in use.
func TestRepositorysSQL(t *testing.T) {
	t.Parallel()
	p := newPOP(t, unchecked)
	script(t, p.db, repoFile(t, "sql/create_routing_db.sql"))
	p.start(t)
	script(t, p.db, repoFile(t, "sql/create_routing_db.sql"))
	script(t, p.db, repoFile(t, "sql/example_data.sql"))
	eventually(t, soon, func() error {
		if n := p.status(t).Backends.Up; n != 3 {
			return fmt.Errorf("%d backends up", n)
		}
		return nil
	})
	expectLines(t, "the example", p.sql(t, seedHealthyRows), seedRows...)
	if _, err := os.Stat(p.db + ".pop"); err != nil {
		t.Error(err)
	}
	if code, out, errs := p.run(t, "check"); code != 0 || !strings.HasPrefix(out, "ok: ") {
		t.Errorf("check: %d %q %q", code, out, errs)
	}
}
