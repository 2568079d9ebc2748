package clustertests

import (
	"database/sql"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// watcher looks at one POP for a change: in its file, and in what it decides by.
type watcher struct {
	p    *pop
	db   *sql.DB
	http *http.Client
}

func newWatcher(t testing.TB, p *pop) *watcher {
	t.Helper()
	db, err := sql.Open(sqlite.Driver, "file:"+p.db+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	c := &http.Client{Timeout: soon, Transport: &http.Transport{}}
	t.Cleanup(func() {
		db.Close()
		c.CloseIdleConnections()
	})
	return &watcher{p, db, c}
}

// inFile is nil where the row has that weight in routing.db.
func (w *watcher) inFile(weight int) error {
	var got int
	err := w.db.QueryRow("SELECT weight FROM backends WHERE id='watched'").Scan(&got)
	if err == nil && got != weight {
		err = fmt.Errorf("weight %d in the file, want %d", got, weight)
	}
	return err
}

// inDecision is nil where the routing picture has that weight.
func (w *watcher) inDecision(weight int) error {
	resp, err := w.http.Get("http://" + w.p.API + "/api/v1/backends/watched")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := readAll(resp.Body)
	if err == nil && !strings.Contains(body, fmt.Sprintf(`"weight":%d,`, weight)) && !strings.Contains(body, fmt.Sprintf(`"weight": %d,`, weight)) {
		err = fmt.Errorf("%s decides by %s", w.p.Node, body)
	}
	return err
}

// BenchmarkPropagation: from the commit by sqlite3 on one of three POPs until
// the change is in the routing.db of the two others, and in their decisions.
func BenchmarkPropagation(b *testing.B) {
	m := newMesh(b, 3, "EDGEPROXY_LOG_LEVEL=info")
	m.pops[0].sql(b, insert(at("watched", "sa", refusing(b))))
	settle(b, converged, m.pops...)
	writer := openSQL(b, m.pops[0].db)
	watchers := []*watcher{newWatcher(b, m.pops[1]), newWatcher(b, m.pops[2])}
	var files, decisions []time.Duration
	weight := 1
	for b.Loop() {
		weight++
		file, decision := make([]time.Duration, len(watchers)), make([]time.Duration, len(watchers))
		errs := make([]error, 2*len(watchers))
		writer.do(b, fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='watched'", weight))
		began := time.Now()
		var all sync.WaitGroup
		for i, w := range watchers {
			all.Go(func() {
				errs[2*i] = spin(func() error { return w.inFile(weight) })
				file[i] = time.Since(began)
			})
			all.Go(func() {
				errs[2*i+1] = spin(func() error { return w.inDecision(weight) })
				decision[i] = time.Since(began)
			})
		}
		all.Wait()
		for _, err := range errs {
			if err != nil {
				b.Fatal(err, states(m.pops...))
			}
		}
		files, decisions = append(files, file...), append(decisions, decision...)
		<-time.After(20 * time.Millisecond)
	}
	report(b, "file", files)
	report(b, "route", decisions)
}

// spin looks each half millisecond.
func spin(check func() error) error {
	for began := time.Now(); ; {
		err := check()
		if err == nil || time.Since(began) > converged {
			return err
		}
		<-time.After(500 * time.Microsecond)
	}
}

func report(b *testing.B, what string, d []time.Duration) {
	s := slices.Sorted(slices.Values(d))
	for name, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
		b.ReportMetric(float64(s[min(len(s)-1, int(q*float64(len(s))))])/float64(time.Millisecond), name+"-"+what+"-ms")
	}
	b.ReportMetric(0, "ns/op")
}

// equals waits until all hold the same. It looks seldom, for a look at many
// rows takes the time that is measured.
func (m *mesh) equals(b *testing.B) {
	b.Helper()
	err := waitFor(5*time.Minute, func() error {
		<-time.After(400 * time.Millisecond)
		return same(m.pops...)
	})
	if err != nil {
		b.Fatal(err, states(m.pops...))
	}
}

// BenchmarkJoin100k: an empty POP joins a mesh of 100,000 rows: seconds until
// it is ready, and until it prints the digest of the others.
func BenchmarkJoin100k(b *testing.B) {
	const rows = 100_000
	m := newMesh(b, 2, "EDGEPROXY_LOG_LEVEL=info")
	m.pops[0].sql(b, fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d)
		INSERT INTO backends SELECT printf('b-%%06d', i), 'myapp', 'sa', '10.1.1.1', 80, 1, 1, 100, 0, 0 FROM n`, rows))
	began := time.Now()
	m.equals(b)
	b.Logf("%d rows written at once are on the other POP after %s", rows, time.Since(began))
	var ready, equal []float64
	for b.Loop() {
		p := m.add(b, "EDGEPROXY_LOG_LEVEL=info")
		began := time.Now()
		p.launch(b)
		if err := waitFor(5*time.Minute, func() error {
			if err := p.findAddresses(); err != nil {
				return err
			}
			return p.isReady()
		}); err != nil {
			b.Fatal(err, states(m.pops...))
		}
		ready = append(ready, time.Since(began).Seconds())
		m.equals(b)
		equal = append(equal, time.Since(began).Seconds())
		p.stop(b)
		m.pops = m.pops[:len(m.pops)-1]
	}
	for name, s := range map[string][]float64{"s-ready": ready, "s-equal": equal} {
		slices.Sort(s)
		b.ReportMetric(s[len(s)/2], name)
	}
	b.ReportMetric(0, "ns/op")
}
