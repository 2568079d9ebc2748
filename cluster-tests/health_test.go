package clustertests

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// info is what the POP says of a backend.
func (p *pop) info(id string) (b api.Backend, err error) {
	a, err := p.request("GET", "/api/v1/backends/"+id, "")
	if err != nil {
		return b, err
	}
	if a.code != http.StatusOK {
		return b, fmt.Errorf("%d %s", a.code, a.body)
	}
	return b, json.Unmarshal([]byte(a.body), &b)
}

// judged is nil where so many POPs say the same of the backend.
func (p *pop) judged(id string, up bool, by int) error {
	b, err := p.info(id)
	if err != nil {
		return err
	}
	if len(b.Checks) != by || slices.ContainsFunc(b.Checks, func(v api.Verdict) bool { return v.Up != up }) {
		return fmt.Errorf("%s at %s: %+v, want %d to say up=%v", id, p.Node, b.Checks, by, up)
	}
	return nil
}

// TestBackendKilled: no client sees a failure, all POPs know it within three
// seconds, say who found out, and it comes back by itself.
func TestBackendKilled(t *testing.T) {
	t.Parallel()
	a, b := newDoor(t), newDoor(t)
	m := planMesh(t, 3, "EDGEPROXY_HEALTH_CHECK=tcp interval=2s")
	m.pops[0].seed(t, at("a", "sa", a.addr), at("b", "sa", b.addr))
	m.pops[1].set("EDGEPROXY_REGION", "sa") // so that two POPs check
	m.start(t)
	for _, p := range m.pops {
		for _, id := range []string{"a", "b"} {
			eventually(t, converged, func() error { return p.judged(id, true, 2) })
		}
	}
	var failed, died atomic.Int64 // died: unix ns, 0 before
	stop, clients := make(chan struct{}), sync.WaitGroup{}
	defer clients.Wait()
	defer close(stop)
	for _, p := range m.pops {
		clients.Go(func() {
			ticker := time.NewTicker(20 * time.Millisecond)
			defer ticker.Stop()
			for {
				select {
				case <-stop:
					return
				case <-ticker.C:
				}
				began := time.Now()
				v, err := p.call("")
				// Who was on it when it died was cut, whatever a POP does.
				if err != nil && (died.Load() == 0 || began.UnixNano() > died.Load()) {
					failed.Add(1)
					t.Errorf("a client of %s noticed: %v", p.Node, err)
				}
				if err != nil {
					continue
				}
				v.Close()
			}
		})
	}
	killed := time.Now()
	died.Store(math.MaxInt64) // is dying
	a.shut()
	died.Store(time.Now().UnixNano())
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.is("a", "down") })
	}
	took := time.Since(killed)
	t.Logf("down on all POPs after %s", took)
	if took > 3*time.Second && (thorough() || !raceDetector) {
		t.Errorf("down on all POPs after %s, want 3 s at most", took)
	}
	info, err := m.pops[2].info("a")
	if err != nil || !strings.Contains(info.Why, "connection refused") || !strings.Contains(info.Why, m.pops[0].Node) {
		t.Errorf("%q does not say who judged and why, %v", info.Why, err)
	}
	_, out, _ := m.pops[2].run(t, "explain", "200.160.2.3")
	if !strings.Contains(out, "down") || !strings.Contains(out, "connection refused") {
		t.Errorf("explain says\n%s", out)
	}
	a.reopen(t)
	back := time.Now()
	for _, p := range m.pops {
		eventually(t, converged, func() error { return p.is("a", "up") })
	}
	t.Logf("up on all POPs after %s", time.Since(back))
	eventually(t, converged, func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.greets == 0 {
			return fmt.Errorf("no client since it is back")
		}
		return nil
	})
}

