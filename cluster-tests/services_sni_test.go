package clustertests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// dribble sends each write byte by byte.
type dribble struct{ net.Conn }

func (d dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// shredder sends what is written to it first, the record of the ClientHello,
// in records of size bytes.
type shredder struct {
	net.Conn
	size int
	done bool
}

func (s *shredder) Write(b []byte) (int, error) {
	if s.done {
		return s.Conn.Write(b)
	}
	s.done = true
	var out []byte
	for part := range slices.Chunk(b[5:], s.size) {
		out = append(out, b[:3]...)
		out = append(out, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	if _, err := s.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// protocols make a ClientHello of about size bytes.
func manyProtocols(size int, last ...string) []string {
	var all []string
	for n := 0; n < size; n += 201 {
		all = append(all, fmt.Sprintf("%0200d", n))
	}
	return append(all, last...)
}

// apps is a POP with 20 apps behind one port, and two more with a wildcard and
// an exception to it. Each has a backend with its own certificate. Clients'
// sockets have to be wrapped as given.
func apps(t *testing.T, ca *authority, wrap func(net.Conn) net.Conn, env ...string) (p *pop, addr string) {
	t.Helper()
	addr = freeAddress(t)
	names := map[string]string{"wild": "*.wild.example", "one": "one.wild.example"}
	for i := range 20 {
		names[fmt.Sprintf("app%d", i)] = fmt.Sprintf("n%d.example", i)
	}
	p = newPOP(t, append([]string{patientPOP, unchecked, noAffinity}, env...)...)
	var rows []row
	for _, app := range sorted(names) {
		rows = append(rows, at(app, "sa", ca.secureBackend(t, app, []string{"h2", "x"}, names[app])).of(app))
	}
	p.seed(t, rows...)
	p.start(t)
	var statements strings.Builder
	for _, app := range sorted(names) {
		if app == "app0" { // one by the command line, the others by sqlite3
			if code, out, errs := p.run(t, "service", "add", app, "--listen", addr, "--mode", "tls-passthrough", "--sni", names[app]); code != 0 {
				t.Fatalf("service add: %d, %s%s", code, out, errs)
			}
			continue
		}
		statements.WriteString(service(app, map[string]string{"listen": addr, "mode": "tls-passthrough", "sni": names[app]}))
	}
	p.sql(t, "BEGIN;"+statements.String()+"COMMIT;")
	eventually(t, soon, func() error {
		_, err := greeted(addr, ca.client("one.wild.example"), wrap)
		return err
	})
	return p, addr
}

// TestManyAppsBehindOnePort: each client is answered by the backend that has
// the certificate for the name that it asks for, in the protocol that the two
// agree on, however the ClientHello is cut.
func TestManyAppsBehindOnePort(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		p, addr := apps(t, ca, nil, relay)
		want := map[string]string{"one.wild.example": "one", "two.wild.example": "wild"} // the exact name wins
		for i := range 20 {
			want[fmt.Sprintf("n%d.example", i)] = fmt.Sprintf("app%d", i)
		}
		for name, app := range want {
			if got, err := greeted(addr, ca.client(name, "y", "x"), nil); err != nil || got != app+" x "+name {
				t.Errorf("%s: %q, %v; want %s", name, got, err, app)
			}
		}

		cut := map[string]func(net.Conn) net.Conn{
			"in segments of one byte": func(c net.Conn) net.Conn { return dribble{c} },
			"in records of one byte":  func(c net.Conn) net.Conn { return &shredder{Conn: c, size: 1} },
			"in records of 50 bytes":  func(c net.Conn) net.Conn { return &shredder{Conn: c, size: 50} },
			"in both":                 func(c net.Conn) net.Conn { return &shredder{Conn: dribble{c}, size: 2} },
		}
		for how, wrap := range cut {
			if got, err := greeted(addr, ca.client("n7.example", "h2"), wrap); err != nil || got != "app7 h2 n7.example" {
				t.Errorf("%s: %q, %v", how, got, err)
			}
		}
		if got, err := greeted(addr, ca.client("n3.example", manyProtocols(10<<10, "h2")...), nil); err != nil || got != "app3 h2 n3.example" {
			t.Errorf("a hello of 10 KiB: %q, %v", got, err)
		}
		for _, n := range []int{20 << 10, 60 << 10} {
			began := time.Now()
			got, err := greeted(addr, ca.client("n3.example", manyProtocols(n)...), nil)
			if took := time.Since(began); err == nil || !refusal(err) || took > converged {
				t.Errorf("a hello of %d bytes: %q, %v after %s; want it refused at once", n, got, err, took)
			}
		}
		before := p.metric(t, "edgeproxy_connections_ended_total", `end="unknown_name"`) // of clients that came before the rows did
		for _, name := range []string{"", "nobody.example", "wild.example", "a.two.wild.example", "n1.example.evil"} {
			_, err := greeted(addr, ca.client(name), nil)
			if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%q: %v, want it to be told that the name is unknown", name, err)
			}
		}
		p.counts(t, "unknown_name", before+5)
		if n := p.metric(t, "edgeproxy_connections_ended_total", `end="bad_client_hello"`); n < 2 {
			t.Errorf("%v connections ended for their hello, want 2 at least", n)
		}
	})
}

// refusal says whether an error is a clean no: an alert, a reset or an end.
func refusal(err error) bool {
	var timeout net.Error
	return !(errors.As(err, &timeout) && timeout.Timeout())
}

// TestOpenSSL: the other widespread client is understood, too.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	ca := newAuthority(t)
	p, addr := apps(t, ca, nil)
	overwrite(t, p.dir+"/ca.pem", ca.pem)
	for _, tt := range []struct{ args, want string }{
		{"-servername n5.example -alpn h2 -tls1_3", "app5 h2 n5.example"},
		{"-servername N6.EXAMPLE -alpn x -tls1_2", "app6 x N6.EXAMPLE"},
		{"-servername two.wild.example", "wild  two.wild.example"},
		{"-noservername", ""},
	} {
		cmd := exec.Command(openssl, append([]string{"s_client", "-connect", addr, "-quiet", "-CAfile", p.dir + "/ca.pem", "-verify_return_error"}, strings.Fields(tt.args)...)...)
		in, err := cmd.StdinPipe() // open, or it would end
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(soon, func() { _ = cmd.Process.Kill() })
		got := make([]byte, len(tt.want))
		_, err = io.ReadFull(out, got)
		if tt.want == "" {
			_, _ = io.Copy(io.Discard, out) // it ends by itself
		}
		_ = cmd.Process.Kill()
		in.Close()
		_ = cmd.Wait()
		timer.Stop()
		if string(got) != tt.want || err != nil {
			t.Errorf("%s: %q, %v; want %q\n%s", tt.args, got, err, tt.want, errs.String())
		}
		if tt.want == "" && !strings.Contains(errs.String(), "unrecognized name") {
			t.Errorf("%s: it says %q", tt.args, errs.String())
		}
	}
}

