package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestChoice(t *testing.T) {
	dir := t.TempDir()
	exact, wild := makeCert(t, options{}, "www.example.com"), makeCert(t, options{}, "*.Example.com", "example.com")
	both := makeCert(t, options{}, "a.other", "b.other")
	expired, lasting := makeCert(t, options{end: time.Now().Add(-time.Minute)}, "twice.example"), makeCert(t, options{key: rsaKey()}, "twice.example")
	for base, m := range map[string]made{"1": expired, "2": exact, "3": wild, "4": both, "5": lasting} {
		putPair(t, dir, base, m)
	}
	s := open(t, dir)
	for name, m := range map[string]made{
		"www.example.com": exact, "WWW.EXAMPLE.com.": exact, "api.example.com": wild, "example.com": wild, "a.b.example.com": {},
		"b.other": both, "c.other": {}, "twice.example": lasting, "com": {}, "*.example.com": wild, "192.0.2.1": {},
	} {
		serves(t, s, name, m)
	}

	nameless := hello(t, &tls.Config{InsecureSkipVerify: true})
	for _, tt := range []struct {
		service []string
		want    made
	}{
		{nil, expired}, {[]string{"*"}, expired}, // any: the first file's
		{[]string{"www.example.com"}, exact},
		{[]string{"nobody.example", "b.other"}, both},
		{[]string{"*.example.com"}, wild},
		{[]string{"*.other"}, both},
		{[]string{"nobody.example", "*.nobody.example"}, made{}},
	} {
		got, err := s.GetCertificate(nameless, tt.service)
		if err != nil || (got == nil) != (tt.want.cert == nil) {
			t.Errorf("%v: %v, %v", tt.service, got != nil, err)
			continue
		}
		if got != nil {
			if block, _ := pem.Decode(tt.want.cert); string(got.Certificate[0]) != string(block.Bytes) {
				t.Errorf("%v: serial %v", tt.service, got.Leaf.SerialNumber)
			}
		}
	}
	// A client that names somebody else is not served for having come here.
	if got, err := s.GetCertificate(hello(t, &tls.Config{InsecureSkipVerify: true, ServerName: "nobody.example"}), []string{"www.example.com"}); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}

// Of an RSA and an ECDSA certificate each client gets the one that it can use.
func TestAlgorithms(t *testing.T) {
	dir := t.TempDir()
	rsa, ecdsa := makeCert(t, options{key: rsaKey()}, "a.example"), makeCert(t, options{}, "a.example")
	putPair(t, dir, "1", rsa)
	putPair(t, dir, "2", ecdsa)
	s := open(t, dir)
	for _, tt := range []struct {
		suite uint16
		want  string
	}{{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "RSA 2048"}, {tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDSA P-256"}, {0, "ECDSA P-256"}} {
		config := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true}
		if tt.suite != 0 {
			config.CipherSuites, config.MaxVersion = []uint16{tt.suite}, tls.VersionTLS12
		}
		got, err := s.GetCertificate(hello(t, config), nil)
		if err != nil || got == nil {
			t.Fatalf("%v, %v", got, err)
		}
		if algorithm := (&certificate{cert: *got}).algorithm(); algorithm != tt.want {
			t.Errorf("suite %x: %s, want %s", tt.suite, algorithm, tt.want)
		}
	}
}

// An unknown name is told so by its alert.
func TestAlertForUnknownNames(t *testing.T) {
	s := open(t, t.TempDir())
	a, b := loopback(t)
	go func() {
		_ = tls.Server(b, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.GetCertificate(h, nil) }}).Handshake()
		b.Close()
	}()
	err := tls.Client(a, &tls.Config{ServerName: "nobody.example"}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") { // crypto/tls has no type for it
		t.Errorf("%v, want unrecognized_name", err)
	}
}

// Certificates are replaced, broken and mended while clients come: each of
// them is served one that belongs to its key, and at last the last one.
func TestReplacedUnderHandshakes(t *testing.T) {
	dir := t.TempDir()
	putPair(t, dir, "a", makeCert(t, options{}, "a.example"))
	s := open(t, dir)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.GetCertificate(h, nil) }})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			all.Go(func() { _, _ = io.Copy(io.Discard, conn); conn.Close() })
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	all.Go(func() { _ = s.Run(ctx) })
	var served atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "a.example", InsecureSkipVerify: true})
				if err != nil {
					t.Errorf("after %d: %v", served.Load(), err)
					return
				}
				served.Add(1)
				conn.Close()
			}
		})
	}
	var last made
	for i := range 30 {
		last = makeCert(t, options{}, "a.example")
		if i%3 == 1 {
			put(t, filepath.Join(dir, "a.crt"), last.cert[:100*i%len(last.cert)])
			s.Reload()
		}
		putPair(t, dir, "a", last)
		s.Reload()
		serves(t, s, "a.example", last)
		_, _, _ = s.Info(), s.Problems(), s.Certificate("a.example")
	}
	before := served.Load()
	for deadline := time.Now().Add(10 * time.Second); served.Load() < before+20 && time.Now().Before(deadline); {
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "a.example", RootCAs: trusting(t, last)})
		if err != nil {
			t.Fatalf("the last one is not served: %v", err)
		}
		conn.Close()
	}
	stop()
	clients.Wait()
	l.Close()
	all.Wait()
}

func trusting(t *testing.T, m made) *x509.CertPool {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(m.cert) {
		t.Fatal("no certificate")
	}
	return pool
}

func BenchmarkGetCertificate(b *testing.B) {
	dir := b.TempDir()
	key := otherKey()
	for i := range 100 {
		putPair(b, dir, fmt.Sprint(i), makeCert(b, options{key: key}, fmt.Sprintf("n%d.example", i)))
	}
	s := open(b, dir)
	h := hello(b, &tls.Config{ServerName: "n50.example", InsecureSkipVerify: true})
	b.ReportAllocs()
	for b.Loop() {
		if c, err := s.GetCertificate(h, nil); c == nil || err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLook is one of Run's looks at 100 certificates that do not change.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		putPair(b, dir, fmt.Sprint(i), makeCert(b, options{key: otherKey()}, fmt.Sprintf("n%d.example", i)))
	}
	s := open(b, dir)
	s.now = func() time.Time { return time.Now().Add(time.Minute) } // they are no longer young
	s.Reload()
	b.ReportAllocs()
	for b.Loop() {
		s.Reload()
	}
}
