package clustertests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// Agents of these tests are on this machine.
const allowLoopback = "EDGEPROXY_ALLOW_BACKENDS=127.0.0.0/8"

// TTLs of registrations: the longer is for tests in which they must not expire,
// on a machine that does much else.
const (
	shortTTL   = "EDGEPROXY_HEARTBEAT_TTL_SECS=1"
	sixSeconds = "EDGEPROXY_HEARTBEAT_TTL_SECS=6"
)

// asRegistration is the body by which a backend registers itself.
func (b *backend) asRegistration(more string) string {
	return fmt.Sprintf(`{"id":"%s","app":"myapp","region":"%s","ip":"%s","port":%d%s}`, b.ID(), b.Region(), b.addr.Addr(), b.addr.Port(), more)
}

// register asks the POP to take the backend, and fails the test where it does not.
func (p *pop) register(t testing.TB, b *backend, more string) {
	t.Helper()
	if a := p.ask(t, "POST", "/api/v1/register", b.asRegistration(more)); a.code != http.StatusCreated {
		t.Fatalf("register %s: %d %s", b.ID(), a.code, a.body)
	}
}

// beat sends a heartbeat, and fails the test unless the answer has that code.
func (p *pop) beat(t testing.TB, id, body string, code int) {
	t.Helper()
	for began := time.Now(); ; <-time.After(poll) {
		a := p.ask(t, "POST", "/api/v1/heartbeat/"+id, body)
		if a.code == code {
			return
		}
		if kept := a.code == 503 && code == 200; !kept || time.Since(began) > soon { // by a disk, from writing
			t.Fatalf("heartbeat of %s: %d %s, want %d", id, a.code, a.body, code)
		}
	}
}

// states is what a POP has of each backend: up, or why not.
func (p *pop) states(t testing.TB) map[string]string {
	m := map[string]string{}
	for id, b := range p.backends(t) {
		m[id] = b.State
	}
	return m
}

// witness is the POP that took the last heartbeat, as far as this one knows.
func (p *pop) witness(t testing.TB, id string) string {
	t.Helper()
	return strings.TrimSpace(p.sql(t, "SELECT pop FROM registrations WHERE id='"+id+"'"))
}

// onAll waits until all POPs have the backend in this state; empty: in none.
func onAll(t testing.TB, within time.Duration, pops []*pop, id, state string) {
	t.Helper()
	eventually(t, within, func() error { return allHave(t, pops, id, state) })
}

func allHave(t testing.TB, pops []*pop, id, state string) error {
	for _, p := range pops {
		if got := p.states(t)[id]; got != state {
			return fmt.Errorf("%s has %s as %q, want %q", p.Node, id, got, state)
		}
	}
	return nil
}

