package clustertests

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// upgrade has the POP taken over by another process, which ends with the test.
func (p *pop) upgrade(t testing.TB) {
	t.Helper()
	code, out, stderr := p.run(t, "upgrade", "--api", p.apiAddr())
	if code != 0 {
		t.Fatalf("upgrade ended with %d: %s%s", code, out, stderr)
	}
	p.succeeded(t)
}

// succeeded notes the process that serves now in the place of another.
func (p *pop) succeeded(t testing.TB) {
	t.Helper()
	old := p.PID
	st := p.status(t)
	if st.PID == old || st.PID == 0 {
		t.Fatalf("process %d serves, which did before", st.PID)
	}
	if err := p.findAddressesOf(st.PID); err != nil {
		t.Error(err)
	}
	pid := st.PID
	t.Cleanup(func() { // nobody's child: it is not waited for, but looked for
		for range 2 {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
		eventually(t, soon, func() error {
			if running(pid) {
				return fmt.Errorf("process %d does not end", pid)
			}
			return nil
		})
	})
}

// running says whether there is such a process, other than one that only waits
// to be waited for, as in a container without an init.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

// storm opens connections without a pause, each for one exchange, until the
// end, which returns how many there were, and the first that was not served.
func (p *pop) storm(clients int) (end func() (int64, error)) {
	var (
		all    sync.WaitGroup
		visits atomic.Int64
		failed atomic.Pointer[error]
		over   atomic.Bool
	)
	for range clients {
		all.Go(func() {
			for !over.Load() {
				v, err := p.call("")
				if err == nil {
					err = v.echo("hello")
					v.Close()
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				visits.Add(1)
			}
		})
	}
	return func() (int64, error) {
		over.Store(true)
		all.Wait()
		if err := failed.Load(); err != nil {
			return visits.Load(), *err
		}
		return visits.Load(), nil
	}
}

// TestUpgrade: three upgrades in a row, with 500 connections that last and a
// storm of others. None is dropped or refused, and another POP counts them as
// this one's all the while.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	const lasting = 500
	rows := startBackends(t, "sa")
	p := startPOP(t, rows, noAffinity, "EDGEPROXY_NODE_ID=up", unchecked)
	other := newPOP(t, noAffinity, "EDGEPROXY_NODE_ID=other", unchecked)
	other.set("EDGEPROXY_JOIN", p.Gossip)
	other.start(t)
	kept, err := p.openMany(lasting)
	defer closeAll(kept)
	if err != nil {
		t.Fatal(err)
	}
	id := rows[0].id
	counted := func(n int64) {
		t.Helper()
		eventually(t, soon, func() error {
			b, err := other.info(id)
			if err == nil && b.Connections != n {
				err = fmt.Errorf("the other POP counts %d connections of %s, want %d", b.Connections, id, n)
			}
			return err
		})
	}
	counted(lasting)
	end := p.storm(4)
	first := p.PID
	for range 3 {
		p.upgrade(t)
	}
	served, err := end()
	if err != nil {
		t.Errorf("of the storm, after %d: %v", served, err)
	}
	if served < 100 {
		t.Errorf("%d connections of the storm, want 100 at least", served)
	}
	counted(lasting)
	if n := p.status(t).Connections; n != lasting {
		t.Errorf("status counts %d connections, want %d", n, lasting)
	}
	for _, v := range kept {
		if err := v.echo("still there?"); err != nil {
			t.Fatal(err)
		}
	}
	if !running(first) {
		t.Error("the first process has ended before its connections")
	}
	if st := p.status(t); !st.Ready {
		t.Errorf("after three upgrades: not ready: %v", st.Reasons)
	}
	closeAll(kept)
	counted(0)
	eventually(t, soon, func() error {
		if running(first) {
			return errors.New("the first process runs on without a connection")
		}
		return nil
	})
}
