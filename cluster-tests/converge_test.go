package clustertests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// atOnce does some things at the same moment.
func atOnce(t testing.TB, do ...func() error) {
	t.Helper()
	var all sync.WaitGroup
	start, errs := make(chan struct{}), make([]error, len(do))
	for i, f := range do {
		all.Go(func() {
			<-start
			errs[i] = f()
		})
	}
	close(start)
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestWritesReachEveryPOP: rows written on each of three POPs by sqlite3, by
// API and by the command line are on all, and so are the decisions.
func TestWritesReachEveryPOP(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	a, b, c := m.pops[0], m.pops[1], m.pops[2]
	sa, us, eu := startBackend(t, "sa-1", "sa"), startBackend(t, "us-1", "us"), startBackend(t, "eu-1", "eu")

	atOnce(t,
		func() error { return a.write(insert(sa.row())) },
		func() error {
			return b.change("POST", "backends", fmt.Sprintf(`{"id":"us-1","app":"myapp","region":"us","addr":"%s"}`, us.addr))
		},
		func() error {
			return c.do("backend", "add", "eu-1", "--app", "myapp", "--region", "eu", "--addr", eu.addr.String(), "--weight", "2", "--soft", "50", "--hard", "100")
		})
	t.Logf("three rows are on three POPs after %s", settle(t, converged, m.pops...))
	everywhere(t, "SELECT id FROM backends ORDER BY id", "eu-1\nsa-1\nus-1", m.pops...)

	atOnce(t,
		func() error { return b.write("UPDATE backends SET weight=3, soft_limit=7 WHERE id='sa-1'") },
		func() error { return c.change("PATCH", "backends/us-1", `{"weight":4,"draining":true,"country":"US"}`) },
		func() error { return a.do("backend", "set", "eu-1", "--weight", "5") })
	t.Logf("three changes: after %s", settle(t, converged, m.pops...))
	everywhere(t, "SELECT id, weight, soft_limit FROM backends ORDER BY id", "eu-1|5|50\nsa-1|3|7\nus-1|4|100", m.pops...)
	everywhere(t, "SELECT id, draining FROM backend_options WHERE draining", "us-1|1", m.pops...)

	// What is decided follows: by explain and in fact.
	for _, p := range m.pops {
		eventually(t, converged, func() error {
			state := p.backends(t)["us-1"].State
			if state != "draining" {
				return fmt.Errorf("us-1 is %s on %s", state, p.Node)
			}
			return nil
		})
	}
	for i, only := range []string{"eu-1", "sa-1", "us-1"} {
		began := time.Now()
		if err := m.pops[i].write("UPDATE backends SET healthy=(id='" + only + "'); UPDATE backend_options SET draining=0"); err != nil {
			t.Fatal(err)
		}
		for _, p := range m.pops {
			eventually(t, converged, func() error { return p.goesTo("", only) })
			code, out, errs := p.run(t, "explain", "--json", "200.160.2.3")
			var e route.Explanation
			if err := json.Unmarshal([]byte(out), &e); code != 0 || err != nil || e.Chosen != only || len(e.Candidates) != 3 {
				t.Errorf("explain on %s: %d %q %q %v", p.Node, code, out, errs, err)
			}
		}
		t.Logf("clients of all go to %s after %s", only, time.Since(began))
	}

	began := time.Now()
	if err := c.do("backend", "remove", "eu-1"); err != nil {
		t.Fatal(err)
	}
	everywhere(t, "SELECT id FROM backends ORDER BY id", "sa-1\nus-1", m.pops...)
	t.Logf("a row removed on one is gone on all after %s", time.Since(began))
	everywhere(t, "SELECT count(*) FROM backend_options WHERE id='eu-1'", "0", m.pops...)
	settle(t, converged, m.pops...)
}

// TestColumnsSurviveEachOther: "disable" on one POP, "weight" on another and
// "drain" on the third at the same moment: all of it holds.
func TestColumnsSurviveEachOther(t *testing.T) {
	t.Parallel()
	const rows = 12
	m := newMesh(t, 3)
	a, b, c := m.pops[0], m.pops[1], m.pops[2]
	var all []row
	for i := range rows {
		all = append(all, at(fmt.Sprintf("b-%02d", i), "sa", refusing(t)))
	}
	a.sql(t, insert(all...))
	settle(t, converged, m.pops...)
	for i, r := range all {
		disable := func() error { return a.write("UPDATE backends SET healthy=0 WHERE id='" + r.id + "'") }
		if i%2 == 1 {
			disable = func() error { return a.do("backend", "disable", r.id) }
		}
		atOnce(t, disable,
			func() error { return b.change("PATCH", "backends/"+r.id, `{"weight":7}`) },
			func() error {
				return c.write("UPDATE backends SET soft_limit=9, hard_limit=20 WHERE id='" + r.id + "'")
			})
	}
	took := settle(t, converged, m.pops...)
	t.Logf("%d rows with three concurrent changes each: equal after %s", rows, took)
	everywhere(t, "SELECT count(*), min(healthy), max(healthy), min(weight), max(weight), min(soft_limit), min(hard_limit) FROM backends",
		fmt.Sprintf("%d|0|0|7|7|9|20", rows), m.pops...)
}

// TestDeleteAgainstUpdate ends the same everywhere: whichever comes last holds
// where one can tell, and some one thing where one cannot.
func TestDeleteAgainstUpdate(t *testing.T) {
	t.Parallel()
	const rounds = 10
	m := newMesh(t, 3)
	a, b, c := m.pops[0], m.pops[1], m.pops[2]
	fresh := func(n int) {
		var all []row
		for i := range n {
			all = append(all, at(fmt.Sprintf("b-%02d", i), "sa", refusing(t)))
		}
		a.sql(t, "DELETE FROM backends; "+insert(all...))
		settle(t, converged, m.pops...)
		everywhere(t, "SELECT count(*) FROM backends", fmt.Sprint(n), m.pops...)
	}
	fresh(rounds)
	for i := range rounds {
		id := fmt.Sprintf("b-%02d", i)
		remove := func() error { return a.write("DELETE FROM backends WHERE id='" + id + "'") }
		update := func() error { return b.write("UPDATE backends SET weight=5, app='updated' WHERE id='" + id + "'") }
		if i%2 == 1 {
			remove = func() error { return a.change("DELETE", "backends/"+id, "") }
			update = func() error { // it may be too late for one by API
				a, err := b.request("PATCH", "/api/v1/backends/"+id, `{"weight":5}`)
				if err == nil && a.code != 200 && a.code != 404 {
					err = fmt.Errorf("PATCH: %+v", a)
				}
				return err
			}
		}
		atOnce(t, remove, update)
	}
	settle(t, converged, m.pops...)
	t.Logf("of %d rows deleted and updated at once %q are left", rounds, c.sql(t, "SELECT group_concat(id||'='||weight) FROM backends"))

	// Which came last is known where one of the two POPs has no daemon.
	fresh(2)
	stopAll(t, c)
	c.sql(t, "UPDATE backends SET weight=5 WHERE id='b-00'")
	<-time.After(clocksApart)
	a.sql(t, "DELETE FROM backends")
	everywhere(t, "SELECT count(*) FROM backends", "0", a, b)
	<-time.After(clocksApart)
	c.sql(t, "UPDATE backends SET weight=6, app='back' WHERE id='b-01'")
	c.start(t)
	everywhere(t, "SELECT id, app, region, weight, soft_limit, healthy FROM backends", "b-01|back|sa|6|100|1", m.pops...)
	settle(t, converged, m.pops...)
}

// clocksApart is more than POPs that have only just begun take each other's
// clocks to differ: of two writes on two of them that are closer the one may be
// the later or the other.
const clocksApart = 3 * time.Second

// TestEditsWithTheDaemonDown are picked up at the next start, with the time
// at which they were made.
func TestEditsWithTheDaemonDown(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	a, c := m.pops[0], m.pops[2]
	for _, id := range []string{"older", "newer", "gone"} {
		a.sql(t, insert(at(id, "sa", refusing(t))))
	}
	settle(t, converged, m.pops...)
	stopAll(t, c)
	c.sql(t, insert(at("new", "sa", refusing(t)))+`
		UPDATE backends SET weight=10 WHERE id='older'; DELETE FROM backends WHERE id='gone'; DELETE FROM backends WHERE id='gone'`)
	<-time.After(clocksApart)
	a.sql(t, "UPDATE backends SET weight=20 WHERE id IN ('older', 'newer')")
	<-time.After(clocksApart)
	c.sql(t, "UPDATE backends SET weight=30 WHERE id='newer'")
	if err := c.do("backend", "add", "by-command", "--region", "us", "--addr", "10.50.2.1:80", "--db", c.db); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.start(t)
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "by-command|1\nnew|1\nnewer|30\nolder|20", m.pops...)
	t.Logf("edits with the daemon down are everywhere %s after its start", time.Since(began))
	settle(t, converged, m.pops...)
}

