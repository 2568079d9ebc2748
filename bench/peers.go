//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The peers are set up as one would for speed: no logging, two threads, least connections, splicing where they have it.

func (t *target) useHAProxy(ctx context.Context) error {
	bin, err := look(haproxy)
	if err != nil {
		return err
	}
	t.version = versionOf(ctx, bin, "-v")
	t.command = func(_ context.Context, dir string, listen netip.AddrPort, backends []netip.AddrPort, _ *ports) (*exec.Cmd, error) {
		conf := filepath.Join(dir, "haproxy.cfg")
		if err := os.WriteFile(conf, []byte(haproxyConf(listen, backends, maxConns())), 0o644); err != nil {
			return nil, err
		}
		return exec.Command(bin, "-db", "-f", conf), nil // -db: one process, in the foreground
	}
	return nil
}

// maxConns is 9,000 connections, or what the descriptors of a proxy that needs two for each allow.
func maxConns() int {
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim) == nil && lim.Max < 2*9000+500 {
		return int(lim.Max-500) / 2
	}
	return 9000
}

// haproxyConf bounds the pipes that splicing takes, or HAProxy would want descriptors for a quarter as many as connections.
func haproxyConf(listen netip.AddrPort, backends []netip.AddrPort, maxconn int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
    nbthread %d
    maxconn %d
    maxpipes 256
defaults
    mode tcp
    maxconn %d
    option splice-auto
    timeout connect 2s
    timeout client 1h
    timeout server 1h
listen bench
    bind %s
    balance leastconn
`, threads, maxconn, maxconn, listen)
	for i, a := range backends {
		fmt.Fprintf(&b, "    server node-%d %s\n", i+1, a)
	}
	return b.String()
}

// nginxStream is where Debian's libnginx-mod-stream puts the module; an nginx without that file is taken to have it built in.
const nginxStream = "/usr/lib/nginx/modules/ngx_stream_module.so"

func (t *target) useNginx(ctx context.Context) error {
	bin, err := look(nginx)
	if err != nil {
		return err
	}
	module := ""
	if _, err := os.Stat(nginxStream); err == nil {
		module = nginxStream
	}
	t.version = versionOf(ctx, bin, "-v")
	t.command = func(_ context.Context, dir string, listen netip.AddrPort, backends []netip.AddrPort, _ *ports) (*exec.Cmd, error) {
		conf := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(conf, []byte(nginxConf(module, dir, listen, backends, 2*maxConns())), 0o644); err != nil {
			return nil, err
		}
		return exec.Command(bin, "-p", dir, "-c", conf, "-e", filepath.Join(dir, "error.log")), nil
	}
	return nil
}

// nginxConf gives each worker its own listening socket, and its own idea of least connections: a shared zone would cost
// nginx a lock per connection.
func nginxConf(module, dir string, listen netip.AddrPort, backends []netip.AddrPort, connections int) string {
	var b strings.Builder
	if module != "" {
		fmt.Fprintf(&b, "load_module %s;\n", module)
	}
	if os.Geteuid() == 0 { // or the workers want to be nobody, whom a user namespace may not have
		b.WriteString("user root;\n")
	}
	fmt.Fprintf(&b, `daemon off;
worker_processes %d;
worker_rlimit_nofile %d;
pid %s/nginx.pid;
error_log %s/error.log crit;
events { worker_connections %d; }
stream {
    access_log off;
    upstream bench {
        least_conn;
`, threads, connections+500, dir, dir, connections)
	for _, a := range backends {
		fmt.Fprintf(&b, "        server %s;\n", a)
	}
	fmt.Fprintf(&b, `    }
    server {
        listen %s reuseport backlog=4096;
        proxy_connect_timeout 2s;
        proxy_timeout 1h;
        proxy_pass bench;
    }
}
`, listen)
	return b.String()
}
