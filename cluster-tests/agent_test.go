package clustertests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/internal/mockbackend"
)

// agent is an "edgeproxy agent" that runs until the test ends.
type agent struct {
	*exec.Cmd
	log   *logBuffer
	ended chan struct{}
}

// startAgent runs one for a backend, with these POPs.
func startAgent(t testing.TB, b *backend, pops []*pop, more ...string) *agent {
	t.Helper()
	var addrs []string
	for _, p := range pops {
		addrs = append(addrs, p.API)
	}
	args := append([]string{
		"agent", "--id", b.ID(), "--app", "myapp", "--region", b.Region(), "--addr", b.addr.String(),
		"--pop", strings.Join(addrs, ","), "--check", "tcp interval=200ms timeout=5s rise=1 fall=1",
	}, more...)
	a := &agent{Cmd: exec.Command(binary, args...), log: &logBuffer{}, ended: make(chan struct{})}
	a.Env = []string{"PATH=" + os.Getenv("PATH"), "GOCOVERDIR=" + os.Getenv("GOCOVERDIR"), "GORACE=halt_on_error=1 atexit_sleep_ms=0"}
	a.Stdout, a.Stderr = a.log, a.log
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.ended)
		_ = a.Wait() // how it ended stands in ProcessState
	}()
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			t.Logf("agent of %s\n%s", b.ID(), a.log.digest())
		}
	})
	return a
}

// kill ends the agent, unless it has ended.
func (a *agent) kill() {
	_ = a.Process.Kill() // says only that it has ended
	<-a.ended
}

// ends waits for the end of the agent, and fails the test unless it is this one.
func (a *agent) ends(t testing.TB, code int, words ...string) {
	t.Helper()
	select {
	case <-a.ended:
	case <-time.After(soon):
		t.Fatal("the agent still runs")
	}
	if got := a.ProcessState.ExitCode(); got != code {
		t.Errorf("the agent ended with %d, want %d", got, code)
	}
	if err := a.log.says(words...); err != nil {
		t.Errorf("%v\n%s", err, a.log)
	}
}

