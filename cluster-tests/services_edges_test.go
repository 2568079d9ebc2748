package clustertests

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	proxyproto "github.com/pires/go-proxyproto"
)

// TestDrainOfTLS: when the time for a drain is over, whatever a TLS client is
// in the middle of ends, and so does the POP.
func TestDrainOfTLS(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		p, addr, _ := terminating(t, relay, startBackend(t, "plain", "sa").row(), ca.issue(t, "site.example", "*.site.example"), nil)
		p.set("EDGEPROXY_DRAIN_SECS", "4")
		p.stop(t)
		p.start(t)
		eventually(t, soon, func() error { _, err := greeted(addr, ca.client("site.example"), nil); return err })
		open, err := shake(addr, ca.client("site.example"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		if _, err := open.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		silent := entrance(addr).connect(t, nil)                                        // owes its hello
		began := entrance(addr).connect(t, []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) // and the rest of it
		stuck := tap{entrance(addr).connect(t, nil)}                                    // and the handshake's end
		if err := tls.Client(stuck, ca.client("site.example")).Handshake(); err == nil {
			t.Fatal("a handshake that nobody answers was done")
		}
		p.signal(t, syscall.SIGTERM)
		p.expectLog(t, "draining")
		if err := open.echo("still there?"); err != nil {
			t.Errorf("while it drains: %v", err)
		}
		asked := time.Now()
		if code := p.wait(t, soon); code != 0 {
			t.Errorf("ended with %d", code)
		}
		if took := time.Since(asked); took > 20*time.Second {
			t.Errorf("it ended after %s, want about 4s", took)
		}
		for _, c := range []net.Conn{silent, began, stuck.Conn} {
			_ = c.SetReadDeadline(time.Now().Add(soon))
			if _, err := io.Copy(io.Discard, c); err != nil && !refusal(err) {
				t.Errorf("a client still waits: %v", err)
			}
		}
	})
}

// tap is a socket whose answers nobody reads.
type tap struct{ net.Conn }

func (tap) Read([]byte) (int, error) { return 0, errors.New("nobody listens") }

// TestNamesChangeUnderLoad: services come to a port and leave it, and those that
// stay are served all the while.
func TestNamesChangeUnderLoad(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		p, addr := apps(t, ca, nil, relay)
		kept, err := shake(addr, ca.client("n9.example"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		if _, err := kept.r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		var over atomic.Bool
		var visits atomic.Int64
		for _, name := range []string{"n1.example", "one.wild.example"} {
			all.Go(func() {
				for !over.Load() || visits.Load() < 20 {
					if got, err := greeted(addr, ca.client(name), nil); err != nil || !strings.HasSuffix(got, name) {
						t.Errorf("%s after %d: %q, %v", name, visits.Load(), got, err)
						return
					}
					visits.Add(1)
				}
			})
		}
		for i := range often(5, 50) {
			p.sql(t, fmt.Sprintf("UPDATE services SET sni = 'moved%d.example' WHERE app = 'app9'", i))
			eventually(t, soon, func() error {
				_, err := greeted(addr, ca.client(""), nil)
				if err == nil {
					return errors.New("a client without a name was served")
				}
				c := ca.client(fmt.Sprintf("moved%d.example", i))
				c.InsecureSkipVerify = true // the backend has a certificate for the old name
				_, err = greeted(addr, c, nil)
				return err
			})
			p.sql(t, "DELETE FROM services WHERE app = 'wild'")
			p.sql(t, service("wild", map[string]string{"listen": addr, "mode": "tls-passthrough", "sni": "*.wild.example"}))
		}
		over.Store(true)
		all.Wait()
		if err := kept.echo("still there?"); err != nil {
			t.Errorf("a connection of a service that has another name now: %v", err)
		}
	})
}

