package clustertests

import (
	"fmt"
	"sync"
	"testing"
)

// TestStrictLimits: of a burst at three POPs at the same time, twice as much
// as the backend may have, exactly its hard limit gets through; the others are
// refused only because there is no more. What is given back can be had again,
// at any POP, also when one of them has been killed and has come back.
func TestStrictLimits(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "a", "sa")
	a := b.row()
	a.hard = 100
	m := planMesh(t, 3, unchecked, "EDGEPROXY_STRICT_LIMITS=on")
	m.pops[0].seed(t, a)
	m.start(t)
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.goesTo("", "a") }) // it knows the backend, and who grants
		p.settled(t)
	}

	var open []*visit
	giveBack := func() {
		for _, v := range open {
			v.Close()
		}
		for _, p := range m.pops {
			p.settled(t)
		}
	}
	eventually(t, 2*converged, func() error { // a client waits a second for a right, in which a busy machine may not bring it
		giveBack()
		if n := b.Open(); n != 0 {
			return fmt.Errorf("the backend has %d connections, want none before the next try", n)
		}
		open = burst(t, 70, m.pops...)
		n := b.Open()
		if len(open) == 100 && n == 100 {
			return nil
		}
		err := fmt.Errorf("%d of 210 at once got through, and the backend has %d connections, want 100", len(open), n)
		if len(open) > 100 || n > 100 {
			t.Fatal(err)
		}
		return err
	})
	for i, p := range m.pops {
		if _, refused := p.hold(t, 1); refused != 1 {
			t.Errorf("POP %d let one through beyond the limit", i)
		}
	}

	giveBack() // all that one POP has becomes another's
	last := m.pops[2]
	eventually(t, 2*converged, func() error { // as above
		got := burst(t, 100, last)
		if len(got) == 100 {
			return nil
		}
		for _, v := range got {
			v.Close()
		}
		return fmt.Errorf("%d of 100 got through at one POP, when the others had none", len(got))
	})

	// A process that is killed takes its connections with it. Once it is back,
	// others may have what it had.
	last.kill(t)
	last.start(t)
	eventually(t, 2*converged, func() error {
		if n := b.Open(); n != 0 {
			return fmt.Errorf("the backend has %d connections", n)
		}
		got := burst(t, 70, m.pops...)
		if n := b.Open(); n > 100 {
			t.Errorf("%d connections after a POP came back", n)
		}
		for _, v := range got {
			v.Close()
		}
		if len(got) != 100 {
			return fmt.Errorf("%d of 210 got through", len(got))
		}
		return nil
	})
}

// burst holds n connections at each of the POPs, all begun at the same time.
func burst(t *testing.T, n int, pops ...*pop) (open []*visit) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, p := range pops {
		all.Go(func() {
			got, _ := p.hold(t, n)
			mu.Lock()
			defer mu.Unlock()
			open = append(open, got...)
		})
	}
	all.Wait()
	return open
}
