package clustertests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestSeedsThatDoNotAnswer: one that does not resolve, one that refuses, the
// POP itself, and one that comes up later. The log and the status say what is
// waited for, and who is there serves meanwhile.
func TestSeedsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	m := planMesh(t, 3)
	late, a, b := m.pops[0], m.pops[1], m.pops[2]
	refused := refusing(t).String()
	for i, p := range []*pop{a, b} {
		p.set("EDGEPROXY_JOIN", strings.Join([]string{"nowhere.invalid:7946", refused, p.setting("EDGEPROXY_GOSSIP_ADDR"), m.seed()}, ","))
		p.seed(t, startBackend(t, fmt.Sprintf("sa-%d", i), "sa").row())
	}
	startAll(t, a, b)
	for i, p := range []*pop{a, b} {
		if got := p.goes(t, ""); got != fmt.Sprintf("sa-%d", i) {
			t.Errorf("alone, a client went to %q", got)
		}
		eventually(t, soon, func() error {
			w := p.status(t).Waiting
			if !holds(w, []string{"nowhere.invalid:7946", refused, m.seed()}) {
				return fmt.Errorf("%s waits for %q", p.Node, w)
			}
			return nil
		})
		p.expectLog(t, `"level":"warn"`, "waiting to join", "nowhere.invalid", refused, "refused", m.seed())
		for _, line := range p.log.lines("waiting to join") {
			if strings.Contains(line, p.Gossip+": ") {
				t.Errorf("it complains of itself as a seed: %s", line)
			}
		}
		if err := p.alone(); err != nil {
			t.Error(err)
		}
	}

	began := time.Now()
	late.start(t) // knows nobody and is found
	together(t, m.pops...)
	t.Logf("the seed that was waited for: a mesh %s after its start", time.Since(began))
	settle(t, converged, m.pops...)
	everywhere(t, "SELECT id FROM backends ORDER BY id", "sa-0\nsa-1", m.pops...)
	for _, p := range []*pop{a, b} {
		p.expectLog(t, `"level":"info"`, late.Node, "alive", "member changed")
		if w := p.status(t).Waiting; w != "" {
			t.Errorf("%s is in the mesh and waits for %q", p.Node, w)
		}
	}
}

// TestOwnSeed: a POP that is given only itself waits for nobody in particular.
func TestOwnSeed(t *testing.T) {
	t.Parallel()
	m := planMesh(t, 2)
	m.pops[0].set("EDGEPROXY_JOIN", m.seed())
	m.pops[0].seed(t, startBackends(t, "sa")...)
	m.pops[0].start(t)
	if w := m.pops[0].status(t).Waiting; w != "" {
		t.Errorf("it waits for %q", w)
	}
	m.pops[1].start(t)
	together(t, m.pops...)
	settle(t, converged, m.pops...)
	if err := m.pops[0].log.says("waiting to join"); err == nil {
		t.Error("it says that it waits for itself")
	}
}

// TestReadiness: who has rows serves them at once and is ready after five
// seconds at most; who has none and is to join is not ready before it has
// heard from the mesh, or 30 seconds have shown that there is none.
func TestReadiness(t *testing.T) {
	t.Parallel()
	m := planMesh(t, 3)
	nobody, full, empty := m.pops[0], m.pops[1], m.pops[2]
	full.seed(t, startBackends(t, "sa")...)
	began := time.Now()
	full.launch(t)
	full.reaches(t, func() error { return full.goesTo("", "sa-1") })
	served := time.Since(began)
	names := func() error { return full.notReady("first exchange", nobody.setting("EDGEPROXY_GOSSIP_ADDR")) }
	if err := waitFor(time.Second, names); err != nil && time.Since(began) < 4*time.Second {
		t.Errorf("right after its start: %v", err)
	}
	full.reaches(t, full.isReady)
	ready := time.Since(began)
	t.Logf("with rows and nobody there: served after %s, ready after %s", served, ready)
	if ready < 2*time.Second || ready > 15*time.Second {
		t.Errorf("with rows and nobody there it was ready after %s, want 5 s", ready)
	}

	began = time.Now()
	empty.launch(t)
	empty.reaches(t, func() error { return empty.notReady("first exchange") })
	for time.Since(began) < 7*time.Second {
		if err := empty.notReady("first exchange"); err != nil {
			t.Fatalf("%s after its start, empty and with nobody there: %v", time.Since(began), err)
		}
		<-time.After(50 * time.Millisecond)
	}
	if wanted("long") {
		eventually(t, 50*time.Second, empty.isReady)
		t.Logf("empty and with nobody there: ready after %s", time.Since(began))
		if d := time.Since(began); d < 25*time.Second {
			t.Errorf("ready after %s, want 30 s", d)
		}
		stopAll(t, empty)
		empty.launch(t)
	}
	nobody.start(t) // names no seed, so it waits for nobody
	began = time.Now()
	empty.reaches(t, empty.isReady)
	eventually(t, soon, func() error { return empty.goesTo("", "sa-1") }) // what the first exchange was with may have had no rows either
	together(t, m.pops...)
	t.Logf("ready %s after the seed was", time.Since(began))
}

