package clustertests

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// shows is nil where a query of the POP's database says this.
func (p *pop) shows(t testing.TB, query, want string) error {
	t.Helper()
	if got := strings.TrimSpace(p.sql(t, query)); got != want {
		return fmt.Errorf("%s: %q, want %q", query, got, want)
	}
	return nil
}

// one is the answer to a query for one value.
func (s *sqlSession) one(t testing.TB, query string) string {
	t.Helper()
	if _, err := fmt.Fprintln(s.in, query+";"); err != nil {
		t.Fatal(err)
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		t.Fatalf("sqlite3: %s: %v", query, err)
	}
	return strings.TrimSpace(line)
}

const (
	sumOf    = "SELECT connections, own, headroom FROM mesh_backends WHERE id='a'"
	popNames = "SELECT region FROM pops ORDER BY region"
)

// TestTelemetryTables: whoever has sqlite3 sees on any POP what all of them
// have open, and of one that died nothing once its lease is over.
func TestTelemetryTables(t *testing.T) {
	t.Parallel()
	a := startBackend(t, "a", "sa").row()
	a.hard = 50
	m := planMesh(t, 2)
	m.pops[0].seed(t, a)
	m.start(t)
	sa, us := m.pops[0], m.pops[1]
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.shows(t, popNames, "sa\nus") })
		eventually(t, converged, func() error { return p.shows(t, sumOf, "0|0|50") })
	}
	us.hold(t, 7)
	sa.hold(t, 2)
	eventually(t, converged, func() error { return sa.shows(t, sumOf, "9|2|41") })
	eventually(t, converged, func() error { return us.shows(t, sumOf, "9|7|41") })
	if err := sa.shows(t, "SELECT p.region, l.connections, l.incarnation = p.incarnation, l.seq > 0 FROM backend_load l JOIN pops p ON p.node = l.pop ORDER BY 1", "sa|2|1|1\nus|7|1|1"); err != nil {
		t.Error(err)
	}

	us.kill(t)
	eventually(t, 2*converged, func() error { return sa.shows(t, popNames, "sa") }) // the lease is 10 s
	eventually(t, converged, func() error { return sa.shows(t, sumOf, "2|2|48") })
	if err := us.shows(t, "SELECT count(*) FROM backend_load", "2"); err != nil {
		t.Error(err)
	}
	us.launch(t)
	us.reaches(t, us.isReady)
	eventually(t, converged, func() error { return us.shows(t, sumOf, "2|0|48") })

	// It is the POP's own: no record, no backup, and nothing when it has ended.
	for _, p := range m.pops {
		if n := p.status(t).Records.Rows; n != 1 {
			t.Errorf("%d records, want that of the backend", n)
		}
	}
	if code, _, stderr := sa.run(t, "backup", "copy.db"); code != 0 {
		t.Fatal(stderr)
	}
	if got := runSQL(t, sa.dir+"/copy.db", "SELECT count(*) FROM pops"); got != "0\n" {
		t.Errorf("%s POPs in the backup", got)
	}
	us.stop(t)
	if err := us.shows(t, "SELECT count(*) FROM pops", "0"); err != nil {
		t.Error(err)
	}
}

// TestTelemetryCostsNothing: while nothing changes nothing is written, and
// what is written is no reason to read the tables again.
func TestTelemetryCostsNothing(t *testing.T) {
	needs(t, "long") // what is written in seconds
	t.Parallel()
	m := planMesh(t, 2, "EDGEPROXY_DB_RELOAD_SECS=1")
	m.pops[0].seed(t, startBackend(t, "a", "sa").row())
	m.pops[1].set("EDGEPROXY_DB_RELOAD_SECS", "3600")
	m.start(t)
	sa, us := m.pops[0], m.pops[1]
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.shows(t, popNames, "sa\nus") })
		eventually(t, converged, func() error { return p.logIsFolded() })
	}
	// A second is over when the one with the short interval has read again.
	second := func(n float64) {
		t.Helper()
		before := sa.metric(t, "edgeproxy_database_reads_total")
		eventually(t, soon, func() error {
			if now := sa.metric(t, "edgeproxy_database_reads_total"); now < before+n {
				return fmt.Errorf("%v reads, %v before", now, before)
			}
			return nil
		})
	}
	session := openSQL(t, us.db)
	version := session.one(t, "PRAGMA data_version")
	second(4)
	if now := session.one(t, "PRAGMA data_version"); now != version {
		t.Errorf("an idle POP wrote its file: data_version %s, then %s", version, now)
	}

	reads := us.metric(t, "edgeproxy_database_reads_total")
	for i := range 3 {
		us.hold(t, 1)
		sa.hold(t, 1)
		eventually(t, converged, func() error {
			return us.shows(t, "SELECT connections, own FROM mesh_backends", fmt.Sprintf("%d|%d", 2*i+2, i+1))
		})
	}
	if now := us.metric(t, "edgeproxy_database_reads_total"); now != reads {
		t.Errorf("the tables were read %v times because of telemetry", now-reads)
	}
	us.sql(t, "UPDATE backends SET weight=7")
	eventually(t, converged, func() error {
		if w := us.backends(t)["a"].Weight; w != 7 {
			return fmt.Errorf("weight %d", w)
		}
		return nil
	})
	eventually(t, 2*converged, us.logIsFolded)
}

// logIsFolded is nil where nothing is in the database's log.
func (p *pop) logIsFolded() error {
	var st syscall.Stat_t
	if err := syscall.Stat(p.db+"-wal", &st); err != nil {
		return err
	}
	if st.Size > 0 {
		return fmt.Errorf("the log has %d bytes", st.Size)
	}
	return nil
}

// TestTelemetryBesideATableOfTheSameName: the operator's is named in the log
// and left alone, and the POP serves.
func TestTelemetryBesideATableOfTheSameName(t *testing.T) {
	t.Parallel()
	p := newPOP(t)
	p.seed(t, startBackend(t, "a", "sa").row())
	p.sql(t, "CREATE TABLE pops (id INTEGER PRIMARY KEY, city TEXT NOT NULL); INSERT INTO pops VALUES (1, 'São Paulo')")
	p.start(t)
	if got := p.goes(t, ""); got != "a" {
		t.Errorf("a client went to %q", got)
	}
	p.expectLog(t, "telemetry", "table pops is not edgeproxy's")
	if err := p.shows(t, "SELECT * FROM pops", "1|São Paulo"); err != nil {
		t.Error(err)
	}
	p.hold(t, 1)
	eventually(t, converged, func() error { return p.shows(t, "SELECT backend, connections FROM backend_load", "a|1") })
	p.sql(t, "ALTER TABLE pops RENAME TO cities")
	eventually(t, converged, func() error { return p.shows(t, "SELECT count(*) FROM sqlite_schema WHERE name='mesh_backends'", "1") })
	eventually(t, converged, func() error { return p.shows(t, "SELECT connections, own FROM mesh_backends", "1|1") })
	if n := len(p.log.lines("is not edgeproxy's")); n != 1 {
		t.Errorf("said %d times that the table is not edgeproxy's", n)
	}
}
