package clustertests

import (
	"bufio"
	"bytes"
	"crypto/sha256"
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
)

// terminating is a POP with certificates of its own and a service that uses
// them, whose backend is sent plaintext.
func terminating(t *testing.T, relay string, backend row, cert issued, columns map[string]string) (p *pop, addr, base string) {
	t.Helper()
	addr = freeAddress(t)
	p = newPOP(t, relay, unchecked, noAffinity, patientPOP)
	dir := p.dir + "/certs"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.set("EDGEPROXY_CERT_DIR", dir)
	base = dir + "/site"
	cert.install(t, base)
	p.seed(t, backend.of("site"))
	p.start(t)
	all := map[string]string{"listen": addr, "mode": "tls-terminate", "sni": "site.example,*.site.example"}
	for k, v := range columns {
		all[k] = v
	}
	p.sql(t, service("site", all))
	listens(t, addr)
	return p, addr, base
}

// TestTerminate: the client's TLS ends at the POP, in the protocol that both
// speak, and the backend is sent what was encrypted.
func TestTerminate(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		_, addr, base := terminating(t, relay, startBackend(t, "plain", "sa").row(), ca.issue(t, "site.example", "*.site.example"), map[string]string{"alpn": "h2,http/1.1"})
		// One that is not the service's, though the POP has it.
		ca.issue(t, "other.example").install(t, base+"-other")
		for _, tt := range []struct {
			name, protocol string
			offers         []string
		}{
			{"site.example", "h2", []string{"http/1.1", "h2"}},
			{"www.site.example", "http/1.1", []string{"x", "http/1.1"}},
			{"site.example", "", nil},
		} {
			s, err := shake(addr, ca.client(tt.name, tt.offers...), nil)
			if err != nil {
				t.Errorf("%s %v: %v", tt.name, tt.offers, err)
				continue
			}
			if got := s.ConnectionState().NegotiatedProtocol; got != tt.protocol {
				t.Errorf("%s %v: protocol %q, want %q", tt.name, tt.offers, got, tt.protocol)
			}
			if line, err := s.r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "Backend: plain") {
				t.Errorf("%s: %q, %v", tt.name, line, err)
			}
			if err := s.echo("over plain TCP"); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			s.Close()
		}
		for name, refused := range map[string]string{"": "unrecognized name", "other.example": "unrecognized name"} {
			if _, err := greeted(addr, ca.client(name), nil); err == nil || !strings.Contains(err.Error(), refused) {
				t.Errorf("%q: %v, want %s", name, err, refused)
			}
		}
		if _, err := greeted(addr, ca.client("site.example", "x"), nil); err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("a protocol that nobody speaks: %v", err)
		}
		c := entrance(addr).connect(t, []byte("GET / HTTP/1.1\r\n\r\n"))
		if got, _ := readAll(c); strings.Contains(got, "Backend") {
			t.Errorf("without TLS %q", got)
		}
	})
}

