package clustertests

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLimitOfTheMesh: connections of all POPs count, for the limit and for
// the choice; those of a POP that died are given back.
func TestLimitOfTheMesh(t *testing.T) {
	t.Parallel()
	a, b := startBackend(t, "a", "sa").row(), startBackend(t, "b", "sa").row()
	a.hard, b.hard = 6, 0
	m := planMesh(t, 2)
	m.pops[0].seed(t, a, b)
	m.start(t)
	sa, us := m.pops[0], m.pops[1]
	eventually(t, converged, func() error {
		if n := len(us.backends(t)); n != 2 {
			return fmt.Errorf("%d backends", n)
		}
		return nil
	})
	sa.sql(t, "UPDATE backends SET healthy=0 WHERE id='b'")
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.is("b", "unhealthy") })
	}
	open, refused := us.hold(t, 6)
	if len(open) != 6 || refused != 0 {
		t.Fatalf("%d connections, %d refused", len(open), refused)
	}
	eventually(t, converged, func() error { return sa.has("a", 6) })
	eventually(t, converged, func() error { return sa.is("a", "full") })
	if _, refused := sa.hold(t, 1); refused != 1 {
		t.Error("a seventh connection was let through")
	}
	open[0].Close()
	eventually(t, converged, func() error { return sa.has("a", 5) })
	if got := sa.goes(t, ""); got != "a" {
		t.Errorf("went to %q, with one place free", got)
	}
	us.kill(t)
	// The lease is 10 s.
	eventually(t, 2*converged, func() error { return sa.has("a", 0) })
	if got := sa.goes(t, ""); got != "a" {
		t.Errorf("went to %q after the other POP died", got)
	}
}

// TestPausedPOP: others ignore the counts of one that is stopped, after its
// lease, and take them again when it goes on.
func TestPausedPOP(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b", "sa")
	m := planMesh(t, 2)
	m.pops[0].seed(t, b.row())
	m.start(t)
	sa, us := m.pops[0], m.pops[1]
	eventually(t, converged, func() error { return us.is("b", "up") })
	open, _ := us.hold(t, 20)
	eventually(t, converged, func() error { return sa.has("b", 20) })
	us.signal(t, syscall.SIGSTOP)
	stopped := time.Now()
	eventually(t, 3*converged, func() error { return sa.has("b", 0) })
	if took := time.Since(stopped); took < 5*time.Second || took > 25*time.Second {
		t.Errorf("ignored after %s, want the lease of 10 s", took)
	}
	us.signal(t, syscall.SIGCONT)
	eventually(t, 3*converged, func() error { return sa.has("b", 20) })
	for _, v := range open {
		v.alive(t)
	}
	together(t, m.pops...)
}

// is is nil where the POP says this of the backend.
func (p *pop) is(id, state string) error {
	a, err := p.request("GET", "/api/v1/backends/"+id, "")
	if err != nil {
		return err
	}
	if want := fmt.Sprintf(`"state":%q`, state); !strings.Contains(a.body, want) {
		return fmt.Errorf("%s, want %s", a.body, want)
	}
	return nil
}
