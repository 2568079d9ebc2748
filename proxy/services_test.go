package proxy

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	proxyproto "github.com/pires/go-proxyproto"
)

// certFor makes a certificate for these names.
func certFor(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// onlyCert is the Certificates of a POP that has one.
type onlyCert struct{ one tls.Certificate }

func (c onlyCert) GetCertificate(*tls.ClientHelloInfo, []string) (*tls.Certificate, error) {
	return &c.one, nil
}

// secureBackend is a TLS server that says who it is and which protocol it speaks,
// then echoes.
func secureBackend(t testing.TB, name string) *backend {
	config := &tls.Config{Certificates: []tls.Certificate{certFor(t, name)}, NextProtos: []string{"h2", "x"}}
	return newBackend(t, func(c *net.TCPConn) {
		s := tls.Server(c, config)
		if s.Handshake() != nil {
			return
		}
		fmt.Fprintf(s, "%s %s\n", name, s.ConnectionState().NegotiatedProtocol)
		_, _ = io.Copy(s, s)
	})
}

// serves starts a relay with a port that has these services.
func serves(t testing.TB, impl implementation, s setup, services ...mesh.Service) *relay {
	t.Helper()
	s.port = NewPort()
	if s.HeaderTimeout == 0 {
		s.HeaderTimeout = patience
	}
	r := start(t, impl.make, s)
	r.relayUnderTest.(counting).Set(s.port, services...)
	return r
}

func named(app string, names ...string) mesh.Service {
	return mesh.Service{App: app, Mode: mesh.TLSPassthrough, SNI: names}
}

// slowConn sends byte by byte what is written to it.
type slowConn struct{ *net.TCPConn }

func (c slowConn) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := c.TCPConn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestPassthrough(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			a, b, rest := secureBackend(t, "a.example"), secureBackend(t, "b.example"), secureBackend(t, "rest")
			r := serves(t, impl, setup{targets: []target{{id: "a", addr: a.addr, app: "a"}, {id: "b", addr: b.addr, app: "b"}, {id: "rest", addr: rest.addr, app: "rest"}}},
				named("a", "a.example"), named("b", "*.b.example", "b.example"))
			ask := func(name string, wrap func(*net.TCPConn) net.Conn, protocols ...string) (string, error) {
				c := dial(t, r.addr)
				defer c.Close()
				client := tls.Client(wrap(c), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protocols})
				if _, err := io.WriteString(client, "ping\n"); err != nil {
					return "", err
				}
				in := bufio.NewReader(client)
				who, _ := in.ReadString('\n')
				said, err := in.ReadString('\n')
				return who + said, err
			}
			plain := func(c *net.TCPConn) net.Conn { return c }
			slow := func(c *net.TCPConn) net.Conn { return slowConn{c} }
			for _, c := range []struct {
				name, want string
				wrap       func(*net.TCPConn) net.Conn
			}{
				{"a.example", "a.example h2\nping\n", plain}, {"A.Example.", "a.example h2\nping\n", plain}, {"b.example", "b.example h2\nping\n", plain},
				{"www.b.example", "b.example h2\nping\n", plain}, {"a.example", "a.example h2\nping\n", slow},
			} {
				if got, err := ask(c.name, c.wrap, "h2"); got != c.want {
					t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
				}
			}
			for _, name := range []string{"c.example", "x.www.b.example", ""} {
				if got, err := ask(name, plain); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
					t.Errorf("%q: %q, %v; want an alert", name, got, err)
				}
			}
			r.relayUnderTest.(counting).Set(r.port, named("a", "a.example"), named("rest", "*"))
			for _, name := range []string{"c.example", "b.example", ""} {
				if got, err := ask(name, plain, "x"); got != "rest x\nping\n" {
					t.Errorf("%q after the services have changed: %q, %v", name, got, err)
				}
			}
		})
	}
}

// TestNoHello: who does not begin with a ClientHello is told so, and not for ever waited for.
func TestNoHello(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := secureBackend(t, "a.example")
			r := serves(t, impl, setup{Config: Config{Settings: Settings{HeaderTimeout: 300 * time.Millisecond}}, targets: b.one()}, named("", "a.example"))
			long := append([]byte("\x16\x03\x01\x40\x00\x01\x01\x00\x00"), make([]byte, 1<<16)...)
			for name, sent := range map[string]string{"http": "GET / HTTP/1.1\r\n\r\n", "too long": string(long), "cut short": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "nothing": ""} {
				c := dial(t, r.addr)
				_, _ = io.WriteString(c, sent)
				got, err := io.ReadAll(c)
				// The long one's rest is unread when the connection ends: that is a reset, which may overtake the alert.
				if string(got) != "\x15\x03\x03\x00\x02\x02\x32" && !(name == "too long" && err != nil) {
					t.Errorf("%s: %q, %v; want an alert", name, got, err)
				}
				c.Close()
			}
			eventually(t, "all are counted", func() bool { return r.Stats().Ended["bad_client_hello"] == 4 })
			if b.accepted() != 0 {
				t.Errorf("%d connections have reached the backend", b.accepted())
			}
		})
	}
}