// TestTerminateHalves: each side may end its direction and go on with the
// other, and what is sent arrives byte for byte.
func TestTerminateHalves(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		const size = 8 << 20
		data := bytes.Repeat([]byte("0123456789abcdef\x00\xff"), size/18+1)[:size]
		sum := sha256.Sum256(data)
		// The first byte says who ends first: with c the client, which is then
		// told what came of it; with b the backend, which reads on.
		heard := make(chan [32]byte, 1)
		backend := startHandler(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			kind, err := r.ReadByte()
			if err != nil {
				return
			}
			if kind == 'b' {
				_, _ = c.Write(data)
				_ = c.CloseWrite()
			}
			all, err := io.ReadAll(r)
			if err != nil {
				return
			}
			if kind == 'b' {
				heard <- sha256.Sum256(all)
				return
			}
			got := sha256.Sum256(all)
			_, _ = c.Write(got[:])
			_, _ = c.Write(all)
		})
		_, addr, _ := terminating(t, relay, at("plain", "sa", backend), ca.issue(t, "site.example"), nil)

		s, err := shake(addr, ca.client("site.example"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Write(append([]byte("c"), data...)); err != nil {
			t.Fatal(err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s.r); err != nil || !bytes.Equal(got, append(sum[:], data...)) {
			t.Errorf("after the client ended: %d bytes, %v", len(got), err)
		}

		s, err = shake(addr, ca.client("site.example"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := io.WriteString(s, "b"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s.r); err != nil || !bytes.Equal(got, data) {
			t.Errorf("from a backend that ended: %d bytes, %v", len(got), err)
		}
		if _, err := s.Write(data); err != nil {
			t.Fatalf("to a backend that has ended its own direction: %v", err)
		}
		if err := s.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if got != sum {
				t.Error("the backend got something else")
			}
		case <-time.After(soon):
			t.Error("the backend does not hear the client's end")
		}
	})
}

// TestCertificatesReplaced: while 50 clients a second come, certificates are
// replaced, one file after the other and half-written once. Each handshake is
// done, what was put there last is served within three seconds, and connections
// that are open notice nothing.
func TestCertificatesReplaced(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	p, addr, base := terminating(t, noAffinity, startBackend(t, "plain", "sa").row(), ca.issue(t, "site.example"), nil)
	eventually(t, soon, func() error { _, err := greeted(addr, ca.client("site.example"), nil); return err })
	open, err := shake(addr, ca.client("site.example"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if _, err := open.r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}

	var served, last atomic.Int64 // clients, and the serial number of what the last one saw
	var all sync.WaitGroup
	stop := make(chan struct{})
	failures := make(chan error, 1) // the first one
	all.Go(func() {
		pace := time.NewTicker(time.Second / 50)
		defer pace.Stop()
		for {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			all.Go(func() {
				s, err := shake(addr, ca.client("site.example"), nil)
				if err != nil {
					select {
					case failures <- err:
					default:
					}
					return
				}
				last.Store(s.ConnectionState().PeerCertificates[0].SerialNumber.Int64())
				served.Add(1)
				s.Close()
			})
		}
	})
	for range often(2, 10) {
		next := ca.issue(t, "site.example")
		overwrite(t, base+".crt", next.crt[:len(next.crt)/2])
		eventually(t, soon, func() error {
			if served.Load() == 0 {
				return errors.New("nobody has come")
			}
			return p.log.says("half-written")
		})
		next.install(t, base)
		began := time.Now()
		eventually(t, soon, func() error {
			if got := last.Load(); got != next.serial {
				return fmt.Errorf("certificate %d is served, want %d", got, next.serial)
			}
			return nil
		})
		if took := time.Since(began); took > converged || wanted("long") && took > 5*time.Second {
			t.Errorf("the new certificate is served after %s", took)
		}
	}
	close(stop)
	all.Wait()
	select {
	case err := <-failures:
		t.Errorf("after %d handshakes: %v", served.Load(), err)
	default:
		t.Logf("%d handshakes", served.Load())
	}
	if err := open.echo("still there?"); err != nil {
		t.Errorf("a connection that was open: %v", err)
	}
}

// TestTerminateBreaks: what breaks on one side is not a clean end on the other,
// which would make a cut message look whole; and silence ends as it does
// without TLS.
func TestTerminateBreaks(t *testing.T) {
	t.Parallel()
	onRelays(t, func(t *testing.T, relay string) {
		ca := newAuthority(t)
		heard := make(chan error, 1) // how the client's direction ended
		backend := startHandler(t, func(c *net.TCPConn) {
			first := make([]byte, 1)
			if _, err := io.ReadFull(c, first); err != nil {
				return
			}
			_, _ = io.WriteString(c, "half a mess")
			if first[0] == 'r' {
				reset(c)
				return
			}
			_, err := io.ReadAll(c)
			heard <- err
		})
		p, addr, _ := terminating(t, relay, at("plain", "sa", backend), ca.issue(t, "site.example"), map[string]string{"sni": "site.example", "idle_timeout_secs": "1"})
		open := func(first string) (*secure, net.Conn) {
			t.Helper()
			var under net.Conn
			s, err := shake(addr, ca.client("site.example"), func(c net.Conn) net.Conn { under = c; return c })
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			if _, err := io.WriteString(s, first); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s.r, make([]byte, len("half a"))); err != nil && first != "r" {
				t.Fatal(err)
			}
			return s, under
		}
		s, _ := open("r")
		if got, err := io.ReadAll(s.r); err == nil || !refusal(err) {
			t.Errorf("after the backend's reset %q, %v; want an error", got, err)
		}

		_, under := open("c")
		reset(under.(*net.TCPConn))
		select {
		case err := <-heard:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("after the client's reset the backend reads %v, want a reset", err)
			}
		case <-time.After(soon):
			t.Error("the backend does not hear of the client's reset")
		}

		s, _ = open("i")
		began := time.Now()
		if _, err := io.ReadAll(s.r); err != nil && !refusal(err) {
			t.Errorf("a silent connection: %v", err)
		}
		if took := time.Since(began); took < 800*time.Millisecond || took > 10*time.Second {
			t.Errorf("it ended after %s, want 1s", took)
		}
		p.counts(t, "idle_timeout", 1)
	})
}
