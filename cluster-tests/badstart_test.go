package clustertests

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestBadSettings: what is wrong, where, and what to do; exit code 2.
func TestBadSettings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		args  []string
		env   []string
		yaml  string
		words []string
	}{
		{name: "unknown flag", args: []string{"--regoin", "us"}, words: []string{"--regoin", "did you mean --region?"}},
		{name: "unknown flag of serve", args: []string{"serve", "--lissten=:0"}, words: []string{"--lissten", "did you mean --listen?"}},
		{name: "unknown command", args: []string{"sevre"}, words: []string{`unknown command "sevre"`, "serve"}},
		{name: "unknown YAML key", yaml: "regoin: us\n", words: []string{"regoin in ", "edgeproxy.yaml, line 1", "unknown key", "did you mean region?"}},
		{name: "broken YAML", yaml: "region: us\n\tlisten_addr: :0\n", words: []string{"edgeproxy.yaml", "line 2"}},
		{name: "no such YAML file", args: []string{"--config", "nothing.yaml"}, words: []string{"--config", "nothing.yaml"}},
		{name: "bad number", env: []string{"EDGEPROXY_DRAIN_SECS=soon"}, words: []string{"EDGEPROXY_DRAIN_SECS", `"soon"`}},
		{name: "bad duration", env: []string{"EDGEPROXY_BINDING_TTL_SECS=10m"}, words: []string{"EDGEPROXY_BINDING_TTL_SECS", "600"}},
		{name: "bad region", env: []string{"EDGEPROXY_REGION=middle earth"}, words: []string{"EDGEPROXY_REGION", "middle earth"}},
		{name: "address without a port", env: []string{"EDGEPROXY_LISTEN_ADDR=8080"}, words: []string{"EDGEPROXY_LISTEN_ADDR", ":8080"}},
		{name: "PROXY header from nobody", env: []string{"EDGEPROXY_PROXY_PROTOCOL=on"}, words: []string{"EDGEPROXY_PROXY_PROTOCOL", "EDGEPROXY_TRUSTED_PROXIES"}},
		{name: "API for all without a token", env: []string{"EDGEPROXY_API_ADDR=0.0.0.0:0"}, words: []string{"EDGEPROXY_API_ADDR", "not loopback", "EDGEPROXY_API_TOKEN"}},
		{name: "API for all IPv6 without a token", env: []string{"EDGEPROXY_API_ADDR=[::]:0"}, words: []string{"EDGEPROXY_API_ADDR", "not loopback", "EDGEPROXY_API_TOKEN"}},
		{name: "API without a host", env: []string{"EDGEPROXY_API_ADDR=:0"}, words: []string{"EDGEPROXY_API_ADDR", "not loopback", "EDGEPROXY_API_TOKEN"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPOP(t, c.env...)
			p.args = c.args
			if c.yaml != "" {
				file := p.dir + "/edgeproxy.yaml"
				overwrite(t, file, []byte(c.yaml))
				p.args = []string{"--config", file}
			}
			p.refuses(t, 2, c.words...)
			if _, err := os.Stat(p.db); err == nil {
				t.Error("it made a database before it looked at its settings")
			}
		})
	}
}

// TestUnknownVariable is a warning: the environment of other versions must keep working.
func TestUnknownVariable(t *testing.T) {
	t.Parallel()
	p := startPOP(t, nil, "EDGEPROXY_REGOIN=us", "EDGEPROXY_TLS_ENABLED=true")
	for _, words := range [][]string{{"EDGEPROXY_REGOIN", "did you mean EDGEPROXY_REGION?"}, {"EDGEPROXY_TLS_ENABLED", "ignored"}} {
		p.expectLog(t, append(words, `"level":"warn"`)...)
	}
}

// TestAddressInUse: one that was asked for is an error that names the setting.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	ln := listen(t)
	defer ln.Close()
	addr := ln.Addr().String()
	for name, c := range map[string]struct {
		args, env []string
		word      string
	}{
		"variable":     {nil, []string{"EDGEPROXY_LISTEN_ADDR=" + addr}, "EDGEPROXY_LISTEN_ADDR"},
		"flag":         {[]string{"--listen", addr}, nil, "--listen"},
		"API variable": {nil, []string{"EDGEPROXY_API_ADDR=" + addr}, "EDGEPROXY_API_ADDR"},
		"gossip":       {nil, []string{"EDGEPROXY_GOSSIP_ADDR=" + addr}, "EDGEPROXY_GOSSIP_ADDR"},
		"sync":         {nil, []string{"EDGEPROXY_SYNC_ADDR=" + addr}, "EDGEPROXY_SYNC_ADDR"},
		"API flag":     {[]string{"serve", "--api", addr}, nil, "--api"},
	} {
		p := newPOP(t, c.env...)
		p.args = c.args
		p.refuses(t, 1, c.word, addr, "in use")
		if t.Failed() {
			t.Fatalf("%s", name)
		}
	}
	p := newPOP(t, "EDGEPROXY_LISTEN_ADDR=192.0.2.1:0")
	p.refuses(t, 1, "EDGEPROXY_LISTEN_ADDR", "192.0.2.1", "assign")
}