func TestTerminate(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, echo)
			r := serves(t, impl, setup{Config: Config{Certificates: onlyCert{certFor(t, "a.example")}}, targets: []target{{id: "b", addr: b.addr, app: "a"}}},
				mesh.Service{App: "a", Mode: mesh.TLSTerminate, SNI: []string{"a.example"}, ALPN: []string{"h2", "x"}})
			config := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, NextProtos: []string{"x", "y"}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
			for round := range 2 {
				c := tls.Client(slowStart{dial(t, r.addr)}, config)
				go func() {
					_, _ = c.Write(data)
					_ = c.CloseWrite() // passed on as a FIN: the echo ends
				}()
				got, err := io.ReadAll(c)
				st := c.ConnectionState()
				if err != nil || !bytes.Equal(got, data) || st.NegotiatedProtocol != "x" || st.DidResume != (round == 1) {
					t.Errorf("round %d: %d of %d bytes, %v, protocol %q, resumed %v", round, len(got), len(data), err, st.NegotiatedProtocol, st.DidResume)
				}
				c.Close()
			}
			c := dial(t, r.addr)
			old := tls.Client(c, &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
			if err := old.Handshake(); err == nil {
				t.Error("TLS 1.1 was accepted")
			}
			eventually(t, "it is counted", func() bool { return r.Stats().Ended["tls_handshake_failed"] == 1 })
		})
	}
}

// slowStart sends the first byte alone.
type slowStart struct{ *net.TCPConn }

func (c slowStart) Write(b []byte) (int, error) {
	if n, err := c.TCPConn.Write(b[:1]); err != nil || len(b) == 1 {
		return n, err
	}
	n, err := c.TCPConn.Write(b[1:])
	return n + 1, err
}

// TestTerminatedReset: what is cut off must not look complete, in either direction.
func TestTerminatedReset(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, nil)
			r := serves(t, impl, setup{Config: Config{Certificates: onlyCert{certFor(t, "a.example")}}, targets: b.one()},
				mesh.Service{Mode: mesh.TLSTerminate, SNI: []string{"*"}})
			open := func() (*net.TCPConn, *tls.Conn, *net.TCPConn) {
				raw := dial(t, r.addr)
				c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
				if _, err := io.WriteString(c, "half"); err != nil {
					t.Fatal(err)
				}
				back := b.next(t)
				_ = back.SetDeadline(time.Now().Add(patience))
				if _, err := io.ReadFull(back, make([]byte, 4)); err != nil {
					t.Fatal(err)
				}
				return raw, c, back
			}
			raw, _, back := open()
			_ = raw.SetLinger(0)
			raw.Close()
			if n, err := back.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the client reset, and the backend read %d bytes, %v", n, err)
			}
			raw, _, back = open()
			_ = back.SetLinger(0)
			back.Close()
			if n, err := io.Copy(io.Discard, raw); err == nil {
				t.Errorf("the backend reset, and the client's socket ended in order after %d bytes", n)
			}
		})
	}
}

// TestGreeting: a backend is told who the client is, before its bytes.
func TestGreeting(t *testing.T) {
	const from, to = "203.0.113.7:4000", "198.51.100.1:443"
	header := "PROXY TCP4 203.0.113.7 198.51.100.1 4000 443\r\n"
	for _, impl := range implementations {
		for _, version := range []mesh.ProxyVersion{mesh.ProxyV1, mesh.ProxyV2} {
			for _, behind := range []bool{false, true} { // another proxy
				t.Run(fmt.Sprintf("%s %s behind %v", impl.name, version, behind), func(t *testing.T) {
					b := newBackend(t, nil)
					s := setup{targets: []target{{id: "b", addr: b.addr, out: version}}}
					if behind {
						s.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
					}
					r := start(t, impl.make, s)
					c := dial(t, r.addr)
					wantFrom, wantTo := c.LocalAddr().String(), r.addr.String()
					if behind {
						_, _ = io.WriteString(c, header)
						wantFrom, wantTo = from, to
					}
					_, _ = io.WriteString(c, "hello")
					back := b.next(t)
					_ = back.SetDeadline(time.Now().Add(patience))
					in := bufio.NewReader(back)
					h, err := proxyproto.Read(in)
					if err != nil || h.Version != byte(version) || h.SourceAddr.String() != wantFrom || h.DestinationAddr.String() != wantTo {
						t.Fatalf("%+v, %v; want version %s from %s to %s", h, err, version, wantFrom, wantTo)
					}
					rest := make([]byte, 5)
					if _, err := io.ReadFull(in, rest); err != nil || string(rest) != "hello" {
						t.Errorf("behind the header: %q, %v", rest, err)
					}
				})
			}
		}
	}
}

