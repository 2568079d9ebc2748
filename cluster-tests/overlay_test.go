package clustertests

import (
	"fmt"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestOverlay: eight POPs of which each holds streams with a few of the others
// only are one mesh all the same. What is written on any is on all, the load of
// all is seen on each, strict limits (of the first mesh, which is the only one with -short)
// hold across them, and when POPs die others take their places.
func TestOverlay(t *testing.T) {
	needs(t, "long") // eight POPs
	t.Parallel()
	for _, limit := range []int{2, 3}[:often(1, 2)] { // one after the other: sixteen POPs are many for one machine
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) { testOverlay(t, limit) })
	}
}

func testOverlay(t *testing.T, limit int) {
	b := startBackend(t, "a", "sa")
	a := b.row()
	a.hard = 60
	strict := limit == 2 // which opens streams of its own
	env := []string{fmt.Sprintf("%s=%d", fanoutLimit, limit)}
	if strict {
		env = append(env, "EDGEPROXY_STRICT_LIMITS=on")
	}
	m := planMesh(t, 8, env...)
	m.pops[0].seed(t, a)
	m.pops[0].start(t)
	startAll(t, m.pops[1:]...)
	for _, p := range m.pops {
		for _, other := range m.pops {
			eventually(t, converged, func() error { return p.sees(other.Node, "alive") })
		}
	}

	for i, p := range m.pops { // switched off: clients would try them, where nobody listens
		if err := p.write(fmt.Sprintf("INSERT INTO backends VALUES ('b%d', 'other', 'sa', '127.0.0.1', %d, 0, 1, 10, 20, 0)", i, 20000+i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a row of each POP is on all after %s", settle(t, converged, m.pops...))
	everywhere(t, "SELECT count(*) FROM backends", "9", m.pops...)

	// Every POP counts what all the others have open, with few streams.
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.goesTo("", "a") })
		p.settled(t)
	}
	each := 7
	if strict {
		each = 10
	}
	open := burst(t, each, m.pops...)
	// How many get through of so many at once is TestBurst's, which has the machine to itself.
	n := int(b.Open())
	if n != len(open) || n > 60 || n < 30 {
		t.Errorf("%d of %d at once got through, and the backend has %d; its limit is 60", len(open), 8*each, n)
	}
	for _, p := range m.pops {
		eventually(t, converged, func() error {
			return p.shows(t, "SELECT connections FROM mesh_backends WHERE id='a'", fmt.Sprint(n))
		})
	}
	for _, v := range open {
		v.Close()
	}

	// What dies leaves no hole.
	m.pops[2].kill(t)
	m.pops[5].kill(t)
	rest := append(append(append([]*pop{}, m.pops[:2]...), m.pops[3:5]...), m.pops[6:]...)
	for i, p := range rest {
		if err := p.write(fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='b%d'", 2+i, i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("six of eight: equal after %s", settle(t, converged, rest...))
	startAll(t, m.pops[2], m.pops[5])
	t.Logf("eight again: equal after %s", settle(t, 2*converged, m.pops...))

	// A full mesh would be 56.
	streams := 0
	for _, p := range m.pops {
		st, err := look[api.Status](p, "status")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range st.Peers {
			if s.Connected {
				streams++
			}
		}
	}
	if streams >= 56 && !strict {
		t.Errorf("%d ends of streams: a full mesh", streams)
	}
}
