package clustertests

import (
	"fmt"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
)

// alone is nil where a POP sees nobody but itself.
func (p *pop) alone() error {
	members, err := look[[]api.Member](p, "members")
	if err == nil && len(members) != 1 {
		err = fmt.Errorf("%s sees %d members", p.Node, len(members))
	}
	return err
}

// TestWrongKey gets a POP nowhere, and it learns nothing.
func TestWrongKey(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2)
	m.pops[0].sql(t, insert(at("ours", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	for name, env := range map[string][]string{
		"another key": {"EDGEPROXY_CLUSTER_KEY=" + newKey()},
		"no key":      {"EDGEPROXY_CLUSTER_KEY=", "EDGEPROXY_INSECURE=true"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newPOP(t, append([]string{"EDGEPROXY_JOIN=" + m.seed()}, env...)...)
			s.seed(t, at("theirs", "sa", refusing(t)))
			s.start(t) // it has rows, and serves them
			for _, log := range []struct {
				of    *pop
				words []string
			}{{s, []string{`"level":"warn"`, "waiting to join", m.seed(), "key"}}, {m.pops[0], []string{`"level":"warn"`, "no installed keys could decrypt"}}} {
				eventually(t, soon, func() error { return log.of.log.says(log.words...) })
			}
			if st := s.status(t); !strings.Contains(st.Waiting, m.seed()) {
				t.Errorf("status of the stranger waits for %q", st.Waiting)
			}
			if err := s.alone(); err != nil {
				t.Error(err)
			}
			together(t, m.pops...)
			for _, p := range m.pops {
				if members, err := look[[]api.Member](p, "members"); err != nil || len(members) != 2 {
					t.Errorf("%s has %d members, %v", p.Node, len(members), err)
				}
				expectLines(t, "the rows of "+p.Node, p.sql(t, "SELECT id FROM backends"), "ours")
			}
			expectLines(t, "the stranger's rows", s.sql(t, "SELECT id FROM backends"), "theirs")
			for _, secret := range []string{m.key, s.setting("EDGEPROXY_CLUSTER_KEY"), m.pops[0].Node, m.pops[1].Node} {
				if secret != "" && strings.Contains(s.log.String(), secret) {
					t.Errorf("the stranger's log holds %q", secret)
				}
			}
		})
	}
}

// TestTwin: a second node under the id of one that lives is refused by name,
// and ends; the first does not notice.
func TestTwin(t *testing.T) {
	t.Parallel()
	m := planMesh(t, 2)
	m.pops[1].set("EDGEPROXY_NODE_ID", "us-east")
	m.start(t)
	m.pops[1].sql(t, insert(at("ours", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	open := m.pops[1].PopFile

	twin := m.add(t, "EDGEPROXY_NODE_ID=us-east")
	m.pops = m.pops[:2]
	twin.launch(t)
	if code := twin.wait(t, soon); code != 1 {
		t.Errorf("the second us-east ended with %d, want 1", code)
	}
	twin.expectLog(t, "edgeproxy: ", "us-east", "another live node", "EDGEPROXY_NODE_ID")
	if err := m.pops[1].findAddresses(); err != nil || m.pops[1].PopFile != open {
		t.Errorf("the first us-east: %v, %+v", err, m.pops[1].PopFile)
	}
	together(t, m.pops...)
	settle(t, converged, m.pops...)
	goesOn(t, "after", m.pops...)
}

// TestTakenOver: another machine under the name of one that is down has
// another key: refused by name, until the name is forgotten.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	m := planMesh(t, 3)
	m.pops[2].set("EDGEPROXY_NODE_ID", "eu-west")
	m.start(t)
	m.pops[0].sql(t, insert(at("ours", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	m.pops[2].kill(t)
	m.pops = m.pops[:2]
	for _, p := range m.pops {
		eventually(t, soon, func() error { return p.sees("eu-west", "failed") })
	}

	other := m.add(t, "EDGEPROXY_NODE_ID=eu-west")
	m.pops = m.pops[:2]
	other.seed(t, at("theirs", "sa", refusing(t)))
	other.launch(t)
	for _, p := range m.pops {
		eventually(t, soon, func() error { return p.log.says("eu-west", "another key", "members forget") })
	}
	eventually(t, soon, func() error { return other.log.says("another key") })
	for _, p := range m.pops {
		expectLines(t, "the rows of "+p.Node, p.sql(t, "SELECT id FROM backends"), "ours")
	}
	expectLines(t, "its rows", other.sql(t, "SELECT id FROM backends"), "theirs")

	// The log says what to do. If the mesh takes it for alive, it is stopped first.
	code, _, errs := m.pops[0].run(t, "members", "forget", "eu-west")
	if code != 0 {
		t.Logf("while the other one runs: members forget: %d %s", code, errs)
		other.kill(t)
		eventually(t, soon, func() error { return m.pops[0].do("members", "forget", "eu-west") })
		other.launch(t)
	}
	m.pops = append(m.pops, other)
	other.reaches(t, func() error { return nil })
	together(t, m.pops...)
	everywhere(t, "SELECT id FROM backends ORDER BY id", "ours\ntheirs", m.pops...)
	goesOn(t, "after", m.pops...)
}
