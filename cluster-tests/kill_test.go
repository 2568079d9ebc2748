package clustertests

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestKilledWhileWritten: kill -9 of one of three POPs while sqlite3 and the
// API write to it. No acknowledged row is lost, the file is sound each time,
// and the POP is back in the mesh soon: 20 times with EDGEPROXY_TEST=long, 10 of them with -short.
func TestKilledWhileWritten(t *testing.T) {
	needs(t, "long") // a mesh under writes, killed again and again
	t.Parallel()
	rounds := often(10, 20)
	m := newMesh(t, 3)
	p := m.pops[1]
	p.set("EDGEPROXY_API_ADDR", p.API) // writers find it again

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	writers := []*writer{{prefix: "sql", write: bySQL(p)}, {prefix: "api", write: byAPI(p)}}
	acks := make([]atomic.Int64, len(writers))
	for i, w := range writers {
		all.Go(func() { w.run(ctx, func() { acks[i].Add(1) }) })
	}
	// more waits until each writer was told so many more times that a row is written.
	more := func(n int64) {
		t.Helper()
		for i := range acks {
			want := acks[i].Load() + n
			eventually(t, soon, func() error {
				if acks[i].Load() < want {
					return fmt.Errorf("%s writes nothing", writers[i].prefix)
				}
				return nil
			})
		}
	}

	r := pick(t)
	var back, seen []time.Duration
	for round := range rounds {
		more(1 + r.Int64N(12))
		p.kill(t)
		if got := strings.TrimSpace(p.sql(t, "PRAGMA integrity_check")); got != "ok" {
			t.Fatalf("round %d: integrity_check: %s", round, got)
		}
		began := time.Now()
		p.launch(t)
		p.reaches(t, func() error { return formed(p, m.pops[0], m.pops[2]) })
		back = append(back, time.Since(began))
		mark := fmt.Sprintf("mark-%d", round)
		p.sql(t, insert(at(mark, "sa", refusing(t))))
		everywhere(t, "SELECT count(*) FROM backends WHERE id='"+mark+"'", "1", m.pops...)
		seen = append(seen, time.Since(began))
	}
	more(1)
	stop()
	all.Wait()
	t.Logf("after kill -9, from its start: back in the mesh %s; a new write is on all %s", quantiles(back), quantiles(seen))
	for _, d := range back {
		if d > 30*time.Second {
			t.Errorf("it took %s to be back in the mesh", d)
		}
	}

	settle(t, 3*converged, m.pops...)
	for _, w := range writers {
		t.Logf("%s: %d rows acknowledged, %d refused or cut short, the last by: %v", w.prefix, len(w.acked), w.refused, w.last)
		for _, p := range m.pops {
			if lost := w.lacks(t, p); len(lost) > 0 {
				t.Errorf("%s lacks %d acknowledged rows of %s: %.200q", p.Node, len(lost), w.prefix, lost)
			}
		}
	}
	for _, line := range p.log.lines("panic") {
		t.Errorf("the log says: %s", line)
	}
}
