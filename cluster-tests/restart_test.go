package clustertests

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// hangup sends SIGHUP and waits until the log has one line more with all the words.
func (p *pop) hangup(t testing.TB, words ...string) {
	t.Helper()
	before := len(p.log.lines(words...))
	p.signal(t, syscall.SIGHUP)
	eventually(t, soon, func() error {
		if len(p.log.lines(words...)) <= before {
			return fmt.Errorf("no new line with all of %q", words)
		}
		return nil
	})
}

// TestHangup: SIGHUP takes over what may change, names what may not, keeps
// everything where the file is broken, and cuts nobody.
func TestHangup(t *testing.T) {
	t.Parallel()
	p := newPOP(t, append(trusting, noAffinity, "EDGEPROXY_LOG_LEVEL=", "EDGEPROXY_REGION=")...)
	config := p.dir + "/edgeproxy.yaml"
	write := func(text string) { overwrite(t, config, []byte(text)) }
	write("region: us\n")
	p.args = []string{"serve", "--config", config}
	p.seed(t, startBackends(t, "us", "eu")...)
	p.start(t)
	open := p.visit(t, "197.248.0.1")
	if open.backend != "us-1" {
		t.Fatalf("a Kenyan goes to %s before", open.backend)
	}
	p.goes(t, "197.248.0.1")
	if err := p.log.says(`"message":"connection"`); err == nil {
		t.Error("connections are logged although nobody asked for it")
	}

	write("region: us\naccess_log: true\ncountries:\n  KE: eu\n")
	p.hangup(t, "configuration reloaded")
	if err := p.goesTo("197.248.0.1", "eu-1"); err != nil {
		t.Errorf("after countries changed: %v", err)
	}
	p.expectLog(t, `"level":"info"`, `"message":"connection"`, `"country":"KE"`, `"backend":"eu-1"`)

	write("region: eu\nlisten_addr: 127.0.0.1:1\naccess_log: true\n")
	p.hangup(t, "configuration reloaded")
	// The listen address comes from the environment, which beats the file.
	p.expectLog(t, "changed setting needs a restart", `"setting":"region"`, config)
	if err := p.log.says("changed setting needs a restart", `"setting":"listen_addr"`); err == nil {
		t.Error("the log names a setting that did not change")
	}
	if err := p.goesTo("197.248.0.1", "us-1"); err != nil {
		t.Errorf("after countries were removed: %v", err)
	}

	for _, broken := range []string{"regoin: us\n", "region: [us\n", "countries: {KE: middle earth}\n", "\x00\xff"} {
		write(broken)
		p.hangup(t, `"level":"error"`, "configuration not reloaded", config)
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	p.hangup(t, `"level":"error"`, "configuration not reloaded", config)
	open.alive(t)
	if err := p.goesTo("197.248.0.1", "us-1"); err != nil {
		t.Errorf("after broken files: %v", err)
	}
}

// TestKillAndRestart: kill -9 loses nothing that was acknowledged; the name
// stays, and the address file of the dead one misleads nobody.
func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	for round := range 3 {
		name, pid := p.Node, p.PID
		id := fmt.Sprintf("by-api-%d", round)
		if a := p.ask(t, "POST", "/api/v1/backends", `{"id":"`+id+`","region":"us","addr":"10.50.2.1:8080"}`); a.code != 201 {
			t.Fatalf("POST: %+v", a)
		}
		p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='sa-1'", 100+round))
		p.kill(t)

		if code, _, errs := p.run(t, "status"); code != 1 || !strings.Contains(errs, "routing.db.pop") || !strings.Contains(errs, fmt.Sprint(pid)) {
			t.Errorf("status of a dead POP: %d %q, want the file and the process that it names", code, errs)
		}
		if code, _, errs := p.run(t, "healthcheck"); code != 1 || errs == "" {
			t.Errorf("healthcheck of a dead POP: %d %q", code, errs)
		}
		if got := strings.TrimSpace(p.sql(t, "PRAGMA integrity_check")); got != "ok" {
			t.Errorf("integrity_check: %s", got)
		}

		p.start(t)
		if p.Node != name || p.PID == pid {
			t.Errorf("came back as %s (pid %d), was %s (pid %d)", p.Node, p.PID, name, pid)
		}
		b := p.backends(t)
		if b[id].Addr != "10.50.2.1:8080" || b["sa-1"].Weight != int64(100+round) || len(b) != 2+round {
			t.Errorf("after kill -9 the backends are %+v", b)
		}
		if code, out, errs := p.run(t, "status"); code != 0 || !strings.Contains(out, name) {
			t.Errorf("status: %d %q %q", code, out, errs)
		}
		if got := p.goes(t, ""); got != "sa-1" {
			t.Errorf("a client went to %q", got)
		}
	}
}

// TestSecondDaemon on one database says who has it, and leaves that one alone.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	open := p.visit(t, "")
	second := newPOP(t, "EDGEPROXY_DB_PATH="+p.db)
	second.refuses(t, 1, "database in use", p.Node, fmt.Sprintf("pid %d", p.PID), p.db, "EDGEPROXY_DB_PATH")
	open.alive(t)
	if err := p.findAddresses(); err != nil {
		t.Errorf("the address file of the first: %v", err)
	}
	if err := p.isReady(); err != nil {
		t.Error(err)
	}
	p.kill(t)
	p.start(t) // a dead one's lock holds nobody up
}
