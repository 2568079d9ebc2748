package clustertests

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// most is the greatest number of clients that were there at once.
func (d *door) most() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.peak
}

// TestBurst: 2,000 connections a second come upon five POPs at once, all for
// one region, and stay. Whoever comes while any backend has room is served,
// and no backend gets more than a tenth beyond its hard limit; with strict limits
// none gets more.
func TestBurst(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env        []string
		most, lost int
	}{
		"best effort": {nil, hardLimit * 11 / 10, 0},
		"strict":      {[]string{"EDGEPROXY_STRICT_LIMITS=on"}, hardLimit, 9},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			surge(t, c.most, c.lost, c.env...)
		})
	}
}

const hardLimit = 100

func surge(t *testing.T, most, lost int, env ...string) {
	const backends, hard, clients = 10, hardLimit, 900
	var doors []*door
	var rows []row
	for i := range backends {
		d := newDoor(t)
		r := at(fmt.Sprintf("b%d", i), []string{"sa", "us"}[i%2], d.addr)
		r.soft, r.hard = 80, hard
		doors, rows = append(doors, d), append(rows, r)
	}
	m := planMesh(t, 5, slices.Concat(trusting, env, []string{unchecked})...)
	m.pops[0].seed(t, rows...)
	m.start(t)
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.is("b9", "up") })
	}
	var refused atomic.Int64
	var all sync.WaitGroup
	ticker := time.NewTicker(500 * time.Microsecond)
	defer ticker.Stop()
	for i := range clients {
		<-ticker.C
		all.Go(func() {
			from := fmt.Sprintf("200.160.%d.%d", i/250, 1+i%250)
			v, err := m.pops[i%5].call(from)
			if err != nil {
				refused.Add(1)
				return
			}
			t.Cleanup(func() { v.Close() })
		})
	}
	all.Wait()
	total, worst := 0, 0
	for _, d := range doors {
		total += d.most()
		worst = max(worst, d.most())
	}
	t.Logf("%d served, %d refused, at most %d at one backend", total, refused.Load(), worst)
	// With strict limits a client waits for a right for a second, which may not be
	// enough on a machine that has other things to do.
	if n := refused.Load(); n > int64(lost) {
		t.Errorf("%d of %d clients refused, though there was room for %d", n, clients, backends*hard)
	}
	if worst > most {
		t.Errorf("%d connections at one backend, want %d at most", worst, most)
	}
}
