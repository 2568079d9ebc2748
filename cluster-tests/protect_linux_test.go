package clustertests

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"syscall"
	"testing"
)

// TestProtection: who may connect, how often and how many at once, set and
// changed while the POP runs. A refused client is reset and no backend hears of it.
func TestProtection(t *testing.T) {
	t.Parallel()
	p := newPOP(t, append(trusting, noAffinity, "EDGEPROXY_REGION=us")...)
	config := p.dir + "/edgeproxy.yaml"
	set := func(text string) { overwrite(t, config, []byte(text)) }
	set("deny_clients: [203.0.113.0/24, \"2001:db8::/32\"]\n")
	p.args = []string{"serve", "--config", config}
	p.seed(t, startBackends(t, "us")...)
	p.start(t)
	counted := 0.0
	refused := func(from, why string) {
		t.Helper()
		v, err := p.call(from)
		if err == nil {
			v.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%s: %v, want a reset", from, err)
		}
		counted++
		p.counts(t, why, counted)
	}
	refused("203.0.113.9", "denied")
	refused("2001:db8::9", "denied")
	p.visit(t, "203.0.114.9").alive(t)

	set("client_max_connections: 2\n")
	p.hangup(t, "configuration reloaded")
	counted = 0
	p.visit(t, "203.0.113.9").alive(t)
	one := p.visit(t, "203.0.113.9")
	refused("203.0.113.9", "too_many_connections")
	p.visit(t, "203.0.113.10").alive(t)
	one.Close()
	eventually(t, soon, func() error {
		v, err := p.call("203.0.113.9")
		if err == nil {
			v.Close()
		}
		return err
	})

	set("client_max_rate: 0.001\nclient_prefix: 24,48\n")
	p.hangup(t, "configuration reloaded")
	counted = 0
	p.visit(t, "198.51.100.1").alive(t)
	refused("198.51.100.2", "too_many_new_connections") // of the same /24
	p.visit(t, "2001:db8::1").alive(t)
	refused("2001:db8:0:1::1", "too_many_new_connections")
}

// TestDescriptorsUsedUp: clients take all descriptors that they may have. Those
// who are there go on, the API answers, and whoever waits is served when there
// is room again.
func TestDescriptorsUsedUp(t *testing.T) {
	t.Parallel()
	const limit = 200 // of descriptors, a quarter of them reserved: 75 connections
	p := newPOP(t, noAffinity)
	p.wrap = func(cmd *exec.Cmd) {
		cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, limit)}, cmd.Args...)
		cmd.Path = "/bin/sh"
	}
	p.seed(t, startBackends(t, "sa")...)
	p.start(t)
	served, err := p.openMany(75)
	defer closeAll(served)
	if err != nil {
		t.Fatal(err)
	}
	waiting := p.connect(t, []byte("ping\n"))
	eventually(t, soon, func() error {
		if n := p.metric(t, "edgeproxy_accept_pauses_total"); n < 2 {
			return fmt.Errorf("accepting paused %v times", n)
		}
		return nil
	})
	for i := range 50 { // each on a connection of its own
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		if _, err := p.requestBy(client, "GET", "/api/v1/status", ""); err != nil {
			t.Fatalf("request %d to the API while clients have all descriptors: %v", i, err)
		}
	}
	for _, v := range served {
		if err := v.echo("still there?"); err != nil {
			t.Fatal(err)
		}
	}
	served[0].Close()
	if n, err := waiting.Read(make([]byte, 100)); err != nil {
		t.Errorf("who waited read %d bytes, %v; want to be served", n, err)
	}
}