// TestMembers: their list and status in JSON, as scripts read them.
func TestMembers(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	m.pops[0].sql(t, insert(at("a", "sa", refusing(t)), at("b", "sa", refusing(t))))
	settle(t, converged, m.pops...)
	a, c := m.pops[0], m.pops[2]
	code, out, errs := a.run(t, "members", "--json")
	var list []map[string]any
	if err := json.Unmarshal([]byte(out), &list); code != 0 || err != nil || len(list) != 3 {
		t.Fatalf("members --json: %d %q %q %v", code, out, errs, err)
	}
	byName := map[string]map[string]any{}
	for _, x := range list {
		expectLines(t, "the keys of a member", strings.Join(sorted(x), "\n"), "addr", "name", "region", "rtt_ms", "status", "tags")
		byName[fmt.Sprint(x["name"])] = x
	}
	for _, p := range m.pops {
		x := byName[p.Node]
		if x["status"] != "alive" || x["region"] != p.setting("EDGEPROXY_REGION") || x["addr"] != p.Gossip {
			t.Errorf("%s is %v", p.Node, x)
		}
		_, port, _ := net.SplitHostPort(p.Sync)
		if tags, ok := x["tags"].(map[string]any); !ok || tags["region"] != x["region"] || tags["sync"] != port {
			t.Errorf("the tags of %s are %v", p.Node, x["tags"])
		}
	}
	code, out, errs = a.run(t, "status", "--json")
	var st struct {
		Members []api.Member
		Records map[string]any
		Peers   []map[string]any
	}
	if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil || len(st.Members) != 3 || len(st.Peers) != 2 {
		t.Fatalf("status --json: %d %q %q %v", code, out, errs, err)
	}
	for _, key := range []string{"digest", "rows", "missing", "quarantined", "tombstones"} {
		if _, ok := st.Records[key]; !ok {
			t.Errorf("records lacks %s: %v", key, st.Records)
		}
	}
	if st.Records["rows"] != 2.0 {
		t.Errorf("records %v, want 2 rows", st.Records)
	}
	for _, x := range st.Peers {
		for _, key := range []string{"node", "connected", "lag_ms", "queued"} {
			if _, ok := x[key]; !ok {
				t.Errorf("a peer lacks %s: %v", key, x)
			}
		}
	}

	// Failed, alive again, left.
	c.kill(t)
	began := time.Now()
	eventually(t, soon, func() error { return errors.Join(a.sees(c.Node, "failed"), m.pops[1].sees(c.Node, "failed")) })
	t.Logf("a killed POP is failed on all after %s", time.Since(began))
	c.start(t)
	together(t, m.pops...)
	if code, _, errs := a.run(t, "members", "forget", c.Node); code == 0 || !strings.Contains(errs, c.Node) {
		t.Errorf("forget one that lives: %d %q", code, errs)
	}
	if code, out, errs := c.run(t, "leave"); code != 0 || !strings.Contains(out, "leaving") {
		t.Errorf("leave: %d %q %q", code, out, errs)
	}
	if code := c.wait(t, soon); code != 0 {
		t.Errorf("after leave the process ended with %d", code)
	}
	eventually(t, soon, func() error { return errors.Join(a.sees(c.Node, "left"), m.pops[1].sees(c.Node, "left")) })
	together(t, m.pops[:2]...)
	a.sql(t, "DELETE FROM backends WHERE id='a'")
	c.start(t) // who left may come back
	together(t, m.pops...)
	settle(t, converged, m.pops...)
}
