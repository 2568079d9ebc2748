package clustertests

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// fill writes some rows on each, in ways of all kinds.
func (m *mesh) fill(t testing.TB, prefix string) {
	t.Helper()
	for i, p := range m.pops {
		for j := range 3 {
			p.sql(t, insert(at(fmt.Sprintf("%s-%d-%d", prefix, i, j), "sa", refusing(t))))
		}
		id := fmt.Sprintf("%s-api-%d", prefix, i)
		if err := p.change("POST", "backends", `{"id":"`+id+`","region":"us","addr":"10.50.2.1:8080","draining":true}`); err != nil {
			t.Fatal(err)
		}
		p.sql(t, fmt.Sprintf("DELETE FROM backends WHERE id='%s-%d-1'", prefix, i))
	}
}

// TestColdStart: everything off, by SIGTERM and by kill -9, and on again in
// random order: the same state, and a mesh that goes on.
func TestColdStart(t *testing.T) {
	t.Parallel()
	m := newMesh(t, often(3, 5))
	r := pick(t)
	for round := range often(2, 6) {
		m.fill(t, fmt.Sprintf("round%d", round))
		settle(t, converged, m.pops...)
		before := m.pops[0].sql(t, tables)
		if round%2 == 0 {
			stopAll(t, m.pops...)
		} else {
			for _, p := range m.pops {
				p.kill(t)
			}
		}
		order := r.Perm(len(m.pops))
		began := time.Now()
		for _, i := range order {
			m.pops[i].launch(t)
			if r.IntN(2) == 0 { // others wait for nobody; neither may this one
				m.pops[i].reaches(t, m.pops[i].isReady)
			}
		}
		for _, p := range m.pops {
			p.reaches(t, p.isReady)
		}
		ready := time.Since(began)
		together(t, m.pops...)
		t.Logf("started in the order %v: all ready after %s, a mesh after %s", order, ready, time.Since(began))
		settle(t, converged, m.pops...)
		if after := m.pops[0].sql(t, tables); after != before {
			t.Fatalf("the tables were\n%sand are\n%s", before, after)
		}
	}
	m.fill(t, "after")
	settle(t, converged, m.pops...)
}

// TestEmptyDisk: a POP whose disk was replaced has everything again when it is
// ready, under a new name, and the mesh learns from it.
func TestEmptyDisk(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3)
	m.fill(t, "old")
	settle(t, converged, m.pops...)
	old := m.pops[2]
	old.kill(t)
	m.pops[0].sql(t, "UPDATE backends SET weight=7")
	settle(t, converged, m.pops[:2]...)
	p := newPOP(t, old.env...)
	p.set("EDGEPROXY_DB_PATH", p.db)
	m.pops[2] = p
	began := time.Now()
	p.start(t)
	ready := time.Since(began)
	if d := m.pops[0].against(p); d != "" {
		t.Errorf("it is ready and lacks something: %s", d)
	}
	if p.Node == old.Node {
		t.Errorf("with an empty disk it is called %s again", p.Node)
	}
	together(t, m.pops...)
	settle(t, converged, m.pops...)
	t.Logf("an empty disk: ready with all rows after %s, equal in every way after %s", ready, time.Since(began))
	m.fill(t, "new")
	settle(t, converged, m.pops...)
}

// remove is rm -f.
func remove(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}
