package clustertests

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

func (p *pop) asksSQL(sql string) (answer, error) {
	return p.request("GET", "/api/v1/query?sql="+url.QueryEscape(sql), "")
}

// TestQuery: what is asked is answered, exactly, by GET, by POST and on the
// command line, with a token where there is one.
func TestQuery(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa", "us"), "EDGEPROXY_API_TOKEN=correct-horse-battery-staple")
	const sql = "SELECT id, 9007199254740993 AS n, NULL AS none, x'00ff' AS b FROM backends ORDER BY id LIMIT 1"
	if a, err := p.asksSQL(sql); err != nil || a.code != 401 {
		t.Errorf("without the token: %+v, %v", a, err)
	}
	p.token = "correct-horse-battery-staple"
	const want = `{"columns":["id","n","none","b"],"rows":[["sa-1",9007199254740993,null,{"blob":"AP8="}]],"truncated":false,"took_ms":`
	if a, err := p.asksSQL(sql); err != nil || a.code != 200 || !strings.HasPrefix(a.body, want) {
		t.Errorf("GET: %+v, %v, want %s", a, err, want)
	}
	long := sql + " -- " + strings.Repeat("x", 60<<10)
	if a := p.ask(t, "POST", "/api/v1/query", long); a.code != 200 || !strings.HasPrefix(a.body, want) {
		t.Errorf("POST: %+v, want %s", a, want)
	}
	if code, out, errs := p.run(t, "query", sql); code != 0 || !strings.Contains(out, "sa-1  9007199254740993     -  x'00ff'") {
		t.Errorf("query: %d %q %q", code, out, errs)
	}
	code, out, errs := p.run(t, "query", "--json", long)
	var a api.QueryAnswer
	if err := json.Unmarshal([]byte(out), &a); code != 0 || err != nil || len(a.Columns) != 4 {
		t.Errorf("query --json: %d %q %q, %v", code, out, errs, err)
	}
	if code, _, errs := p.run(t, "query", "DELETE FROM backends"); code != 2 || !strings.Contains(errs, "refused: DELETE") {
		t.Errorf("query of a DELETE: %d %q", code, errs)
	}
	// Its two seconds may be too few, for a query gives way to all else.
	eventually(t, soon, func() error {
		code, out, errs = p.run(t, "query", "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i FROM n")
		if code != 0 || strings.Count(out, "\n") != 10_001 || !strings.Contains(errs, "more rows") {
			return fmt.Errorf("10,000 rows of more: %d, %d lines, %q", code, strings.Count(out, "\n"), errs)
		}
		return nil
	})
}