// writer writes until its context ends, and remembers what was acknowledged.
type writer struct {
	prefix string
	write  func(id string, weight int) error

	tried, refused int
	acked          map[string]int // weight by id
	last           error          // of those that were refused
}

// run writes one row after the other, at most one each 40 ms, or 10 where time does not matter.
func (w *writer) run(ctx context.Context, told func()) {
	w.acked = map[string]int{}
	pace := time.NewTicker(time.Duration(often(40, 10)) * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		w.tried++
		id, weight := fmt.Sprintf("%s-%04d", w.prefix, w.tried), 1+w.tried%90
		if err := w.write(id, weight); err != nil {
			w.refused, w.last = w.refused+1, err
		} else {
			w.acked[id] = weight
			told()
		}
		select {
		case <-ctx.Done():
		case <-pace.C:
		}
	}
}

// bySQL and byAPI are ways to write a row to a POP, whoever runs there now.
func bySQL(p *pop) func(string, int) error {
	return func(id string, weight int) error {
		return p.write(fmt.Sprintf("INSERT INTO backends VALUES ('%s','w','sa','10.9.9.9',80,1,%d,10,0,0)", id, weight))
	}
}

func byAPI(p *pop) func(string, int) error {
	return func(id string, weight int) error {
		return p.change("POST", "backends", fmt.Sprintf(`{"id":"%s","app":"w","region":"sa","addr":"10.9.9.9:80","weight":%d,"soft_limit":10}`, id, weight))
	}
}

// lacks is what of the acknowledged rows a POP does not have.
func (w *writer) lacks(t testing.TB, p *pop) (missing []string) {
	t.Helper()
	have := map[string]bool{}
	for _, line := range sortedLines(p.sql(t, "SELECT id, weight FROM backends WHERE app='w'")) {
		have[line] = true
	}
	for _, id := range sorted(w.acked) {
		if !have[fmt.Sprintf("%s|%d", id, w.acked[id])] {
			missing = append(missing, id)
		}
	}
	return missing
}
