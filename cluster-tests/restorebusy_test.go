package clustertests

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestRestoreUnderWrites: backups put in place while changes arrive from
// another POP. The file is sound each time, and the POP goes on.
func TestRestoreUnderWrites(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2)
	a, p := m.pops[0], m.pops[1]
	a.sql(t, insert(at("shared", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	w := &writer{prefix: "api", write: byAPI(a)}
	all.Go(func() { w.run(ctx, func() {}) })
	for round := range often(4, 20) {
		backup := filepath.Join(p.dir, fmt.Sprintf("backup-%d.db", round))
		if err := p.do("backup", backup); err != nil {
			t.Fatal(err)
		}
		if err := p.do("restore", backup); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("mark-%d", round)
		if err := p.write(insert(at(id, "sa", refusing(t)))); err != nil {
			t.Fatalf("round %d, right after a restore: %v", round, err)
		}
		if got := strings.TrimSpace(p.sql(t, "PRAGMA integrity_check")); got != "ok" {
			t.Fatalf("round %d: integrity_check: %s", round, got)
		}
		everywhere(t, "SELECT count(*) FROM backends WHERE id='"+id+"'", "1", m.pops...)
		if lines := p.log.lines("not a sound SQLite database"); len(lines) > 0 {
			t.Fatalf("round %d: %s", round, lines[0])
		}
	}
	stop()
	all.Wait()
	settle(t, 2*converged, m.pops...)
	for _, x := range m.pops {
		if lost := w.lacks(t, x); len(lost) > 0 {
			t.Errorf("%s lacks %d rows: %.200q", x.Node, len(lost), lost)
		}
	}
}