// TestQueryAttacks: whatever SQL somebody with the token sends, nothing is
// changed, it ends in time, and the POP goes on routing and being written to.
func TestQueryAttacks(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), noAffinity)
	before := p.sql(t, "SELECT * FROM backends; SELECT name, sql FROM sqlite_schema")
	const endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) "
	slowCalls := "SELECT 1" + strings.Repeat(", instr(zeroblob(260000), zeroblob(130000)||x'01')", 30)
	type attack struct{ sql, codes string } // any of the codes
	attacks := []attack{
		{"ATTACH '" + p.db + "2' AS x", "403"},
		{"SELECT 1; DROP TABLE backends", "403"},
		{"PRAGMA journal_mode=DELETE", "403"},
		{"VACUUM INTO '" + p.db + "2'", "403"},
		{"WITH x AS (SELECT 1) DELETE FROM backends", "403"},
		{"SELECT load_extension('x')", "403"},
		{"SELECT zeroblob(1000000000)", "400"},
		{slowCalls, "408"}, // no step of it can be cut short
	}
	if wanted("long") { // more of each kind
		attacks = append(attacks, []attack{
			{"PRAGMA writable_schema=ON", "403"},
			{"PRAGMA wal_checkpoint(TRUNCATE)", "403"},
			{"UPDATE backends SET weight=9", "403"},
			{"BEGIN EXCLUSIVE", "403"},
			{"SELECT 1\x00", "403"},
			{"SELECT 1 -- \n; -- \n SELECT 2", "403"},
			{"SELECT nonsense FROM", "400"},
			{"", "400"},
			{endless + "SELECT zeroblob(200000) AS z FROM n ORDER BY z", "408 413"},
			{endless + "SELECT group_concat(i) FROM n", "400 408"},
			{endless + "SELECT count(*) FROM n a, n b", "408 413"},
			{endless + "SELECT count(*) FROM (SELECT DISTINCT randomblob(200000) FROM n)", "408 413"},
			{endless + "SELECT max(length(hex(i))) OVER (ORDER BY i) FROM n", "408 413"},
		}...)
	}
	var all sync.WaitGroup
	done := make(chan struct{})
	var wrote, served int
	all.Go(func() {
		s := openSQL(t, p.db)
		for ; ; wrote++ {
			select {
			case <-done:
				return
			default:
				s.do(t, fmt.Sprintf("INSERT INTO backend_options(id, country) VALUES('x%d','BR')", wrote))
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	all.Go(func() {
		for ; ; served++ {
			select {
			case <-done:
				return
			default:
				if v, err := p.call("200.160.2.3"); err != nil || v.backend != "sa-1" {
					t.Errorf("visit %d: %+v, %v", served, v, err)
				} else {
					v.Close()
				}
			}
			<-time.After(20 * time.Millisecond)
		}
	})
	limit := make(chan struct{}, 2) // as many as may run
	var queries sync.WaitGroup
	for _, attack := range attacks {
		limit <- struct{}{}
		queries.Go(func() {
			defer func() { <-limit }()
			began := time.Now()
			a, err := p.asksSQL(attack.sql)
			name := attack.sql[:min(60, len(attack.sql))]
			var e api.Error
			if err != nil || json.Unmarshal([]byte(a.body), &e) != nil || e.Error == "" || !strings.Contains(attack.codes, fmt.Sprint(a.code)) {
				t.Errorf("%q: %d %.200s %v, want %s", name, a.code, a.body, err, attack.codes)
			}
			if took := time.Since(began); took > 20*time.Second { // 5 s of CPU time and the start, on a machine that does nothing else
				t.Errorf("%q took %s", name, took)
			}
		})
	}
	queries.Wait()
	if a := p.ask(t, "POST", "/api/v1/query", "SELECT '"+strings.Repeat("x", 10<<20)); a.code != 413 {
		t.Errorf("10 MiB of SQL: %+v, want 413", a)
	}
	if a := p.ask(t, "GET", "/api/v1/query?sql=SELECT+1", "", "Sec-Fetch-Site: cross-site"); a.code != 403 {
		t.Errorf("for a page of another site: %+v, want 403", a)
	}
	p.runsTwo(t, endless+"SELECT count(*) FROM n")
	close(done)
	all.Wait()
	if wrote == 0 || served == 0 {
		t.Errorf("meanwhile %d rows were written and %d clients served", wrote, served)
	}
	if after := p.sql(t, "SELECT * FROM backends; SELECT name, sql FROM sqlite_schema"); after != before {
		t.Errorf("it was\n%sand is\n%s", before, after)
	}
	if mode := strings.TrimSpace(p.sql(t, "PRAGMA journal_mode")); mode != "wal" {
		t.Errorf("journal mode %q", mode)
	}
	if a, err := p.asksSQL("SELECT count(*) FROM backend_options"); err != nil || a.code != 200 || !strings.Contains(a.body, fmt.Sprintf("[[%d]]", wrote)) {
		t.Errorf("after all that: %+v, %v, want %d rows", a, err, wrote)
	}
	if err := p.isReady(); err != nil {
		t.Error(err)
	}
}

// runsTwo: of queries that never end two run at a time, each until whoever asks
// has gone.
func (p *pop) runsTwo(t *testing.T, endless string) {
	t.Helper()
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			for ctx.Err() == nil { // again, where the machine is so busy that they did not meet
				r, err := http.NewRequestWithContext(ctx, "GET", "http://"+local(p.apiAddr())+"/api/v1/query?sql="+url.QueryEscape(endless), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if a, err := web.Do(r); err == nil {
					a.Body.Close()
				}
			}
		})
	}
	becomes := func(code int, text string) {
		eventually(t, soon, func() error {
			a, err := p.asksSQL("SELECT 'all is well'")
			if err != nil || a.code != code || !strings.Contains(a.body, text) {
				return fmt.Errorf("%+v, %v, want %d with %q", a, err, code, text)
			}
			return nil
		})
	}
	becomes(503, "queries run")
	hangUp()
	asking.Wait()
	becomes(200, "all is well")
}
