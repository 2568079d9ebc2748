package clustertests

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// headerReader is a server that expects a PROXY header, answers HTTP with the client's address
// and writes that to its log: nginx or HAProxy, or where those are not
// installed one of Go's with the same library that the POP has.
type headerReader struct {
	kind string
	addr netip.AddrPort
	logs func() string // what it has written about clients
}

const nginxConfig = `daemon off;
pid %[1]s/nginx.pid;
error_log stderr warn;
worker_processes 1;
events { worker_connections 64; }
http {
	log_format who 'client=$proxy_protocol_addr:$proxy_protocol_port';
	access_log %[1]s/access.log who;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/fastcgi; uwsgi_temp_path %[1]s/uwsgi; scgi_temp_path %[1]s/scgi;
	server {
		listen %[2]s proxy_protocol;
		location / { return 200 "client=$proxy_protocol_addr:$proxy_protocol_port server=$proxy_protocol_server_addr:$proxy_protocol_server_port\n"; }
	}
}
`

const haproxyConfig = `global
	log stdout format raw local0
	maxconn 100
defaults
	mode http
	log global
	timeout client 10s
	timeout server 10s
	timeout connect 10s
frontend in
	bind %[2]s accept-proxy
	log-format "client=%%ci:%%cp"
	http-request return status 200 content-type text/plain lf-string "client=%%[src]:%%[src_port] server=%%[dst]:%%[dst_port]\n"
`

// startHeaderReader runs the program, if there is one.
func startHeaderReader(t *testing.T, program, config string, args ...string) *headerReader {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Logf("no %s here: Go's server with go-proxyproto stands in for it", program)
		return startGoHeaderReader(t)
	}
	dir, addr := t.TempDir(), freeAddress(t)
	overwrite(t, dir+"/conf", fmt.Appendf(nil, config, dir, addr))
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "DIR", dir)
	}
	log := &logBuffer{}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1) // read once, when it has been told to end
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(soon):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s: %s", program, log)
		}
	})
	r := &headerReader{kind: program, addr: netip.MustParseAddrPort(addr), logs: log.String}
	if program == "nginx" {
		r.logs = func() string { body, _ := os.ReadFile(dir + "/access.log"); return string(body) } // until there is one: nothing
	}
	listens(t, addr)
	return r
}

func startGoHeaderReader(t *testing.T) *headerReader {
	t.Helper()
	ln := &proxyproto.Listener{Listener: listen(t), ConnPolicy: func(proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) { return proxyproto.REQUIRE, nil }}
	log := &logBuffer{}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		to := req.Context().Value(http.LocalAddrContextKey)
		fmt.Fprintf(log, "client=%s\n", req.RemoteAddr)
		fmt.Fprintf(w, "client=%s server=%s\n", req.RemoteAddr, to)
	})}
	done := make(chan error, 1)
	go func() { done <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return &headerReader{kind: "Go", addr: addrOf(ln.Listener), logs: log.String}
}

// seen is what a server says of its client, and at which address that is.
func seen(addr string, first []byte) (said, from string, err error) {
	c, err := entrance(addr).dial(first)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		return "", "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(body)), c.LocalAddr().String(), err
}

// TestProxyOut: real servers are told who the client is, by both versions of
// the PROXY protocol, also who came through a load balancer before this POP;
// a backend may say otherwise than its service; and checks of backends that
// insist on a header succeed.
func TestProxyOut(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		servers := map[string]*headerReader{
			"nginx":   startHeaderReader(t, "nginx", nginxConfig, "-p", "DIR", "-c", "DIR/conf"),
			"haproxy": startHeaderReader(t, "haproxy", haproxyConfig, "-db", "-f", "DIR/conf"),
		}
		p := newPOP(t, append(trusting, relay, noAffinity)...)
		// The load balancer of this machine is trusted, so that a client has to come from elsewhere to be one itself.
		p.set("EDGEPROXY_TRUSTED_PROXIES", "127.0.0.9/32")
		var statements bytes.Buffer
		addrs := map[string]string{}
		for _, name := range sorted(servers) {
			for _, version := range []string{"v1", "v2"} {
				app := name + version
				addrs[app] = freeAddress(t)
				columns := map[string]string{"listen": addrs[app], "proxy_protocol": version, "health_check": "http interval=200ms timeout=30s fall=1"}
				if version == "v2" { // by the backend's row, against its service's
					columns["proxy_protocol"] = "v1"
					fmt.Fprintf(&statements, "INSERT INTO backend_options (id, proxy_protocol) VALUES ('%s', 'v2');", app)
				}
				statements.WriteString(service(app, columns) + insert(at(app, "sa", servers[name].addr).of(app)))
			}
		}
		p.seed(t)
		p.start(t)
		p.sql(t, statements.String())
		for app, addr := range addrs {
			server := servers[strings.TrimRight(app, "v12")]
			var said, from string
			eventually(t, soon, func() (err error) { said, from, err = seen(addr, nil); return err })
			if want := fmt.Sprintf("client=%s server=%s", from, addr); said != want {
				t.Errorf("%s (%s): %q, want %q", app, server.kind, said, want)
			}
			eventually(t, soon, func() error {
				if !strings.Contains(server.logs(), "client="+from) {
					return fmt.Errorf("%s (%s): nothing of %s in its log", app, server.kind, from)
				}
				return nil
			})
			for _, client := range []string{"203.0.113.7", "2001:db8:1::7"} {
				said, err := through(addr, client)
				if err != nil || !strings.HasPrefix(strings.NewReplacer("[", "", "]", "").Replace(said), "client="+client+":40000 ") {
					t.Errorf("%s (%s): %q, %v; want client %s", app, server.kind, said, err, client)
				}
			}
		}
		// Each backend is checked some times by now, or soon, and found well.
		eventually(t, soon, func() error {
			if n := p.metric(t, "edgeproxy_health_checks_total", `result="ok"`); n < 12 {
				return fmt.Errorf("%v checks have succeeded", n)
			}
			return nil
		})
		if n := p.metric(t, "edgeproxy_health_checks_total", `result="failed"`); n > 0 {
			t.Errorf("%v checks have failed", n)
		}
		for id, b := range p.backends(t) {
			if b.State != "up" {
				t.Errorf("%s is %s: %s", id, b.State, b.Why)
			}
		}
	})
}

// through is what a server says of a client that comes by a load balancer.
func through(addr, client string) (string, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}, Timeout: soon}
	c, err := d.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := c.Write(append(header(2, client), "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"...)); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}
