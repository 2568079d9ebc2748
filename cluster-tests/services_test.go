package clustertests

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// onRelays plays a test on each way that bytes are relayed; by default on the
// usual one: package proxy tests the same on both.
func onRelays(t *testing.T, test func(t *testing.T, relay string)) {
	relays := []string{"auto", "goroutine"}[:often(1, 2)]
	for _, relay := range relays {
		t.Run(relay, func(t *testing.T) {
			t.Parallel()
			test(t, relayPath+"="+relay)
		})
	}
}

// entrance is another address of a POP, for its clients.
func entrance(addr string) *pop { return &pop{PopFile: api.PopFile{Listen: addr}} }

// of is a backend's row for an app.
func (r row) of(app string) row {
	r.app = app
	return r
}

// service is the statement for a service; the columns beside app as in "mode='tcp', sni='a'".
func service(app string, columns map[string]string) string {
	names, values := []string{"app"}, []string{"'" + app + "'"}
	for _, name := range sorted(columns) {
		names, values = append(names, name), append(values, "'"+columns[name]+"'")
	}
	return fmt.Sprintf("INSERT INTO services (%s) VALUES (%s);", strings.Join(names, ","), strings.Join(values, ","))
}

// listens waits until somebody does at an address.
func listens(t testing.TB, addr string) {
	t.Helper()
	eventually(t, soon, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	})
}

// closes waits until nobody listens at an address any more.
func closes(t testing.TB, addr string) {
	t.Helper()
	eventually(t, soon, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return fmt.Errorf("somebody listens on %s", addr)
		}
		return nil
	})
}

// authority signs the certificates of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	last atomic.Int64 // serial number
	pool *x509.CertPool
	pem  []byte
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour)}
	a.last.Store(1)
	var der []byte
	a.key, der = a.sign(t, a.cert, a.cert)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a key and its certificate; a's own where it has none yet.
func (a *authority) sign(t testing.TB, template, parent *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// issued is a certificate and its key, also in PEM.
type issued struct {
	tls.Certificate
	serial   int64
	crt, key []byte
}

func (a *authority) issue(t testing.TB, names ...string) issued {
	t.Helper()
	serial := a.last.Add(1)
	key, der := a.sign(t, &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: names, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter}, a.cert)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return issued{tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, serial,
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
}

// install puts a certificate and its key where cert_dir has them, one after the other.
func (c issued) install(t testing.TB, base string) {
	t.Helper()
	for name, body := range map[string][]byte{base + ".key": c.key, base + ".crt": c.crt} {
		if err := os.WriteFile(name+".new", body, 0o600); err != nil {
			t.Fatal(err)
		}
		rename(t, name+".new", name)
	}
}

// secureBackend is a TLS server of its own certificate that says who it is, in
// which protocol, and for which name it was asked; then it echoes.
func (a *authority) secureBackend(t testing.TB, id string, protocols []string, names ...string) netip.AddrPort {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{a.issue(t, names...).Certificate}, NextProtos: protocols}
	return startHandler(t, func(c *net.TCPConn) {
		s := tls.Server(c, config)
		if s.Handshake() != nil {
			return // a check
		}
		st := s.ConnectionState()
		fmt.Fprintf(s, "%s %s %s\n", id, st.NegotiatedProtocol, st.ServerName)
		_, _ = io.Copy(s, s)
		s.Close()
	})
}

// secure is a TLS connection to a service.
type secure struct {
	*tls.Conn
	r *bufio.Reader
}

// client is what a client trusts and asks for; no name: it neither sends nor checks one.
func (a *authority) client(name string, protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: a.pool, ServerName: name, InsecureSkipVerify: name == "", NextProtos: protocols}
}

// shake connects to a service and does the handshake, through what wraps the socket.
func shake(addr string, config *tls.Config, wrap func(net.Conn) net.Conn) (*secure, error) {
	c, err := net.DialTimeout("tcp", addr, soon)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return nil, err
	}
	var under net.Conn = c
	if wrap != nil {
		under = wrap(c)
	}
	s := &secure{Conn: tls.Client(under, config)}
	if err := s.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	s.r = bufio.NewReader(s)
	return s, nil
}

// greeted is the first line that comes of a service.
func greeted(addr string, config *tls.Config, wrap func(net.Conn) net.Conn) (string, error) {
	s, err := shake(addr, config, wrap)
	if err != nil {
		return "", err
	}
	defer s.Close()
	line, err := s.r.ReadString('\n')
	return strings.TrimSpace(line), err
}

// echo has a line carried there and back.
func (s *secure) echo(line string) error {
	if err := s.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	if _, err := io.WriteString(s, line+"\n"); err != nil {
		return err
	}
	got, err := s.r.ReadString('\n')
	if err == nil && !strings.HasSuffix(got, line+"\n") {
		err = fmt.Errorf("echo %q, want %q", got, line)
	}
	return err
}

// patientPOP gives clients of a busy machine time for their handshakes.
const patientPOP = "EDGEPROXY_HEADER_TIMEOUT_MS=30000"
