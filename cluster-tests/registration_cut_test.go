package clustertests

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWhoIsCutOffDeletesNothing: a backend goes over to another POP while the
// one that took its heartbeats so far is cut off, for more than ten TTLs. That
// one may take it out of its own routing, and must not delete what the other
// has: the delete would be the later word.
func TestWhoIsCutOffDeletesNothing(t *testing.T) {
	needs(t, "long") // half a minute, mostly of waiting
	t.Parallel()
	s := newLoopback(t, seedOf(t), false)
	if why := s.refuses("cut"); why != "" {
		t.Fatal(why)
	}
	m := planMesh(t, 2)
	for _, p := range m.pops {
		s.place(p)
		p.env = append(p.env, shortTTL, allowLoopback, "EDGEPROXY_HEALTH_CHECK=off")
	}
	m.start(t)
	first, other := m.pops[0], m.pops[1]
	b := startBackend(t, "sa-1", "sa")
	first.register(t, b, `,"weight":7`)
	onAll(t, converged, m.pops, "sa-1", "up")
	cut := func(is bool) {
		for _, ends := range [][2]int{{0, 1}, {1, 0}} {
			if err := s.change(ends[0], ends[1], func(l *link) { l.cut = is }); err != nil {
				t.Fatal(err)
			}
		}
	}
	beats := func(d time.Duration) {
		t.Helper()
		for began := time.Now(); time.Since(began) < d; <-time.After(200 * time.Millisecond) {
			other.beat(t, "sa-1", "", 200)
		}
	}
	cut(true)
	beats(14 * time.Second)
	onAll(t, soon, []*pop{first}, "sa-1", "expired")
	if n := first.metric(t, "edgeproxy_registrations_deleted_total"); n != 0 {
		t.Errorf("the POP that is cut off deleted %v", n)
	}
	cut(false)
	eventually(t, converged, func() error {
		other.beat(t, "sa-1", "", 200)
		for _, p := range m.pops {
			if v := p.backends(t)["sa-1"]; v.State != "up" || v.Weight != 7 {
				return fmt.Errorf("%s has %+v", p.Node, v)
			}
		}
		return nil
	})
	beats(4 * time.Second)
}

// TestAgentLeavesWhatIsNotItsOwn: an operator's row in the place of the agent's,
// and a successor at another address, outlive the agent.
func TestAgentLeavesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "us"), sixSeconds, allowLoopback, "EDGEPROXY_HEALTH_CHECK=off")
	operators, successors := startBackend(t, "sa-1", "sa"), startBackend(t, "sa-2", "sa")
	first, second := startAgent(t, startBackend(t, "sa-1", "sa"), []*pop{p}), startAgent(t, startBackend(t, "sa-2", "sa"), []*pop{p})
	onAll(t, converged, []*pop{p}, "sa-1", "up")
	onAll(t, converged, []*pop{p}, "sa-2", "up")
	p.register(t, successors, "")
	p.sql(t, fmt.Sprintf("DELETE FROM registrations WHERE id = 'sa-1'; UPDATE backends SET port = %d WHERE id = 'sa-1'", operators.addr.Port()))
	eventually(t, soon, func() error { return first.log.says("is static") })
	for _, a := range []*agent{first, second} {
		if err := a.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	first.ends(t, 0)
	second.ends(t, 0, "not unregistered: it is another's by now")
	p.beat(t, "sa-2", "", 200)
	for id, b := range map[string]*backend{"sa-1": operators, "sa-2": successors} {
		if v := p.backends(t)[id]; v.State != "up" || v.Addr != b.addr.String() {
			t.Errorf("%s is %+v, want it at %s", id, v, b.addr)
		}
	}
}

// TestHeartbeatsThatAreNotSent: a POP that can write heartbeats and cannot send
// them refuses them, as its records are damaged: agents go to the next one.
func TestHeartbeatsThatAreNotSent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2, sixSeconds, allowLoopback)
	good, bad := m.pops[0], m.pops[1]
	startAgent(t, startBackend(t, "sa-2", "sa"), []*pop{bad, good})
	onAll(t, converged, m.pops, "sa-2", "up")
	bad.sql(t, `CREATE TRIGGER no_more BEFORE INSERT ON crdt_rows BEGIN SELECT RAISE(ABORT, 'no more'); END;
		CREATE TRIGGER no_change BEFORE UPDATE ON crdt_rows BEGIN SELECT RAISE(ABORT, 'no more'); END`)
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		for _, p := range m.pops {
			if state := p.states(t)["sa-2"]; state != "up" {
				t.Fatalf("%s has it as %s: %s", p.Node, state, p.backends(t)["sa-2"].Why)
			}
		}
	}
	if pop := good.witness(t, "sa-2"); pop != good.Node {
		t.Errorf("the last heartbeat was %s's", pop)
	}
	if a := bad.ask(t, "POST", "/api/v1/heartbeat/sa-2", ""); a.code != 503 || !strings.Contains(a.body, "not sent yet") {
		t.Errorf("a heartbeat is answered %d %s", a.code, a.body)
	}
	bad.sql(t, "DROP TRIGGER no_more; DROP TRIGGER no_change")
	eventually(t, soon, func() error {
		if a := bad.ask(t, "POST", "/api/v1/heartbeat/sa-2", ""); a.code != 200 {
			return fmt.Errorf("a heartbeat is answered %d %s", a.code, a.body)
		}
		return nil
	})
	settle(t, converged, m.pops...)
}
