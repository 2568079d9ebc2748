package clustertests

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// forgetful is nil where a POP remembers no delete any more.
func (p *pop) forgetful() error {
	st, err := look[api.Status](p, "status")
	if err == nil && st.Records.Tombstones > 0 {
		err = fmt.Errorf("%s remembers %d deletes", p.Node, st.Records.Tombstones)
	}
	return err
}

// TestAwayForTooLong: a member is away until the others, one of whom was
// told to forget it, remember no delete any more. It comes back with the rows, and they
// stay deleted; what it wrote itself meanwhile counts.
func TestAwayForTooLong(t *testing.T) {
	needs(t, "long") // deletes are forgotten by the minute
	t.Parallel()
	m := newMesh(t, 3)
	a, b, c := m.pops[0], m.pops[1], m.pops[2]
	var rows []row
	for i := range 20 {
		rows = append(rows, at(fmt.Sprintf("gone-%02d", i), "sa", refusing(t)))
	}
	a.sql(t, insert(append(rows, at("stays", "sa", refusing(t)))...))
	settle(t, converged, m.pops...)
	stopAll(t, c)
	eventually(t, soon, func() error { return errors.Join(a.sees(c.Node, "failed"), b.sees(c.Node, "failed")) })
	stopAll(t, b)
	b.start(t) // knows c from before its restart alone
	settle(t, converged, a, b)
	if err := a.do("members", "forget", c.Node); err != nil { // b hears of it
		t.Fatal(err)
	}
	atOnce(t,
		func() error { return a.write("DELETE FROM backends WHERE id LIKE 'gone-%'") },
		func() error { return b.write("DELETE FROM backends WHERE id LIKE 'gone-%'") })
	settle(t, converged, a, b)
	began := time.Now()
	eventually(t, 3*time.Minute, func() error { return errors.Join(a.forgetful(), b.forgetful()) })
	t.Logf("no delete is remembered after %s", time.Since(began).Round(time.Second))

	c.sql(t, insert(at("own", "sa", refusing(t)))+"UPDATE backends SET weight=7 WHERE id='stays'")
	stopAll(t, b) // it hears of it from one alone
	c.start(t)
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "own|1\nstays|7", a, c)
	b.start(t)
	together(t, m.pops...)
	settle(t, converged, m.pops...)
	everywhere(t, "SELECT id, weight FROM backends ORDER BY id", "own|1\nstays|7", m.pops...)
	goesOn(t, "after", m.pops...)
}
