package clustertests

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestCheckerDies: its backends are another's within two intervals of 5 s.
func TestCheckerDies(t *testing.T) {
	t.Parallel()
	b := startBackend(t, "b", "sa")
	m := planMesh(t, 3)
	m.pops[0].seed(t, b.row())
	for _, p := range m.pops {
		p.set("EDGEPROXY_REGION", "sa")
	}
	m.start(t)
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.judged("b", true, 2) })
	}
	info, err := m.pops[0].info("b")
	if err != nil {
		t.Fatal(err)
	}
	var rest []*pop
	for _, p := range m.pops {
		if p.Node == info.Checks[0].POP {
			p.kill(t)
			continue
		}
		rest = append(rest, p)
	}
	died := time.Now()
	for _, p := range rest {
		eventually(t, 2*converged, func() error {
			info, err := p.info("b")
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(info.Checks, func(v api.Verdict) bool { return v.POP == rest[0].Node }) ||
				!slices.ContainsFunc(info.Checks, func(v api.Verdict) bool { return v.POP == rest[1].Node }) {
				return fmt.Errorf("checked by %+v", info.Checks)
			}
			return nil
		})
	}
	if took := time.Since(died); took > 15*time.Second {
		t.Errorf("replaced after %s, want two intervals at most", took)
	} else {
		t.Logf("replaced after %s", took)
	}
}

// TestChecksAreShared: 200 backends, 5 POPs of their region: each backend is
// asked by two, not by five.
func TestChecksAreShared(t *testing.T) {
	t.Parallel()
	const backends, interval = 200, time.Second
	var asked atomic.Int64
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-served })
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	var rows []row
	for i := range backends {
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, byte(i >> 8), byte(1 + i&0xff)}), port)
		if i&0xff == 0xff {
			addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, 9, 9}), port)
		}
		rows = append(rows, at(fmt.Sprintf("b%03d", i), "sa", addr))
	}
	m := planMesh(t, 5, "EDGEPROXY_HEALTH_CHECK=tcp interval=1s", "EDGEPROXY_LOG_LEVEL=info")
	m.pops[0].seed(t, rows...)
	for _, p := range m.pops {
		p.set("EDGEPROXY_REGION", "sa")
	}
	m.start(t)
	eventually(t, 2*converged, func() error {
		for _, r := range rows {
			if err := m.pops[4].judged(r.id, true, 2); err != nil {
				return err
			}
		}
		return nil
	})
	const intervals = 5
	before, began := asked.Load(), time.Now()
	<-time.After(intervals * interval) // what is counted is time
	perInterval := float64(asked.Load()-before) / backends * float64(interval) / float64(time.Since(began))
	t.Logf("%.2f checks of a backend per interval", perInterval)
	if perInterval > 2.4 || perInterval < 1 {
		t.Errorf("%.2f checks of a backend per interval, want about 2, at most 2.4", perInterval)
	}
	eventually(t, converged, func() error {
		n, err := m.pops[0].query("SELECT count(*) FROM backend_health WHERE up")
		if err == nil && strings.TrimSpace(n) != "400" {
			err = fmt.Errorf("backend_health has %s rows, want 400", n)
		}
		return err
	})
}
