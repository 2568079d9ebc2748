package sqlite

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// example is two POPs with three loads and two verdicts.
func example() Telemetry {
	at := time.UnixMilli(1_700_000_000_000)
	return Telemetry{
		POPs: []POP{
			{Node: "sa-1", Region: "sa", Self: true, Incarnation: 7, Connections: 5, Seq: 1, Seen: at},
			{Node: "us-1", Region: "us", Incarnation: 9, Connections: 10, Seq: 1, Seen: at},
		},
		Load: []Load{
			{POP: "sa-1", Backend: "a", Connections: 5, Incarnation: 7, Seq: 1},
			{POP: "us-1", Backend: "a", Connections: 8, Incarnation: 9, Seq: 1},
			{POP: "us-1", Backend: "b", Connections: 2, Incarnation: 9, Seq: 1},
			{POP: "us-1", Backend: "c", Incarnation: 9, Seq: 1},
		},
		Health: []Verdict{
			{POP: "sa-1", Backend: "a", Up: true, Since: at, Why: "connect"},
			{POP: "us-1", Backend: "a", Since: at, Why: "connection refused"},
		},
	}
}

func tell(t *testing.T, s *Store, what Telemetry) {
	t.Helper()
	if err := s.WriteTelemetry(t.Context(), what, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// lines are rows as text, one a line, of a query that makes one column of them.
func lines(t *testing.T, path, query string) string {
	t.Helper()
	return cell(t, path, "SELECT group_concat(line, char(10)) FROM ("+query+")")
}

const everything = `SELECT node || ' ' || region || ' ' || self || ' ' || connections AS line FROM pops
	UNION ALL SELECT pop || ' ' || backend || ' ' || connections FROM backend_load
	UNION ALL SELECT pop || ' ' || backend || ' ' || up || ' ' || why FROM backend_health ORDER BY 1`

func wantLines(t *testing.T, path, query, want string) {
	t.Helper()
	if got := lines(t, path, query); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestTelemetry: the tables say what they were told to, and no more.
func TestTelemetry(t *testing.T) {
	s := openStore(t, newPath(t))
	tell(t, s, example())
	wantLines(t, s.path, everything, "sa-1 a 1 connect\nsa-1 a 5\nsa-1 sa 1 5\nus-1 a 0 connection refused\nus-1 a 8\nus-1 b 2\nus-1 us 0 10")
	next := example()
	next.POPs, next.Load, next.Health = next.POPs[:1], next.Load[:1], next.Health[:1]
	next.Load[0].Connections = 6
	tell(t, s, next)
	wantLines(t, s.path, everything, "sa-1 a 1 connect\nsa-1 a 6\nsa-1 sa 1 5")
	tell(t, s, Telemetry{})
	wantLines(t, s.path, everything, "")
	sound(t, s.path)
}

// TestMeshBackends: the sums, and what follows from them.
func TestMeshBackends(t *testing.T) {
	s := openStore(t, newPath(t))
	raw(t, s.path, `INSERT INTO backends VALUES
		('a', 'x', 'sa', '10.0.0.1', 80, 1, 2, 50, 100, 0),
		('b', 'x', 'us', '10.0.0.2', 80, NULL, NULL, NULL, NULL, NULL),
		('c', 'x', 'us', '10.0.0.3', 80, 1, 1, 1, 0, 0),
		('d', 'x', 'us', '10.0.0.4', 80, 0, 1, 1, 3, 1),
		('e', 'x', 'us', '10.0.0.5', 80, 1, 1, 1, 3, 0)`,
		"INSERT INTO backend_options (id, draining) VALUES ('c', 1)")
	what := example()
	what.Health = append(what.Health, Verdict{POP: "sa-1", Backend: "b"}, Verdict{POP: "us-1", Backend: "b"},
		Verdict{POP: "us-1", Backend: "d", Up: true})
	tell(t, s, what)
	const query = `SELECT id || ' healthy ' || healthy || ' checks ' || checks_up || '/' || checks_down || ' draining ' || draining
		|| ' deleted ' || deleted || ' connections ' || connections || ' own ' || own || ' headroom ' || coalesce(headroom, 'none') AS line
		FROM mesh_backends ORDER BY id`
	wantLines(t, s.path, query, strings.TrimSpace(`
a healthy 1 checks 1/1 draining 0 deleted 0 connections 13 own 5 headroom 87
b healthy 0 checks 0/2 draining 0 deleted 0 connections 2 own 0 headroom none
c healthy 1 checks 0/0 draining 1 deleted 0 connections 0 own 0 headroom none
d healthy 0 checks 1/0 draining 0 deleted 1 connections 0 own 0 headroom 3
e healthy 1 checks 0/0 draining 0 deleted 0 connections 0 own 0 headroom 3`))
}

// TestTelemetryIsNoChange: neither to Poll nor to the records. It is on the
// disk only where something else than its stamps has changed.
func TestTelemetryIsNoChange(t *testing.T) {
	p := newPop(t, newPath(t), "sa-1")
	put(t, p.Store, "a")
	p.fold()
	noticed(t, p.Store)
	before := p.digest()
	tell(t, p.Store, example())
	wantPoll(t, p.Store, false)
	if records := p.fold(); len(records) > 0 || p.digest() != before {
		t.Errorf("telemetry is in the records: %v, %+v", records, p.digest())
	}
	size := logSize(p.path)
	again := example()
	for i := range again.POPs {
		again.POPs[i].Seq, again.POPs[i].Seen = 99, time.Now()
	}
	for i := range again.Load {
		again.Load[i].Seq = 99
	}
	tell(t, p.Store, again)
	if logSize(p.path) != size || cell(t, p.path, "SELECT max(seq) FROM pops") != "1" {
		t.Error("it was written although nothing had changed")
	}
	again.Load[0].Connections++
	tell(t, p.Store, again)
	if got := cell(t, p.path, "SELECT group_concat(seq, ' ') FROM backend_load"); got != "99 1 1" {
		t.Errorf("stamps %s, want that of the row that changed", got)
	}
	wantPoll(t, p.Store, false)
	if f := p.check(); len(f.Restored)+f.Edited != 0 || f.TriggersRestored {
		t.Errorf("check found %+v", f)
	}
}

// TestTelemetryHidesNoChange: what others commit before or after it is told by
// Poll, the trigger's word or not.
func TestTelemetryHidesNoChange(t *testing.T) {
	p := newPop(t, newPath(t), "sa-1")
	noticed(t, p.Store)
	what := example()
	for i := range 50 {
		elsewhereOpen(t, p.path, fmt.Sprintf("INSERT INTO backends (id) VALUES ('before-%d')", i))
		what.Load[0].Connections = int64(i + 1)
		tell(t, p.Store, what)
		wantPoll(t, p.Store, true)
		tell(t, p.Store, Telemetry{})
		elsewhereOpen(t, p.path, fmt.Sprintf("INSERT INTO backends (id) VALUES ('after-%d')", i))
		wantPoll(t, p.Store, true)
	}
}

// elsewhereOpen is elsewhere without the cost of a process.
func elsewhereOpen(t *testing.T, path, statement string) {
	t.Helper()
	db := openOther(path)
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

// TestTelemetryBesideWriters: every row that somebody else commits at whatever
// moment is told.
func TestTelemetryBesideWriters(t *testing.T) {
	s := openStore(t, newPath(t))
	const rows = 300
	next, failed := make(chan int), make(chan error, 1)
	go func() {
		db := openOther(s.path)
		defer db.Close()
		for i := range next {
			if _, err := db.Exec("INSERT INTO backends (id) VALUES (?)", i); err != nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	deadline, known, n := time.Now().Add(5*time.Minute), 0, int64(0)
	for i := range rows {
		next <- i
		for known <= i {
			if time.Now().After(deadline) {
				t.Fatalf("row %d was not told", i)
			}
			n++
			if err := s.WriteTelemetry(t.Context(), Telemetry{Load: []Load{{POP: "p", Backend: "a", Connections: n}}}, time.Now()); err != nil && !errors.Is(err, ErrLocked) {
				t.Fatal(err)
			}
			changed, err := s.Poll(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if changed {
				known = len(ids(t, s))
			}
		}
	}
	close(next)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// TestTelemetryWaitsForNobody: while somebody else writes it is left for the
// next call.
func TestTelemetryWaitsForNobody(t *testing.T) {
	s, err := open(t.Context(), newPath(t), 2*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	other := anotherProcess(t, "obey", s.path)
	other.exec("BEGIN IMMEDIATE")
	within(t, time.Minute, func() {
		if err := s.WriteTelemetry(t.Context(), example(), time.Now()); !errors.Is(err, ErrLocked) {
			t.Errorf("got %v while another writes", err)
		}
	})
	other.exec("COMMIT")
	tell(t, s, example())
	if got := cell(t, s.path, "SELECT count(*) FROM pops"); got != "2" {
		t.Errorf("%s POPs, want 2", got)
	}
}

// TestTelemetryOfBefore: what a process left that was killed, what somebody
// did to the tables, and what stands in a file of an older version, is gone
// with the next call.
func TestTelemetryOfBefore(t *testing.T) {
	path := made(t, newPath(t), "a")
	first := openStore(t, path)
	tell(t, first, example())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, path)
	want := Telemetry{POPs: example().POPs[:1]}
	for _, spoil := range []string{
		"SELECT 1",
		"DELETE FROM pops",
		"INSERT INTO backend_load (pop, backend, connections) VALUES (x'00', NULL, 'many')", // fails: NULL in the key
		"INSERT INTO backend_load (pop, backend, connections) VALUES (x'00', 'b', 'many')",
		"UPDATE pops SET connections = x'ff'",
		"DROP TABLE pops",
		"DROP VIEW mesh_backends",
		"ALTER TABLE backend_health RENAME COLUMN why TO reason",
		"ALTER TABLE backends ADD COLUMN country TEXT",
	} {
		db := openOther(path)
		if _, err := db.Exec(spoil); err != nil && !strings.Contains(spoil, "NULL") {
			t.Fatal(err)
		}
		db.Close()
		tell(t, s, want)
		wantLines(t, path, everything, "sa-1 sa 1 5")
		if got := cell(t, path, "SELECT count(*) FROM mesh_backends"); got != "1" {
			t.Errorf("after %q the view has %s rows", spoil, got)
		}
	}
	sound(t, path)
}

// TestTelemetryLeavesOthersAlone: a table or a view of the operator's that has
// one of our names stays as it is, and is named.
func TestTelemetryLeavesOthersAlone(t *testing.T) {
	for name, tc := range map[string]struct{ statement, told, query, want string }{
		"table":  {"CREATE TABLE Pops (id TEXT PRIMARY KEY, note TEXT)", "table pops", "SELECT count(*) FROM backend_load", "3"},
		"view":   {"CREATE VIEW backend_load AS SELECT 1 AS pop, 2 AS backend", "view backend_load", "SELECT count(*) FROM pops", "2"},
		"index":  {"CREATE INDEX pops ON backends (app)", "index pops", "SELECT count(*) FROM backend_load", "3"},
		"ofView": {"CREATE TABLE mesh_backends (x)", "table mesh_backends", "SELECT count(*) FROM pops", "2"},
	} {
		t.Run(name, func(t *testing.T) {
			path := made(t, newPath(t), "a")
			raw(t, path, tc.statement)
			s := openStore(t, path)
			schema := cell(t, path, "SELECT group_concat(sql) FROM sqlite_schema WHERE name IN ('Pops', 'pops', 'backend_load', 'mesh_backends')")
			for range 2 {
				err := s.WriteTelemetry(t.Context(), example(), time.Now())
				if !errors.Is(err, ErrShape) || !strings.Contains(err.Error(), tc.told) {
					t.Fatalf("got %v, want ErrShape that names the %s", err, tc.told)
				}
			}
			if got := cell(t, path, tc.query); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.query, got, tc.want)
			}
			if got := cell(t, path, "SELECT group_concat(sql) FROM sqlite_schema WHERE name IN ('Pops', 'pops', 'backend_load', 'mesh_backends')"); !strings.HasPrefix(got, schema) {
				t.Errorf("%s became %s", schema, got)
			}
			wantIDs(t, s, "a")
			put(t, s, "b")
			sound(t, path)
		})
	}
}

// TestTelemetryOfABackup: there is none.
func TestTelemetryOfABackup(t *testing.T) {
	s := openStore(t, newPath(t))
	tell(t, s, example())
	copied := s.path + ".copy"
	if err := s.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	wantLines(t, copied, everything, "")
	if got := cell(t, s.path, "SELECT count(*) FROM pops"); got != "2" {
		t.Errorf("and the original has %s POPs, want 2", got)
	}
}

// TestTelemetryInParts: so much of it that one transaction would keep others
// from the file for long is written by and by.
func TestTelemetryInParts(t *testing.T) {
	s := openStore(t, newPath(t))
	const rows = 2*mostTelemetry + 1
	var what Telemetry
	for i := range rows {
		what.Load = append(what.Load, Load{POP: "p", Backend: fmt.Sprint(i), Connections: 1})
	}
	for _, want := range []int{mostTelemetry, 2 * mostTelemetry, rows, rows} {
		begin := time.Now()
		tell(t, s, what)
		t.Logf("%d rows of %d after %v", want, rows, time.Since(begin).Round(100*time.Microsecond))
		if got := cell(t, s.path, "SELECT count(*) FROM backend_load"); got != fmt.Sprint(want) {
			t.Fatalf("%s rows, want %d", got, want)
		}
	}
}

// TestTelemetryInAnotherFile: one that was moved into the place of the old one
// gets its own.
func TestTelemetryInAnotherFile(t *testing.T) {
	s := openStore(t, newPath(t))
	tell(t, s, example())
	rename(t, made(t, s.path+".new", "new"), s.path)
	tell(t, s, example()) // to neither
	noticed(t, s)
	tell(t, s, example())
	wantPoll(t, s, false)
	if got := cell(t, s.path, "SELECT count(*) FROM backend_load"); got != "3" {
		t.Errorf("%s rows, want 3", got)
	}
	wantIDs(t, s, "new")
}