// mortalBackend is startBackend, and a function that ends it before the test does.
func mortalBackend(t testing.TB, id, region string) (b *backend, kill func()) {
	t.Helper()
	echo, err := mockbackend.NewTCP(mockbackend.Config{ID: id, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	ln := listenKept(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = echo.Serve(ctx, ln)
	}()
	kill = func() { cancel(); <-done }
	t.Cleanup(kill)
	return &backend{echo, addrOf(ln)}, kill
}

// listenAgain listens where somebody else has just ceased to.
func listenAgain(t testing.TB, addr string) (ln net.Listener) {
	t.Helper()
	eventually(t, soon, func() (err error) {
		ln, err = net.Listen("tcp", addr)
		return err
	})
	return ln
}

// TestAgent: the life of a backend whose agent is beside it.
func TestAgent(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 2, sixSeconds, allowLoopback, "EDGEPROXY_HEALTH_CHECK=off")
	b, kill := mortalBackend(t, "sa-1", "sa")
	a := startAgent(t, b, m.pops)
	onAll(t, converged, m.pops, "sa-1", "up")
	if got := m.pops[1].goes(t, ""); got != "sa-1" {
		t.Errorf("a client got %q", got)
	}

	kill() // the service dies
	began := time.Now()
	onAll(t, converged, m.pops, "sa-1", "failing")
	t.Logf("out of all POPs %s after the service's end", time.Since(began))
	again := serveBackend(t, "sa-1", "sa", listenAgain(t, b.addr.String()))
	began = time.Now()
	onAll(t, converged, m.pops, "sa-1", "up")
	t.Logf("in again %s after its start", time.Since(began))

	// Deleted by hand on the other POP, as by somebody who did not know: it comes back by itself.
	m.pops[1].sql(t, "DELETE FROM backends WHERE id = 'sa-1'")
	eventually(t, soon, func() error { return a.log.says("registering anew") })
	onAll(t, converged, m.pops, "sa-1", "up")

	// Its POP is killed: it goes to the other, and nobody finds it expired meanwhile.
	m.pops[0].kill(t)
	killed := time.Now()
	for time.Since(killed) < 8*time.Second {
		if v := m.pops[1].backends(t)["sa-1"]; v.State != "up" {
			t.Fatalf("%s after its POP was killed it is %s: %s", time.Since(killed), v.State, v.Why)
		}
		<-time.After(50 * time.Millisecond)
	}
	if got := strings.TrimSpace(m.pops[1].sql(t, "SELECT pop FROM registrations")); got != m.pops[1].Node {
		t.Errorf("its heartbeats are taken by %s, want %s", got, m.pops[1].Node)
	}
	m.pops[0].start(t)
	onAll(t, converged, m.pops, "sa-1", "up")

	if err := a.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	a.ends(t, 0, "unregistered")
	onAll(t, converged, m.pops, "sa-1", "")
	t.Logf("gone from all POPs %s after SIGTERM", time.Since(began))

	killed9 := startAgent(t, again, m.pops)
	onAll(t, converged, m.pops, "sa-1", "up")
	if err := killed9.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	onAll(t, soon, m.pops, "sa-1", "expired")
}

// TestAgentSecondSignal: one that comes with the first, as of timeout(1), does not
// keep the agent from taking its backend out; a later one ends it at once.
func TestAgentSecondSignal(t *testing.T) {
	t.Parallel()
	for after, code := range map[time.Duration]int{0: 0, 5 * apart: -1} {
		again := make(chan func(), 1) // the second signal, while the farewell is under way
		fake := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				if after > 0 {
					<-time.After(after)
					(<-again)()
				}
				<-time.After(200 * time.Millisecond)
				w.WriteHeader(http.StatusNoContent)
				return
			}
			_, _ = w.Write([]byte(`{"ttl_secs":60}`))
		}))
		b := startBackend(t, "sa-1", "sa")
		a := startAgent(t, b, []*pop{{PopFile: api.PopFile{API: strings.TrimPrefix(fake.URL, "http://")}}})
		eventually(t, soon, func() error { return a.log.says("registered") })
		signal := func() {
			if err := a.Process.Signal(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		again <- signal
		signal()
		if after == 0 {
			signal()
		}
		a.ends(t, code)
		if unregistered := a.log.says(`"unregistered"`) == nil; unregistered != (code == 0) {
			t.Errorf("a second signal %s after the first: unregistered is %v", after, unregistered)
		}
		fake.Close()
	}
}

// TestAgentRefused: what will never be better ends it with a sentence; what may, does not.
func TestAgentRefused(t *testing.T) {
	t.Parallel()
	p := newPOP(t, "EDGEPROXY_API_TOKEN=secret")
	p.token = "secret"
	p.seed(t, startBackends(t, "us")...)
	b := startBackend(t, "sa-1", "sa")
	p.PopFile.API = freeAddress(t)
	p.set("EDGEPROXY_API_ADDR", p.PopFile.API)
	early := startAgent(t, b, []*pop{p}, "--token", "secret")
	eventually(t, soon, func() error { return early.log.says("no POP takes it") })
	p.start(t)
	early.ends(t, 1, "127.0.0.1 is a loopback address") // nothing allows it here
	startAgent(t, b, []*pop{p}).ends(t, 1, "wants a token")
	startAgent(t, b, []*pop{p}, "--token", "wrong").ends(t, 1, "refuses the token")
	startAgent(t, b, []*pop{p}, "--token", "secret", "--id", "us-1", "--addr", "10.0.0.1:80", "--check", "off").ends(t, 1, "us-1 is static")
	startAgent(t, b, []*pop{p}, "--token", "secret", "--check", "icmp").ends(t, 2, "no check")
	if states := p.states(t); len(states) != 1 || states["us-1"] != "up" {
		t.Errorf("after all that the POP has %v", states)
	}
}

