package clustertests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
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
		_ = syscall.Kill(pid, syscall.SIGTERM)
		for end := time.Now().Add(apart); running(pid) && time.Now().Before(end); <-time.After(10 * time.Millisecond) {
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
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
// end, which returns why the first of them was not served. A machine on which
// an upgrade is over in no time has a hundred of them all the same.
func (p *pop) storm(clients int) (end func() error) {
	var (
		all    sync.WaitGroup
		visits atomic.Int64
		failed atomic.Pointer[error]
		over   atomic.Bool
	)
	for range clients {
		all.Go(func() {
			for !over.Load() || visits.Load() < 100 {
				v, err := p.call("")
				if err == nil {
					err = v.echo("hello")
					_ = v.SetLinger(0) // nothing stays behind of so many
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
	return func() error {
		over.Store(true)
		all.Wait()
		if err := failed.Load(); err != nil {
			return fmt.Errorf("of the storm, after %d: %w", visits.Load(), *err)
		}
		return nil
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
		kept = append(kept, p.visit(t, "")) // so that each process has one
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	counted(lasting + 3)
	if n := p.status(t).Connections; n != lasting+3 {
		t.Errorf("status counts %d connections, want %d", n, lasting+3)
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

// installed gives the POP a binary of its own, which install replaces by a script.
func (p *pop) installed(t testing.TB) (install func(script string)) {
	t.Helper()
	put := func(body []byte) {
		t.Helper()
		overwrite(t, p.program+".new", body)
		if err := os.Chmod(p.program+".new", 0o755); err != nil {
			t.Fatal(err)
		}
		rename(t, p.program+".new", p.program)
	}
	p.program = p.dir + "/edgeproxy"
	body, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	put(body)
	return func(script string) { t.Helper(); put([]byte("#!/bin/sh\n" + script + "\n")) }
}

// TestUpgradeFails: whatever lies where the binary was, the POP goes on: where
// that does not start, in the same process, and where it fails only after the
// old one has let go, in another one of the old binary.
func TestUpgradeFails(t *testing.T) {
	t.Parallel()
	p := newPOP(t, noAffinity)
	install := p.installed(t)
	p.seed(t, startBackends(t, "sa")...)
	p.start(t)
	one := p.visit(t, "")
	end := p.storm(2)
	refused := func(words ...string) {
		t.Helper()
		code, out, stderr := (&pop{dir: p.dir, env: p.env}).run(t, "upgrade", "--api", p.apiAddr())
		if code == 0 {
			t.Errorf("upgrade ended with 0: %s", out)
		}
		for _, w := range words {
			if !strings.Contains(stderr, w) {
				t.Errorf("upgrade says %q, want %q in it", stderr, w)
			}
		}
	}

	install("exit 3")
	refused("did not start")
	install("exec " + binary + ` "$@" --region ""`)
	refused("did not start")
	if st := p.status(t); st.PID != p.PID || !st.Ready {
		t.Fatalf("process %d serves, ready %v; want %d", st.PID, st.Ready, p.PID)
	}
	if err := os.Chmod(p.program, 0o644); err != nil {
		t.Fatal(err)
	}
	refused("permission denied", p.program)

	// An address that it cannot have shows before anybody has let go.
	if err := os.Chmod(p.program, 0o755); err != nil {
		t.Fatal(err)
	}
	install("exec " + binary + ` "$@" --listen 192.0.2.1:1`)
	refused("did not start")
	if st := p.status(t); st.PID != p.PID || !st.Ready {
		t.Fatalf("process %d serves, ready %v; want %d", st.PID, st.Ready, p.PID)
	}

	// It reads its settings, and finds only then that its database cannot be there.
	install("exec " + binary + ` "$@" --db /proc/no/such/routing.db`)
	refused("did not take over", "binary that ran before")
	p.succeeded(t)
	p.expectLog(t, "taken back")
	one.alive(t)

	install("exec " + binary + ` "$@"`)
	if err := syscall.Kill(p.PID, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	was := p.PID
	eventually(t, soon, func() error {
		a, err := p.request("GET", "/api/v1/status", "")
		var st api.Status
		if err == nil {
			err = json.Unmarshal([]byte(a.body), &st)
		}
		if err == nil && st.PID == was {
			err = errors.New("the old process serves")
		}
		return err
	})
	p.succeeded(t)
	one.alive(t)
	if err := end(); err != nil {
		t.Error(err)
	}
}

// TestUpgradeMoves: a new process that is to listen elsewhere does, and who
// still waits at the old address is served.
func TestUpgradeMoves(t *testing.T) {
	t.Parallel()
	p := newPOP(t, noAffinity)
	config := p.dir + "/edgeproxy.yaml"
	p.args = []string{"serve", "--config", config}
	p.env = slices.DeleteFunc(p.env, func(e string) bool { return strings.HasPrefix(e, "EDGEPROXY_LISTEN_ADDR=") })
	from, to := freeAddress(t), freeAddress(t)
	overwrite(t, config, []byte("listen_addr: "+from+"\n"))
	p.seed(t, startBackends(t, "sa")...)
	p.start(t)
	one := p.visit(t, "")
	svc := freeAddress(t)
	p.sql(t, service("myapp", map[string]string{"listen": svc}))
	listens(t, svc)
	overwrite(t, config, []byte("listen_addr: "+to+"\n"))
	p.upgrade(t)
	for range 16 { // whichever queue the kernel chooses: the services' sockets go on
		entrance(svc).visit(t, "").alive(t)
	}
	if p.Listen != to {
		t.Errorf("it listens on %s, want %s", p.Listen, to)
	}
	p.visit(t, "").alive(t)
	one.alive(t)
	eventually(t, soon, func() error {
		c, err := net.Dial("tcp", from)
		if err == nil {
			c.Close()
			return errors.New("somebody still listens at the old address")
		}
		return nil
	})
}

// TestUpgradeKeepsAffinity: a client has the same backend after an upgrade as
// before, while another one is better.
func TestUpgradeKeepsAffinity(t *testing.T) {
	t.Parallel()
	p := twoBackends(t)
	v := p.visit(t, "200.160.2.3")
	backend := v.backend
	v.Close()
	p.visit(t, "200.160.2.4")
	for range 3 { // load on it, so that the other one is better
		if got := p.visit(t, "200.160.2.3").backend; got != backend {
			t.Fatalf("the client has %s, then %s", backend, got)
		}
	}
	p.upgrade(t)
	if e := p.explain(t, "200.160.2.3"); e.Chosen != backend || e.Reason != "affinity" {
		t.Errorf("after the upgrade: %s for %s, want %s for affinity", e.Chosen, e.Reason, backend)
	}
	if n := p.status(t).Bindings; n != 2 {
		t.Errorf("%d bindings, want 2", n)
	}
}

// TestUpgradeAndEnd: a POP that is told to end while its new process starts
// does, and that one does not serve in its place.
func TestUpgradeAndEnd(t *testing.T) {
	t.Parallel()
	p := newPOP(t, noAffinity)
	install := p.installed(t)
	p.start(t)
	// The new process tells when it is there, and takes its time.
	there, proceed := p.dir+"/there", p.dir+"/proceed"
	install(fmt.Sprintf("echo $$ >%[1]s.new; mv %[1]s.new %[1]s\nuntil [ -e %[2]s ]; do sleep 0.01; done\nexec %[3]s \"$@\"", there, proceed, binary))
	p.signal(t, syscall.SIGUSR2)
	var heir int
	eventually(t, soon, func() error {
		body, err := os.ReadFile(there)
		if err == nil {
			_, err = fmt.Sscan(string(body), &heir)
		}
		return err
	})
	t.Cleanup(func() { _ = syscall.Kill(heir, syscall.SIGKILL) })
	p.signal(t, syscall.SIGTERM)
	p.expectLog(t, "draining")
	overwrite(t, proceed, nil)
	eventually(t, soon, func() error {
		if running(heir) {
			return fmt.Errorf("process %d runs on", heir)
		}
		return nil
	})
	eventually(t, soon, p.refusesConnects) // the log says "draining" a moment before it does
}
