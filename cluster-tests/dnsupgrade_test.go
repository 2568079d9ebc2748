package clustertests

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestDNSThroughUpgradesAndDrain: upgrades go by without one query that has to
// be asked again, and what drains is still found.
func TestDNSThroughUpgradesAndDrain(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), withDNS, unchecked, noAffinity)
	var over atomic.Bool
	var all sync.WaitGroup
	var asked atomic.Int64
	var failed atomic.Pointer[error]
	for _, tcp := range []bool{false, false, true} {
		all.Go(func() {
			for !over.Load() || asked.Load() < 100 {
				time.Sleep(2 * time.Millisecond)
				m, err := p.resolveBy(lookup{name: "myapp.internal", qtype: "A", tcp: tcp})
				if err == nil && len(m.Answer) != 1 {
					err = fmt.Errorf("got %v", m)
				}
				if err != nil {
					err = fmt.Errorf("tcp %v, after %d: %w", tcp, asked.Load(), err)
					failed.CompareAndSwap(nil, &err)
				}
				asked.Add(1)
			}
		})
	}
	before := p.DNS
	for range 2 {
		p.upgrade(t)
	}
	if p.DNS != before {
		t.Errorf("it answers at %s now, before at %s", p.DNS, before)
	}
	over.Store(true)
	all.Wait()
	if err := failed.Load(); err != nil {
		t.Error(*err)
	}
	v := p.visit(t, "")
	defer v.Close()
	pid := p.PID
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, p.refusesConnects)
	if err := p.finds("myapp.internal", "127.0.0.1"); err != nil {
		t.Errorf("while it drains: %v", err)
	}
	v.Close()
	eventually(t, soon, func() error {
		if running(pid) {
			return errors.New("it drains on")
		}
		return nil
	})
}