// TestManyAgents: they spread over five POPs; one POP dies, and none of its
// agents' backends expires wrongly on any other; all expire when they stop.
// Five hundred of them.
func TestManyAgents(t *testing.T) {
	needs(t, "long") // five POPs and hundreds of agents
	t.Parallel()
	const count, ttl = 500, 8 * time.Second
	m := newMesh(t, 5, fmt.Sprintf("EDGEPROXY_HEARTBEAT_TTL_SECS=%d", ttl/time.Second), allowLoopback, "EDGEPROXY_HEALTH_CHECK=off", "EDGEPROXY_LOG_LEVEL=info")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var agents sync.WaitGroup
	var again atomic.Int64 // registrations but the first
	var late atomic.Int64  // longest time between two heartbeats of one, where this machine could not do it sooner
	pool := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	defer pool.CloseIdleConnections()
	post := func(p *pop, path, body string) int {
		resp, err := pool.Post("http://"+p.API+path, "application/json", strings.NewReader(body))
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	began := time.Now()
	ready := make(chan struct{}, count)
	for i := range count {
		agents.Go(func() {
			id, at := fmt.Sprintf("agent-%d", i), i%5
			body := fmt.Sprintf(`{"id":%q,"app":"myapp","region":"sa","ip":"127.0.0.1","port":%d}`, id, 1000+i)
			last := time.Now()
			for first := true; ctx.Err() == nil; {
				path, text := "/api/v1/heartbeat/"+id, ""
				if first {
					path, text = "/api/v1/register", body
				}
				switch post(m.pops[at], path, text) {
				case 200:
					for gap, worst := time.Since(last), late.Load(); int64(gap) > worst && !late.CompareAndSwap(worst, int64(gap)); worst = late.Load() {
					}
					last = time.Now()
				case 201:
					last = time.Now()
					if first {
						first = false
						ready <- struct{}{}
					}
				case 404:
					again.Add(1)
					_ = post(m.pops[at], "/api/v1/register", body)
				default:
					at = (at + 1) % 5
					continue
				}
				select {
				case <-ctx.Done():
				case <-time.After(ttl / 3):
				}
			}
		})
	}
	for range count {
		<-ready
	}
	t.Logf("%d registered after %s", count, time.Since(began))
	up := func(p *pop) error {
		st, err := look[api.Status](p, "status")
		if c := st.Backends; err == nil && (c.Registered != count || c.Expired != 0 || c.Up != count) {
			err = fmt.Errorf("%s has %d registered, %d expired, %d up; want %d, 0, all", p.Node, c.Registered, c.Expired, c.Up, count)
		}
		return err
	}
	for _, p := range m.pops {
		eventually(t, converged, func() error { return up(p) })
	}
	m.pops[4].kill(t)
	killed := time.Now()
	for time.Since(killed) < 2*ttl {
		for _, p := range m.pops[:4] {
			if err := up(p); err != nil && time.Duration(late.Load()) < ttl/2 {
				t.Fatalf("%s after a POP died, heartbeats %s apart at most: %v", time.Since(killed), time.Duration(late.Load()), err)
			}
		}
		<-time.After(100 * time.Millisecond)
	}
	if n := again.Load(); n > 0 {
		t.Errorf("%d agents had to register anew", n)
	}
	t.Logf("heartbeats of one were %s apart at most", time.Duration(late.Load()))
	stop()
	agents.Wait()
	stopped := time.Now()
	for _, p := range m.pops[:4] {
		eventually(t, 5*ttl, func() error {
			st, err := look[api.Status](p, "status")
			if c := st.Backends; err == nil && c.Expired != count {
				err = fmt.Errorf("%s has %d of %d expired", p.Node, c.Expired, count)
			}
			return err
		})
	}
	t.Logf("all expired on all %s after the last heartbeat", time.Since(stopped))
}