// TestRegistration: who registers on one POP is routed by all; heartbeats may
// go to any; without them it is out on all of them, and later gone.
func TestRegistration(t *testing.T) {
	t.Parallel()
	m := newMesh(t, 3, append(trusting, sixSeconds, allowLoopback)...)
	static := startBackend(t, "static-1", "ap")
	m.pops[0].sql(t, insert(static.row()))
	b := startBackend(t, "sa-1", "sa")
	began := time.Now()
	m.pops[0].register(t, b, `,"country":"br","weight":3,"soft_limit":7,"hard_limit":9`)
	onAll(t, converged, m.pops, "sa-1", "up")
	t.Logf("routed by all after %s", time.Since(began))
	v := m.pops[1].backends(t)["sa-1"]
	if v.Weight != 3 || v.SoftLimit != 7 || v.HardLimit != 9 || v.Country != "BR" || v.IP != "127.0.0.1" || v.Port != b.addr.Port() || v.TTL != 6 || v.LastHeartbeat == nil || v.Registered == nil {
		t.Errorf("another POP has %+v", v)
	}
	if got := m.pops[2].goes(t, "200.160.2.3"); got != "sa-1" {
		t.Errorf("another POP's client from Brazil got %q", got)
	}

	for i := range 32 { // to the others in turn, for much longer than the TTL
		m.pops[1+i%2].beat(t, "sa-1", "", 200)
		for _, p := range m.pops {
			if state := p.states(t)["sa-1"]; state != "up" {
				t.Fatalf("after heartbeat %d %s has it as %s: %s", i, p.Node, state, p.backends(t)["sa-1"].Why)
			}
		}
		<-time.After(250 * time.Millisecond)
	}

	m.pops[2].beat(t, "sa-1", `{"failing":"disk\nfull"}`, 200)
	if state := m.pops[2].states(t)["sa-1"]; state != "failing" {
		t.Errorf("the POP that was told that it fails has it as %s", state)
	}
	onAll(t, converged, m.pops, "sa-1", "failing")
	if why := m.pops[0].backends(t)["sa-1"].Why; !strings.Contains(why, "disk full") {
		t.Errorf("why: %q", why)
	}
	m.pops[1].beat(t, "sa-1", ``, 200)
	onAll(t, converged, m.pops, "sa-1", "up")

	last := time.Now()
	onAll(t, 2*converged, m.pops, "sa-1", "expired")
	t.Logf("out of all POPs after %s without a heartbeat", time.Since(last))
	m.pops[0].beat(t, "sa-1", ``, 200)
	onAll(t, converged, m.pops, "sa-1", "up")
	if a := m.pops[2].ask(t, "DELETE", "/api/v1/backends/sa-1", ""); a.code != 204 {
		t.Errorf("unregister: %d %s", a.code, a.body)
	}
	onAll(t, converged, m.pops, "sa-1", "")
	m.pops[0].beat(t, "sa-1", ``, 404)
	m.pops[1].register(t, b, "")
	onAll(t, converged, m.pops, "sa-1", "up")
	if !wanted("long") { // TestRegistrationsEnd has it for one POP
		return
	}
	last = time.Now()
	onAll(t, 2*soon, m.pops, "sa-1", "")
	t.Logf("gone from all POPs after %s without a heartbeat", time.Since(last))
	for _, p := range m.pops {
		if rows := p.sql(t, "SELECT id FROM backends UNION ALL SELECT id FROM registrations UNION ALL SELECT id FROM backend_options"); strings.TrimSpace(rows) != "static-1" {
			t.Errorf("%s still has %q", p.Node, rows)
		}
		if state := p.states(t)["static-1"]; state != "up" {
			t.Errorf("%s has the static one as %q", p.Node, state)
		}
	}
}

// TestRegistrationsEnd: the rows of one that is silent for ten TTLs are deleted,
// and a static one's are not.
func TestRegistrationsEnd(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "us"), shortTTL, allowLoopback)
	b := startBackend(t, "sa-1", "sa")
	last := time.Now()
	p.register(t, b, `,"country":"br"`)
	onAll(t, soon, []*pop{p}, "sa-1", "")
	if took := time.Since(last); took < 10*time.Second {
		t.Errorf("gone after %s without a heartbeat, want ten TTLs", took)
	}
	if rows := p.sql(t, "SELECT id FROM backends UNION ALL SELECT id FROM registrations UNION ALL SELECT id FROM backend_options"); strings.TrimSpace(rows) != "us-1" {
		t.Errorf("left are %q", rows)
	}
	if states := p.states(t); states["us-1"] != "up" {
		t.Errorf("the static one is %q", states["us-1"])
	}
	if n := p.metric(t, "edgeproxy_registrations_deleted_total"); n != 1 {
		t.Errorf("%v deleted by the metric", n)
	}
	p.beat(t, "sa-1", ``, 404)
	p.register(t, b, "")
	if states := p.states(t); states["sa-1"] != "up" {
		t.Errorf("registered anew it is %q", states["sa-1"])
	}
}