// TestCertificateFiles: a directory that is not there is an error that names
// the setting; what is wrong with a file is told by status and metrics, and a
// name without certificate is a fault.
func TestCertificateFiles(t *testing.T) {
	t.Parallel()
	p := newPOP(t, "EDGEPROXY_CERT_DIR=/no/such/directory")
	p.refuses(t, 1, "EDGEPROXY_CERT_DIR", "/no/such/directory")

	ca := newAuthority(t)
	cert := ca.issue(t, "site.example")
	p, addr, base := terminating(t, noAffinity, startBackend(t, "plain", "sa").row(), cert, map[string]string{"sni": "site.example,later.example"})
	status := func(want bool, words ...string) {
		t.Helper()
		eventually(t, soon, func() error {
			_, out, errs := p.run(t, "status", "--api", p.API)
			if (len(linesWith(out, words...)) > 0) != want {
				return fmt.Errorf("status with %q: want %v\n%s%s", words, want, out, errs)
			}
			return nil
		})
	}
	status(true, "fault", "later.example", "no certificate")
	if n := p.metric(t, "edgeproxy_listener_fault", `app="site"`); n != 1 {
		t.Errorf("the metric says %v", n)
	}
	if n := p.metric(t, "edgeproxy_certificate_not_after_timestamp_seconds", `file="site.crt"`); int64(n) != ca.cert.NotAfter.Unix() {
		t.Errorf("it ends at %v", int64(n))
	}
	overwrite(t, base+".key", ca.issue(t, "site.example").key)
	if err := os.Chmod(base+".key", 0o600); err != nil {
		t.Fatal(err)
	}
	status(true, "site.crt", "private key does not match")
	if n := p.metric(t, "edgeproxy_certificate_problems"); n != 1 {
		t.Errorf("%v problems, want 1", n)
	}
	if got, err := greeted(addr, ca.client("site.example"), nil); err != nil {
		t.Errorf("while the files are wrong: %q, %v", got, err)
	}
	cert.install(t, base)
	status(false, "site.crt", "private key does not match")
	ca.issue(t, "later.example").install(t, base+"-later")
	status(false, "fault", "later.example")
	if got, err := greeted(addr, ca.client("later.example"), nil); err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if st, err := look[api.Status](p, "status"); err != nil || len(st.Faults) > 0 {
		t.Errorf("%v, %v", st.Faults, err)
	}
}

// TestProxyOutOfTLS: version 2 of the header also says which name and protocol
// a TLS client asked for, before the bytes that it sent, encrypted or not.
func TestProxyOutOfTLS(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		type heard struct{ client, name, protocol, first string }
		said := make(chan heard, 2) // each connection's is fetched
		backend := startHandler(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			h, err := proxyproto.Read(r)
			if err != nil {
				return
			}
			first, _ := r.Peek(1)
			one := heard{client: h.SourceAddr.String(), first: string(first)}
			tlvs, _ := h.TLVs()
			for _, v := range tlvs {
				switch v.Type {
				case proxyproto.PP2_TYPE_AUTHORITY:
					one.name = string(v.Value)
				case proxyproto.PP2_TYPE_ALPN:
					one.protocol = string(v.Value)
				}
			}
			said <- one
		})
		p, addr, _ := terminating(t, relay, at("plain", "sa", backend), ca.issue(t, "site.example", "*.site.example"), map[string]string{"proxy_protocol": "v2", "alpn": "h2"})
		s, err := shake(addr, ca.client("www.site.example", "h2"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := io.WriteString(s, "x"); err != nil {
			t.Fatal(err)
		}
		hear := func(want heard) {
			t.Helper()
			select {
			case got := <-said:
				if got != want {
					t.Errorf("the backend was told %q, want %q", got, want)
				}
			case <-time.After(soon):
				t.Error("the backend was told nothing")
			}
		}
		hear(heard{s.LocalAddr().String(), "www.site.example", "h2", "x"})

		p.sql(t, service("pass", map[string]string{"listen": addr, "mode": "tls-passthrough", "sni": "pass.example", "proxy_protocol": "v2"})+
			insert(at("pass", "sa", backend).of("pass")))
		eventually(t, soon, func() error {
			_, err := greeted(addr, ca.client("pass.example", "h2"), nil) // its end, for there is no TLS behind it
			if err == nil || strings.Contains(err.Error(), "unrecognized name") {
				return fmt.Errorf("not there yet: %w", err)
			}
			return nil
		})
		select {
		case got := <-said:
			if got.name != "pass.example" || got.first != "\x16" {
				t.Errorf("the backend was told %q", got)
			}
		case <-time.After(soon):
			t.Error("the backend was told nothing")
		}
	})
}