// TestGreetingOfTLS: version 2 also says which name and protocol were asked for.
func TestGreetingOfTLS(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, nil)
			r := serves(t, impl, setup{Config: Config{Certificates: onlyCert{certFor(t, "a.example")}}, targets: []target{{id: "b", addr: b.addr, out: mesh.ProxyV2}}},
				mesh.Service{Mode: mesh.TLSTerminate, SNI: []string{"*.example"}, ALPN: []string{"x"}})
			c := tls.Client(dial(t, r.addr), &tls.Config{ServerName: "a.example", InsecureSkipVerify: true, NextProtos: []string{"x"}})
			_, _ = io.WriteString(c, "hello")
			back := b.next(t)
			_ = back.SetDeadline(time.Now().Add(patience))
			in := bufio.NewReader(back)
			h, err := proxyproto.Read(in)
			if err != nil {
				t.Fatal(err)
			}
			said := map[proxyproto.PP2Type]string{}
			tlvs, _ := h.TLVs()
			for _, tlv := range tlvs {
				said[tlv.Type] = string(tlv.Value)
			}
			if said[proxyproto.PP2_TYPE_AUTHORITY] != "a.example" || said[proxyproto.PP2_TYPE_ALPN] != "x" || h.SourceAddr.String() != c.LocalAddr().String() {
				t.Errorf("%+v with %q", h, said)
			}
			rest := make([]byte, 5)
			if _, err := io.ReadFull(in, rest); err != nil || string(rest) != "hello" {
				t.Errorf("behind the header: %q, %v", rest, err)
			}
		})
	}
}

// TestServiceBounds: a service's own bound and timeout, and a port that is
// closed while connections are open.
func TestServiceBounds(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, echo)
			r := serves(t, impl, setup{targets: b.one()}, mesh.Service{Mode: mesh.TCP, MaxConnections: 2})
			ping := func(c *net.TCPConn) error {
				if _, err := io.WriteString(c, "x"); err != nil {
					return err // the kernel tells of a reset once
				}
				_, err := io.ReadFull(c, make([]byte, 1))
				return err
			}
			another := func() error { // a reset may come before connect returns
				c, err := net.DialTimeout("tcp", r.addr.String(), patience)
				if err != nil {
					return err
				}
				defer c.Close()
				return ping(c.(*net.TCPConn))
			}
			first, second := dial(t, r.addr), dial(t, r.addr)
			if err := errors.Join(ping(first), ping(second)); err != nil {
				t.Fatal(err)
			}
			if err := another(); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("the third of two: %v, want a reset", err)
			}
			first.Close()
			eventually(t, "there is room again", func() bool { return another() == nil })
			eventually(t, "one is left", func() bool { return r.relayUnderTest.(counting).ServiceConnections()[""] == 1 })
			r.port.Close()
			eventually(t, "nobody is accepted any more", func() bool {
				c, err := net.DialTimeout("tcp", r.addr.String(), time.Second)
				if err == nil {
					c.Close()
				}
				return err != nil
			})
			if err := ping(second); err != nil {
				t.Errorf("a connection that was open when its port was closed: %v", err)
			}
		})
	}
}

func TestServiceIdleTimeout(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, echo)
			r := serves(t, impl, setup{Config: Config{Settings: Settings{LingerTimeout: 100 * time.Millisecond}}, targets: b.one()}, mesh.Service{Mode: mesh.TCP, IdleTimeout: 300 * time.Millisecond})
			began := time.Now()
			c := dial(t, r.addr)
			if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			if took := time.Since(began); took < 300*time.Millisecond {
				t.Errorf("ended after %v", took)
			}
			eventually(t, "it is counted", func() bool { return r.Stats().Ended["idle_timeout"] == 1 })
		})
	}
}

// TestPreludeGrows: what comes first fits, up to the longest, and is what was sent.
func TestPreludeGrows(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789abcdef"), longestPrelude/16+1)[:longestPrelude]
	for _, step := range []int{1, 7, usualPrelude, usualPrelude + 1, longestPrelude} {
		p := newPrelude(false)
		for p.have < longestPrelude {
			room := p.room()
			n := copy(room[:min(step, len(room))], sent[p.have:])
			if p.have += n; n == 0 {
				t.Fatalf("no room after %d bytes", p.have)
			}
		}
		if !bytes.Equal(p.early(), sent) {
			t.Errorf("in steps of %d it is something else", step)
		}
		p.free()
	}
}
