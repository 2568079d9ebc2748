package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// Certificate returns the best one for a name, nil where there is none.
func (s *Store) Certificate(name string) *tls.Certificate {
	x := s.index.Load()
	exact, wildcard := x.named(canonical(name))
	for _, c := range [...][]*certificate{exact, wildcard} {
		if len(c) > 0 {
			return &c[0].cert
		}
	}
	return nil
}

var serial atomic.Int64

// keys are made once: RSA's are slow.
var (
	rsaKey   = sync.OnceValue(func() crypto.Signer { k, _ := rsa.GenerateKey(rand.Reader, 2048); return k })
	otherKey = sync.OnceValue(func() crypto.Signer { k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader); return k })
)

// made is a certificate and its key in PEM.
type made struct{ cert, key []byte }

type options struct {
	key        crypto.Signer // nil: a new one on P-256
	start, end time.Time     // zero: an hour ago, in 90 days
	authority  bool
}

func makeCert(t testing.TB, o options, names ...string) made {
	t.Helper()
	if o.key == nil {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		o.key = k
	}
	if o.start.IsZero() {
		o.start = time.Now().Add(-time.Hour)
	}
	if o.end.IsZero() {
		o.end = time.Now().Add(90 * 24 * time.Hour)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial.Add(1)), NotBefore: o.start, NotAfter: o.end, DNSNames: names, IsCA: o.authority, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, o.key.Public(), o.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(o.key)
	if err != nil {
		t.Fatal(err)
	}
	return made{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}
}

// put writes a file whose change can be seen, whatever the clock of the file system does.
func put(t testing.TB, path string, parts ...[]byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if err := os.WriteFile(path+".new", all, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func putPair(t testing.TB, dir, base string, m made) {
	t.Helper()
	put(t, filepath.Join(dir, base+".key"), m.key)
	put(t, filepath.Join(dir, base+".crt"), m.cert)
}

func link(t testing.TB, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serves checks that the store has exactly m for a name; the zero made: nothing.
func serves(t testing.TB, s *Store, name string, m made) {
	t.Helper()
	got := s.Certificate(name)
	switch {
	case got == nil && m.cert == nil:
	case got == nil:
		t.Errorf("%s: none, problems %v", name, s.Problems())
	case m.cert == nil:
		t.Errorf("%s: serial %v, want none", name, got.Leaf.SerialNumber)
	default:
		block, _ := pem.Decode(m.cert)
		if string(block.Bytes) != string(got.Certificate[0]) {
			t.Errorf("%s: serial %v is not the one expected, problems %v", name, got.Leaf.SerialNumber, s.Problems())
		}
	}
}

// complains checks that exactly one problem is known, of that file, and says so.
func complains(t testing.TB, s *Store, file, says string) {
	t.Helper()
	got := s.Problems()
	if len(got) != 1 || got[0].File != file || !strings.Contains(got[0].Message, says) {
		t.Errorf("problems %q, want one of %s about %q", got, file, says)
	}
}

func content(t testing.TB, s *Store) {
	t.Helper()
	if got := s.Problems(); len(got) > 0 {
		t.Errorf("problems %q", got)
	}
}

// hello is what crypto/tls tells of a client.
func hello(t testing.TB, client *tls.Config) (seen *tls.ClientHelloInfo) {
	t.Helper()
	a, b := loopback(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, client).Handshake()
	}()
	_ = tls.Server(b, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		seen = h
		return nil, os.ErrClosed
	}}).Handshake()
	b.Close()
	<-done
	return seen
}