// TestRegistrationIsNotTheOperator: what he said stands, whatever the agent says again.
func TestRegistrationIsNotTheOperator(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "us"), allowLoopback)
	b := startBackend(t, "sa-1", "sa")
	p.register(t, b, `,"weight":3`)
	p.sql(t, "UPDATE backends SET healthy = 0, soft_limit = 77, weight = 5 WHERE id = 'sa-1'; UPDATE backend_options SET draining = 1 WHERE id = 'sa-1'")
	other := startBackend(t, "sa-1", "sa")
	p.register(t, other, "")
	p.beat(t, "sa-1", "", 200)
	v := p.backends(t)["sa-1"]
	if v.Healthy || v.SoftLimit != 77 || v.Weight != 5 || v.Addr != other.addr.String() || v.State != "unhealthy" {
		t.Errorf("it is %+v", v)
	}
	if got := strings.TrimSpace(p.sql(t, "SELECT draining FROM backend_options WHERE id = 'sa-1'")); got != "1" {
		t.Errorf("draining is %s", got)
	}
	p.register(t, other, `,"weight":9`)
	if v := p.backends(t)["sa-1"]; v.Weight != 9 || v.Healthy {
		t.Errorf("it is %+v, want the weight that is named and nothing else", v)
	}

	a := p.ask(t, "POST", "/api/v1/register", `{"id":"us-1","region":"us","ip":"127.0.0.1","port":80}`)
	if a.code != 409 || !strings.Contains(a.body, "static") {
		t.Errorf("registering over a static one: %d %s", a.code, a.body)
	}
	p.beat(t, "us-1", "", 404)
	p.sql(t, "DELETE FROM backends WHERE id = 'sa-1'")
	eventually(t, soon, func() error {
		if a := p.ask(t, "POST", "/api/v1/heartbeat/sa-1", ""); a.code != 404 {
			return fmt.Errorf("heartbeat of a deleted one: %d", a.code)
		}
		return nil
	})
	eventually(t, soon, func() error { // what is left of it goes, too
		if n := strings.TrimSpace(p.sql(t, "SELECT COUNT(*) FROM registrations")); n != "0" {
			return fmt.Errorf("%s registrations are left", n)
		}
		return nil
	})
	p.register(t, other, "")
	if v := p.backends(t)["sa-1"]; !v.Healthy || v.Weight != 1 || v.State != "up" {
		t.Errorf("registered anew: %+v", v)
	}
	// A row that the operator writes in the place of one that has gone is static.
	if code, _, errs := p.run(t, "backend", "remove", "sa-1"); code != 0 {
		t.Fatal(errs)
	}
	if code, _, errs := p.run(t, "backend", "add", "sa-1", "--region", "sa", "--addr", other.addr.String()); code != 0 {
		t.Fatal(errs)
	}
	if v := p.backends(t)["sa-1"]; v.TTL != 0 || v.LastHeartbeat != nil {
		t.Errorf("a static one is %+v", v)
	}
	for name, want := range map[string]float64{"edgeproxy_backends_registered": 0, "edgeproxy_registrations_total": 4} {
		if got := p.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

// TestRegistrationRefused: bodies that make no sense, and addresses that could be a trap.
func TestRegistrationRefused(t *testing.T) {
	t.Parallel()
	p := startPOP(t, nil, "EDGEPROXY_API_ADDR=127.0.0.1:0")
	body := func(ip string, port int) string {
		return fmt.Sprintf(`{"id":"x","app":"myapp","region":"sa","ip":%q,"port":%d}`, ip, port)
	}
	type refused struct{ body, field, says string }
	list := []refused{
		{``, "", "JSON"}, {`[]`, "", "JSON"}, {`{"id":"x"`, "", "JSON"},
		{`{}`, "id", "missing"}, {`{"id":""}`, "id", "empty"}, {`{"id":"x","ip":"10.0.0.1","port":80}`, "region", "NULL"},
		{`{"id":"x","region":"sa","port":80}`, "ip", "is missing"}, {`{"id":"x","region":"sa"}`, "addr", "is missing"}, {`{"id":"x","region":"sa","ip":"10.0.0.1"}`, "port", "out of range"},
		{body("10.0.0.1", 70000), "port", "out of range"}, {body("nowhere", 80), "ip", "not an IP address"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80,"healthy":true}`, "healthy", "unknown"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80,"country":"Brazil"}`, "country", "two-letter"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80,"weight":-1}`, "weight", "out of range"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80,"health_check":"icmp"}`, "health_check", "no check"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80,"proxy_protocol":"v3"}`, "proxy_protocol", "v1"},
		{`{"id":"..","region":"sa","ip":"10.0.0.1","port":80}`, "id", "path"},
		{`{"id":"x","region":"sa","ip":"10.0.0.1","port":80}`, "app", "missing"},
		{`{"id":"x\u0000","region":"sa","ip":"10.0.0.1","port":80}`, "id", "control"},
	}
	for _, ip := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "169.254.169.254", "::ffff:169.254.169.254", "169.254.1.1", "fe80::1", "fe80::1%eth0",
		"fd00:ec2::254", "fd00:ec2::254%1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.1.2.3", "64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::a9fe:a9fe"} {
		list = append(list, refused{body(ip, 80), "ip", "EDGEPROXY_ALLOW_BACKENDS"})
	}
	for _, ip := range []string{"0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"} {
		list = append(list, refused{body(ip, 80), "ip", ""})
	}
	for _, r := range list {
		a := p.ask(t, "POST", "/api/v1/register", r.body)
		var e api.Error
		if json.Unmarshal([]byte(a.body), &e) != nil || a.code != 400 || e.Field != r.field || !strings.Contains(e.Error, r.says) {
			t.Errorf("%s: %d %s, want 400, %q named and %q", r.body, a.code, a.body, r.field, r.says)
		}
	}
	for _, body := range []string{`{"failing":5}`, `[]`, `{`, `{"x":1}`} {
		p.beat(t, "x", body, 400)
	}
	p.beat(t, "x", `{"failing":"`+strings.Repeat("x", 1<<20)+`"}`, 413)
	if n := len(p.backends(t)); n != 0 {
		t.Errorf("%d backends after all that was refused", n)
	}

	// What an operator allows is taken, from the next SIGHUP on; what he writes himself always was.
	config := p.dir + "/c.yaml"
	writeFile := func(text string) {
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.stop(t)
	writeFile("region: sa\n")
	p.set("EDGEPROXY_CONFIG", config)
	p.start(t)
	if a := p.ask(t, "POST", "/api/v1/register", body("127.0.0.1", 80)); a.code != 400 {
		t.Errorf("not allowed yet: %d %s", a.code, a.body)
	}
	if a := p.ask(t, "POST", "/api/v1/backends", `{"id":"static","region":"sa","addr":"127.0.0.1:81"}`); a.code != 201 {
		t.Errorf("by the operator: %d %s", a.code, a.body)
	}
	writeFile("region: sa\nallow_backends: [127.0.0.0/8]\n")
	p.hangup(t, "configuration reloaded")
	if a := p.ask(t, "POST", "/api/v1/register", body("127.0.0.1", 80)); a.code != 201 {
		t.Errorf("allowed: %d %s", a.code, a.body)
	}
}

// TestRegistrationOutlivesItsPOP: what a POP's agents do that is out of reach
// nobody knows, so nobody expires for it; nor where the POP comes back.
func TestRegistrationOutlivesItsPOP(t *testing.T) {
	needs(t, "long") // it waits until a POP is known to have failed
	t.Parallel()
	m := newMesh(t, 2, sixSeconds, allowLoopback, "EDGEPROXY_HEALTH_CHECK=off")
	b := startBackend(t, "sa-1", "sa")
	far := m.pops[1]
	far.register(t, b, "")
	onAll(t, converged, m.pops, "sa-1", "up")
	staysUp := func(when string, d time.Duration, beating bool, pops ...*pop) {
		t.Helper()
		for began := time.Now(); time.Since(began) < d; {
			if beating {
				far.beat(t, "sa-1", "", 200)
			}
			for _, p := range pops {
				if v := p.backends(t)["sa-1"]; v.State != "up" {
					t.Fatalf("%s %s, after %s, %s has it as %q: %s", when, d, time.Since(began), p.Node, v.State, v.Why)
				}
			}
			<-time.After(100 * time.Millisecond)
		}
	}
	staysUp("with heartbeats", 500*time.Millisecond, true, m.pops...)
	far.signal(t, syscall.SIGSTOP)
	staysUp("out of reach", 9*time.Second, false, m.pops[0])
	far.signal(t, syscall.SIGCONT)
	staysUp("back again", 8*time.Second, true, m.pops...)
	onAll(t, 2*converged, m.pops, "sa-1", "expired")

	// All are off for longer than the TTL: at first every heartbeat is old.
	far.beat(t, "sa-1", "", 200)
	onAll(t, converged, m.pops, "sa-1", "up")
	stopAll(t, m.pops...)
	<-time.After(6500 * time.Millisecond)
	startAll(t, m.pops...)
	for _, p := range m.pops {
		if state := p.states(t)["sa-1"]; state != "up" {
			t.Errorf("at once after the start %s has it as %q", p.Node, state)
		}
	}
	onAll(t, 2*converged, m.pops, "sa-1", "expired")
}