// TestServiceCheck: a row in services, written by sqlite3 on one POP, has the
// backends of the app checked so on all; taken back, nobody judges any more.
func TestServiceCheck(t *testing.T) {
	t.Parallel()
	var status atomic.Int64
	status.Store(http.StatusOK)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			t.Errorf("asked for %s", r.URL)
		}
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(srv.Close)
	m := planMesh(t, 2, unchecked)
	m.pops[0].seed(t, at("web", "sa", netip.MustParseAddrPort(srv.Listener.Addr().String())))
	m.start(t)
	if err := m.pops[1].write("INSERT INTO services (app, health_check) VALUES ('myapp', 'http path=/health interval=200ms fall=2')"); err != nil {
		t.Fatal(err)
	}
	everyPOP := func(check func(*pop) error) {
		t.Helper()
		for _, p := range m.pops {
			eventually(t, converged, func() error { return check(p) })
		}
	}
	everyPOP(func(p *pop) error { return p.judged("web", true, 1) })
	status.Store(http.StatusServiceUnavailable)
	everyPOP(func(p *pop) error { return p.is("web", "down") })
	if info, err := m.pops[1].info("web"); err != nil || !strings.Contains(info.Why, "status 503") || !strings.Contains(info.Why, m.pops[0].Node) {
		t.Errorf("%q, %v; want who judged and why", info.Why, err)
	}
	if _, out, _ := m.pops[1].run(t, "service", "list"); !strings.Contains(out, "http path=/health interval=200ms fall=2") || !strings.Contains(out, "0/1") {
		t.Errorf("service list says\n%s", out)
	}
	everyPOP(func(p *pop) error {
		n, err := p.query("SELECT healthy, checks_down FROM mesh_backends")
		if err == nil && strings.TrimSpace(n) != "0|1" {
			err = fmt.Errorf("mesh_backends says %s", n)
		}
		return err
	})
	// All of the app are down: the last known good are tried all the same.
	if _, out, _ := m.pops[0].run(t, "explain", "200.160.2.3"); !strings.Contains(out, "goes to web") || !strings.Contains(out, "not believed") {
		t.Errorf("explain says\n%s", out)
	}
	if code, _, errs := m.pops[0].run(t, "service", "set", "myapp", "--health-check", "off"); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	everyPOP(func(p *pop) error { return p.judged("web", true, 0) })
	everyPOP(func(p *pop) error { return p.is("web", "up") })
}

// TestEjected: without checks, three failed connects in a row take a backend
// out of one POP's choice, and the operator lifts that.
func TestEjected(t *testing.T) {
	t.Parallel()
	d := newDoor(t)
	p := startPOP(t, []row{at("a", "sa", d.addr), startBackend(t, "b", "sa").row()}, noAffinity, unchecked)
	d.shut()
	for range 40 {
		if got := p.goes(t, ""); got != "b" {
			t.Fatalf("went to %s", got)
		}
	}
	info, err := p.info("a")
	if err != nil || info.State != "ejected" || !strings.Contains(info.Why, "connects of this POP failed") || !info.EjectedUntil.After(time.Now()) {
		t.Errorf("%+v, %v; want it ejected", info, err)
	}
	if n := p.metric(t, "edgeproxy_backend_connect_failures_total", `backend="a"`); n != 3 {
		t.Errorf("%g failed connects, want the 3 that it takes", n)
	}
	d.reopen(t)
	if code, out, errs := p.run(t, "backend", "enable", "a"); code != 0 || !strings.Contains(out, "up") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if err := p.is("a", "up"); err != nil {
		t.Error(err)
	}
}

// TestBadHealthCheckSetting: a sentence that names the variable, and what is allowed.
func TestBadHealthCheckSetting(t *testing.T) {
	t.Parallel()
	newPOP(t, "EDGEPROXY_HEALTH_CHECK=icmp").refuses(t, 2, "EDGEPROXY_HEALTH_CHECK", "icmp", "want off, tcp or http")
	p := newPOP(t, "EDGEPROXY_HEALTH_CHECK=icmp")
	p.seed(t)
	if code, out, errs := p.run(t, "check"); code == 0 || !strings.Contains(out+errs, "icmp is no check") {
		t.Errorf("check: exit code %d\n%s%s", code, out, errs)
	}
}
