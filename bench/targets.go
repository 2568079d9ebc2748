//go:build linux

package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite" // for the driver of this build, to write routing.db
)

// Names of targets. Others come from tests.
const (
	edgeproxy = "edgeproxy"           // relaying as it does by default: by epoll
	goroutine = "edgeproxy-goroutine" // the same binary with two goroutines a connection
	haproxy   = "haproxy"
	nginx     = "nginx"
	direct    = "direct" // no proxy at all: what the load generator and the backends allow
)

var defaultTargets = []string{edgeproxy, goroutine, haproxy, nginx}

// threads is how many threads or workers each proxy may use.
const threads = 2

// target is something to measure.
type target struct {
	name     string
	version  string
	backends []netip.AddrPort // its own nine
	sources  []netip.Addr     // its own clients' addresses

	// command prepares dir and returns the command that serves on listen and forwards to backends. nil: no process, the
	// clients go to the backends.
	command func(ctx context.Context, dir string, listen netip.AddrPort, backends []netip.AddrPort, free *ports) (*exec.Cmd, error)
}

// place gives the n-th target its addresses: 127.20+n.0.1–9 for backends, 127.120+n.0.1–64 for clients.
func (t *target) place(n int, port uint16) {
	t.backends, t.sources = nil, nil
	for i := range 9 {
		t.backends = append(t.backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, byte(20 + n), 0, byte(1 + i)}), port))
	}
	for i := range 64 {
		t.sources = append(t.sources, netip.AddrFrom4([4]byte{127, byte(120 + n), 0, byte(1 + i)}))
	}
}

func names(ts []*target) string {
	var out []string
	for _, t := range ts {
		out = append(out, strings.TrimSpace(t.name+" "+t.version))
	}
	return strings.Join(out, ", ")
}

// findTargets resolves what was asked for. What was not asked for by name and is not installed is left out.
func findTargets(ctx context.Context, cfg config, dir string) ([]*target, error) {
	wanted := cfg.targets
	if len(wanted) == 0 {
		wanted = defaultTargets
	}
	var out []*target
	for _, name := range wanted {
		t := &target{name: name}
		var err error
		switch name {
		case edgeproxy:
			err = t.useEdgeproxy(ctx, cfg.edgeproxy, dir, "auto")
		case goroutine:
			err = t.useEdgeproxy(ctx, cfg.edgeproxy, dir, "goroutine")
		case haproxy:
			err = t.useHAProxy(ctx)
		case nginx:
			err = t.useNginx(ctx)
		case direct:
		default:
			err = fmt.Errorf("unknown target %q; there are %s and %s", name, strings.Join(defaultTargets, ", "), direct)
		}
		if errors.Is(err, exec.ErrNotFound) && len(cfg.targets) == 0 {
			fmt.Fprintf(os.Stderr, "%s left out: %v\n", name, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o *target) bool { return o.name == name }) {
			return nil, fmt.Errorf("target %s is named twice", name)
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, errors.New("no target to measure")
	}
	return out, nil
}

// look finds a program on PATH or where Debian puts daemons.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		if p, err := exec.LookPath("/usr/sbin/" + name); err == nil {
			return p, nil
		}
	}
	return path, err
}

// versionOf runs a program and returns the first thing in its output that looks like a version.
func versionOf(ctx context.Context, path, flag string) string {
	out, _ := exec.CommandContext(ctx, path, flag).CombinedOutput() // decoration
	return string(regexp.MustCompile(`\d+\.\d+(\.\d+)*`).Find(out))
}

// useEdgeproxy takes the binary at path or builds one, which relays in the way given.
func (t *target) useEdgeproxy(ctx context.Context, path, dir, relay string) error {
	bin, err := filepath.Abs(path)
	if path == "" {
		bin = filepath.Join(dir, edgeproxy)
		if _, err = os.Stat(bin); err != nil {
			err = buildEdgeproxy(ctx, bin)
		}
	} else if err == nil {
		_, err = os.Stat(bin)
	}
	if err != nil {
		return fmt.Errorf("%w\n(-targets %s,%s measures without edgeproxy)", err, haproxy, nginx)
	}
	t.command = func(ctx context.Context, dir string, listen netip.AddrPort, backends []netip.AddrPort, free *ports) (*exec.Cmd, error) {
		db := filepath.Join(dir, "routing.db")
		if err := writeRoutingDB(ctx, db, backends); err != nil {
			return nil, fmt.Errorf("write %s: %w", db, err)
		}
		api, err := free.take()
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(bin, "serve")
		for _, kv := range os.Environ() { // the caller's own settings are none of ours
			if !strings.HasPrefix(kv, "EDGEPROXY_") {
				cmd.Env = append(cmd.Env, kv)
			}
		}
		cmd.Env = append(cmd.Env,
			"EDGEPROXY_LISTEN_ADDR="+listen.String(),
			"EDGEPROXY_DB_PATH="+db,
			fmt.Sprintf("EDGEPROXY_API_ADDR=127.0.0.1:%d", api),
			"EDGEPROXY_REGION=sa",
			"EDGEPROXY_RELAY="+relay,
			"EDGEPROXY_HEALTH_CHECK=off", // as the peers'
			fmt.Sprintf("GOMAXPROCS=%d", threads))
		return cmd, nil
	}
	return nil
}

func buildEdgeproxy(ctx context.Context, bin string) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w; give a built binary with -edgeproxy", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	fmt.Fprintln(os.Stderr, "go build ./cmd/edgeproxy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/edgeproxy")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("./cmd/edgeproxy in %s does not build: %w\n%s", root, err, bytes.TrimSpace(out))
	}
	return nil
}

// writeRoutingDB makes the seed's table with nine backends, unless the file is there from an earlier start.
func writeRoutingDB(ctx context.Context, path string, backends []netip.AddrPort) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := sql.Open(sqlite.Driver, path)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `CREATE TABLE backends (id TEXT PRIMARY KEY, app TEXT, region TEXT, wg_ip TEXT, port INTEGER,
		healthy INTEGER, weight INTEGER, soft_limit INTEGER, hard_limit INTEGER, deleted INTEGER DEFAULT 0)`); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for i, b := range backends {
		region := []string{"sa", "us", "eu"}[i/3%3]
		if _, err := tx.ExecContext(ctx, `INSERT INTO backends VALUES (?, 'bench', ?, ?, ?, 1, 1, 10000, 0, 0)`,
			fmt.Sprintf("%s-node-%d", region, i/9*3+i%3+1), region, b.Addr().String(), b.Port()); err != nil {
			return err
		}
	}
	return tx.Commit()
}