// TestDefaultPortsMove where they are taken, and the log says where to.
func TestDefaultPortsMove(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:8080", "127.0.0.1:8180", "127.0.0.1:7946", "127.0.0.1:7947"} {
		if ln, err := net.Listen("tcp", addr); err == nil { // else somebody else took it, which is as well
			defer ln.Close()
		}
	}
	p := startPOP(t, startBackends(t, "sa"), "EDGEPROXY_LISTEN_ADDR=", "EDGEPROXY_API_ADDR=", "EDGEPROXY_GOSSIP_ADDR=", "EDGEPROXY_SYNC_ADDR=")
	for _, words := range [][]string{
		{"listen_addr", "0.0.0.0:8080", p.Listen}, {"api_addr", "127.0.0.1:8180", p.API},
		{"gossip_addr", "127.0.0.1:7946", p.Gossip}, {"sync_addr", "127.0.0.1:7947", p.Sync},
	} {
		p.expectLog(t, append(words, `"level":"warn"`, "default port is taken")...)
	}
	if got := p.goes(t, ""); got != "sa-1" {
		t.Errorf("a client went to %q", got)
	}
}

// TestBadDatabase: each is refused with a sentence, by serve and by check, and stays as it is.
func TestBadDatabase(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make  func(t *testing.T, p *pop)
		words []string
	}{
		"missing directory": {func(_ *testing.T, p *pop) {
			p.db = p.dir + "/no/such/routing.db"
			p.env = append(p.env, "EDGEPROXY_DB_PATH="+p.db)
		}, []string{"no/such", "does not exist", "mkdir -p"}},
		"not SQLite": {func(t *testing.T, p *pop) { overwrite(t, p.db, []byte(strings.Repeat("hello ", 999))) }, []string{"no SQLite file", "EDGEPROXY_DB_PATH"}},
		"short text": {func(t *testing.T, p *pop) { overwrite(t, p.db, []byte("hello")) }, []string{"no SQLite file", "EDGEPROXY_DB_PATH"}},
		"truncated": {func(t *testing.T, p *pop) {
			p.seed(t, at("a", "sa", refusing(t)))
			truncate(t, p.db, 6000)
		}, []string{"restore it from a backup"}},
		"a directory":   {func(t *testing.T, p *pop) { mkdir(t, p.db) }, []string{"not a regular file"}},
		"newer":         {func(t *testing.T, p *pop) { rename(t, p.newer(t), p.db) }, []string{"version 99", "newer"}},
		"another shape": {func(t *testing.T, p *pop) { rename(t, p.shapeless(t), p.db) }, []string{"backends lacks wg_ip, healthy", "ALTER TABLE"}},
		"id is no key": {func(t *testing.T, p *pop) {
			runSQL(t, p.db, "CREATE TABLE backends (id TEXT, app, region, wg_ip, port, healthy, weight, soft_limit, hard_limit, deleted)")
		}, []string{"PRIMARY KEY"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPOP(t)
			c.make(t, p)
			before, _ := os.ReadFile(p.db)
			if code, out, errs := p.run(t, "check"); code != 2 || !strings.Contains(out, p.db) || !strings.Contains(out, c.words[0]) {
				t.Errorf("check: %d %q %q", code, out, errs)
			}
			p.refuses(t, 1, append(c.words, p.db)...)
			if after, _ := os.ReadFile(p.db); string(after) != string(before) {
				t.Error("the file is not what it was")
			}
			if _, err := os.Stat(p.db + ".pop"); err == nil {
				t.Error("an address file was left behind")
			}
		})
	}
}

// TestEmptyDatabase: an empty file, or one without our table, becomes a routing database.
func TestEmptyDatabase(t *testing.T) {
	t.Parallel()
	for name, fill := range map[string]func(*pop){
		"empty":        func(p *pop) { overwrite(t, p.db, nil) },
		"other tables": func(p *pop) { rename(t, p.tableless(t), p.db) },
		"missing":      func(*pop) {},
	} {
		p := newPOP(t, unchecked)
		fill(p)
		p.start(t)
		p.sql(t, insert(at("a", "sa", refusing(t))))
		eventually(t, soon, func() error {
			if n := p.status(t).Backends.Up; n != 1 {
				return fmt.Errorf("%s: %d backends", name, n)
			}
			return nil
		})
	}
}

// TestReadOnlyDatabase: it is served; changes are refused with the reason.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	p := newPOP(t, noAffinity)
	p.seed(t, startBackends(t, "sa")...)
	if os.Getuid() == 0 { // whom permissions do not stop
		p.user = &syscall.Credential{Uid: 65534, Gid: 65534}
		for dir := p.dir; len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	for path, mode := range map[string]os.FileMode{p.db: 0o444, p.dir: 0o555} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(p.dir, 0o755) })
	addr := freeAddress(t) // no address file can be written
	apiAddr := freeAddress(t)
	p.env = append(p.env, "EDGEPROXY_LISTEN_ADDR="+addr, "EDGEPROXY_API_ADDR="+apiAddr)
	p.launch(t)
	p.Listen, p.API = addr, apiAddr
	eventually(t, soon, p.isReady)
	if got := p.goes(t, ""); got != "sa-1" {
		t.Errorf("a client went to %q", got)
	}
	p.expectLog(t, `"level":"warn"`, "read-only")
	if a := p.ask(t, "PATCH", "/api/v1/backends/sa-1", `{"weight":5}`); a.code != 503 || !strings.Contains(a.body, "read-only") {
		t.Errorf("a change by API: %+v, want 503 and the reason", a)
	}
}