// TestSlowHello: who sends a ClientHello too slowly is let go of when the time
// for it is over, and meanwhile others are served.
func TestSlowHello(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		p, addr := apps(t, ca, nil, relay, "EDGEPROXY_HEADER_TIMEOUT_MS=3000")
		record := []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}
		var slow []*net.TCPConn
		began := time.Now()
		for range 20 {
			slow = append(slow, entrance(addr).connect(t, record))
		}
		trickle := time.NewTicker(200 * time.Millisecond)
		defer trickle.Stop()
		for open := len(slow); open > 0; {
			if time.Since(began) > soon {
				t.Fatalf("%d are still open", open)
			}
			<-trickle.C
			open = 0
			for _, c := range slow {
				if _, err := c.Write([]byte{0}); err == nil {
					open++
				}
			}
			if got, err := greeted(addr, ca.client("n1.example"), nil); err != nil || got != "app1  n1.example" {
				t.Fatalf("meanwhile %q, %v", got, err)
			}
		}
		if took := time.Since(began); took < 2*time.Second || took > converged {
			t.Errorf("let go of after %s, want about 3s", took)
		}
		p.counts(t, "bad_client_hello", 20)
	})
}

// prefixed sends something before what is written to it first, with that.
type prefixed struct {
	net.Conn
	first []byte
}

func (p *prefixed) Write(b []byte) (int, error) {
	n := len(p.first)
	wrote, err := p.Conn.Write(append(p.first, b...))
	p.first = nil
	return wrote - n, err
}

// TestHelloBehindHeader: a ClientHello that comes behind a load balancer's PROXY
// header is read like any other, and so is who the client is.
func TestHelloBehindHeader(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		behind := func(version byte, from string) func(net.Conn) net.Conn {
			return func(c net.Conn) net.Conn { return &prefixed{c, header(version, from)} }
		}
		p, addr := apps(t, ca, behind(2, "203.0.113.9"), append(slices.Clone(trusting), relay, "EDGEPROXY_ACCESS_LOG=true")...)
		for i, version := range []byte{1, 2} {
			name, from := fmt.Sprintf("n%d.example", i), fmt.Sprintf("203.0.113.%d", i)
			for how, wrap := range map[string]func(net.Conn) net.Conn{
				"at once":      behind(version, from),
				"byte by byte": func(c net.Conn) net.Conn { return &prefixed{dribble{c}, header(version, from)} },
				"in records": func(c net.Conn) net.Conn {
					return &shredder{Conn: &prefixed{dribble{c}, header(version, from)}, size: 3}
				},
			} {
				if got, err := greeted(addr, ca.client(name, "h2"), wrap); err != nil || got != fmt.Sprintf("app%d h2 %s", i, name) {
					t.Errorf("version %d, %s: %q, %v", version, how, got, err)
				}
			}
			p.expectLog(t, `"sni":"`+name+`"`, `"client":"`+from+`:40000"`)
		}
		if _, err := greeted(addr, ca.client("n1.example"), nil); err == nil {
			t.Error("a hello without the header was served")
		}
		if _, err := greeted(addr, ca.client("n1.example", manyProtocols(14<<10)...), behind(2, "203.0.113.9")); err == nil {
			t.Error("a hello that has no room behind the header was served")
		}
	})
}
