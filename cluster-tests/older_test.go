package clustertests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// firstMesh is the commit with which the mesh came: no table services, no
// column backend_options.health_check, and a protocol of version 1.
const firstMesh = "55b7877"

// buildOlder builds edgeproxy as it was at a commit, from the history of this repository.
func buildOlder(t testing.TB, commit string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "edgeproxy-"+commit)
	build := exec.Command("sh", "-ec", `git -C "$1" archive "$2" | tar -x -C "$3"; cd "$3"; go build -o "$4" ./cmd/edgeproxy`, "sh", repoRoot, commit, dir, program)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("edgeproxy as of %s cannot be built; it needs the whole history (git fetch --unshallow) and Go's modules: %v\n%s", commit, err, out)
	}
	return program
}

// TestOlderPOP: a POP of the first version and three of this one, which has a
// table and a column more, exchange rows both ways. Nothing of the newer ones
// is lost by what the older writes, nor where it is who a POP joins by, and
// once it is upgraded it has all.
func TestOlderPOP(t *testing.T) {
	needs(t, "long")
	t.Parallel()
	m := planMesh(t, 3)
	old := m.pops[0]
	old.program = buildOlder(t, firstMesh)
	m.start(t)
	us, eu := m.pops[1], m.pops[2]
	newer := []*pop{us, eu}

	us.sql(t, insert(at("of-us", "us", refusing(t)), at("both", "us", refusing(t)))+`
		INSERT INTO services (app, health_check, hard_limit) VALUES ('myapp', 'off', 7);
		INSERT INTO backend_options (id, country, health_check) VALUES ('both', 'US', 'tcp interval=7s');`)
	old.sql(t, insert(at("of-old", "sa", refusing(t))))
	everywhere(t, "SELECT count(*) FROM backends", "3", m.pops...)
	const services, options = "SELECT app, health_check, hard_limit FROM services", "SELECT id, country, health_check FROM backend_options"
	everywhere(t, services, "myapp|off|7", newer...)
	everywhere(t, options, "both|US|tcp interval=7s", newer...)
	everywhere(t, "SELECT id, country FROM backend_options", "both|US", m.pops...)

	// edits on either side of the same rows
	old.sql(t, "UPDATE backend_options SET country='BR' WHERE id='both'; UPDATE backends SET weight=5")
	everywhere(t, options, "both|BR|tcp interval=7s", newer...)
	eu.sql(t, "UPDATE backend_options SET health_check='off' WHERE id='both'; UPDATE services SET hard_limit=8")
	everywhere(t, options, "both|BR|off", newer...)
	everywhere(t, services, "myapp|off|8", newer...)
	old.sql(t, "DELETE FROM backend_options WHERE id='both'")
	everywhere(t, "SELECT count(*) FROM backend_options", "0", m.pops...)
	us.sql(t, "INSERT INTO backend_options (id, country, health_check) VALUES ('both', 'US', 'tcp')")
	old.kill(t)
	old.start(t)
	together(t, m.pops...)
	everywhere(t, "SELECT id, country FROM backend_options", "both|US", m.pops...)
	old.sql(t, "UPDATE backend_options SET draining=1 WHERE id='both'")
	everywhere(t, options, "both|US|tcp", newer...)

	// two minutes of digests that cannot agree
	for _, p := range newer {
		before := p.metric(t, "edgeproxy_streams_total", `event="digest"`)
		eventually(t, 5*time.Minute, func() error {
			if n := p.metric(t, "edgeproxy_streams_total", `event="digest"`); n < before+2 {
				return fmt.Errorf("%s has compared %g digests, at first %g", p.Node, n, before)
			}
			return nil
		})
	}
	everywhere(t, services, "myapp|off|8", newer...)
	everywhere(t, options, "both|US|tcp", newer...)

	old.stop(t)
	old.program = ""
	old.start(t)
	together(t, m.pops...)
	// The rows that it refused are below its heads: a digest finds them.
	began := time.Now()
	err := waitFor(5*time.Minute, func() error {
		got, err := old.query(services + "; " + options)
		if err == nil && strings.TrimSpace(got) != "myapp|off|8\nboth|US|tcp" {
			err = fmt.Errorf("upgraded it has %q", got)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v%s", err, states(m.pops...))
	}
	t.Logf("upgraded it has all after %s", time.Since(began).Round(time.Second))
	settle(t, converged, m.pops...)
}
