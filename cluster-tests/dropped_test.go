package clustertests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDroppedTable: who drops a table has deleted nothing on the other POPs. It
// is made anew, by hand, by a restart or by edgeproxy itself, and its rows come
// back. What is deleted by DELETE stays deleted.
func TestDroppedTable(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2, unchecked)
	here, there := m.pops[0], m.pops[1]
	var rows []row
	for i := range 20 {
		rows = append(rows, startBackend(t, fmt.Sprintf("sa-%d", i), "sa").row())
	}
	here.sql(t, insert(rows...)+service("web", map[string]string{"soft_limit": "7"}))
	here.sql(t, "DELETE FROM backends WHERE id = 'sa-19'")
	const all = "19 1"
	has := func(p *pop) string {
		n, err := p.query("SELECT (SELECT count(*) FROM backends) || ' ' || (SELECT count(*) FROM services)")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(n)
	}
	settle(t, converged, m.pops...)
	if got := has(there); got != all {
		t.Fatalf("there are %s rows, want %s", got, all)
	}
	schema, err := os.ReadFile(filepath.Join(repoRoot, "sql/create_routing_db.sql"))
	if err != nil {
		t.Fatal(err)
	}
	for what, drop := range map[string]func(){
		"made by hand": func() {
			here.sql(t, "DROP TABLE backends")
			eventually(t, soon, func() error { return here.notReady("no table backends") })
			here.sql(t, ".read "+filepath.Join(repoRoot, "sql/create_routing_db.sql"))
		},
		"made by a restart": func() {
			here.sql(t, "DROP TABLE backends")
			here.signal(t, syscall.SIGTERM)
			here.wait(t, soon) // with 1, where it has noticed
			here.start(t)
		},
		"made in the same breath": func() {
			here.sql(t, "BEGIN; DROP TABLE backends;"+string(schema)+";COMMIT")
		},
		"the services'": func() {
			here.sql(t, "DROP TABLE services")
		},
	} {
		drop()
		eventually(t, soon, here.isReady)
		eventually(t, soon, func() error {
			if got := has(here); got != all {
				return fmt.Errorf("%s: there are %s rows, want %s", what, got, all)
			}
			return nil
		})
		for end := time.Now().Add(time.Second); time.Now().Before(end); <-time.After(50 * time.Millisecond) {
			if got := has(there); got != all {
				t.Fatalf("%s: on the other POP are %s rows, want %s", what, got, all)
			}
		}
		settle(t, converged, m.pops...)
	}
}
