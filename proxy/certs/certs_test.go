package certs

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func TestLayouts(t *testing.T) {
	dir := t.TempDir()
	a, b, c, d, e := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "b.example"), makeCert(t, options{}, "c.example"), makeCert(t, options{}, "d.example"), makeCert(t, options{}, "e.example")
	putPair(t, dir, "one", a)
	put(t, filepath.Join(dir, "two.pem"), b.cert)
	put(t, filepath.Join(dir, "two.key"), b.key)
	put(t, filepath.Join(dir, "three.pem"), c.key, c.cert)
	put(t, filepath.Join(dir, "d.example", "fullchain.pem"), d.cert, a.cert)
	put(t, filepath.Join(dir, "d.example", "privkey.pem"), d.key)
	put(t, filepath.Join(dir, "d.example", "cert.pem"), d.cert)
	put(t, filepath.Join(dir, "d.example", "chain.pem"), a.cert)
	put(t, filepath.Join(dir, "README"), []byte("not ours"))
	put(t, filepath.Join(dir, ".hidden.pem"), []byte("half"))
	put(t, filepath.Join(dir, "mounted", "..v1", "tls.crt"), e.cert) // a Kubernetes secret
	put(t, filepath.Join(dir, "mounted", "..v1", "tls.key"), e.key)
	put(t, filepath.Join(dir, "mounted", "..v1", "ca.crt"), makeCert(t, options{authority: true}).cert)
	link(t, "..v1", filepath.Join(dir, "mounted", "..data"))
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
		link(t, "..data/"+name, filepath.Join(dir, "mounted", name))
	}
	s := open(t, dir)
	content(t, s)
	for name, m := range map[string]made{"a.example": a, "b.example": b, "c.example": c, "D.example.": d, "e.example": e, "f.example": {}, "": {}} {
		serves(t, s, name, m)
	}
	var files []string
	for _, i := range s.Info() {
		files = append(files, i.File)
		if i.Key != "ECDSA P-256" || i.NotAfter.Before(time.Now()) || len(i.Names) != 1 {
			t.Errorf("%+v", i)
		}
	}
	if want := []string{"d.example/fullchain.pem", "mounted/tls.crt", "one.crt", "three.pem", "two.pem"}; !slices.Equal(files, want) {
		t.Errorf("files %q, want %q", files, want)
	}
	if chain := s.Certificate("d.example").Certificate; len(chain) != 2 {
		t.Errorf("a chain of %d", len(chain))
	}

	next := makeCert(t, options{}, "e.example") // the flip: both files at once
	put(t, filepath.Join(dir, "mounted", "..v2", "tls.crt"), next.cert)
	put(t, filepath.Join(dir, "mounted", "..v2", "tls.key"), next.key)
	link(t, "..v2", filepath.Join(dir, "mounted", "..data"))
	s.Reload()
	serves(t, s, "e.example", next)
}

// certbot keeps the versions elsewhere, and changes links one by one.
func TestLinksFlipOneByOne(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "live")
	old, next := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "a.example")
	put(t, filepath.Join(root, "archive", "fullchain1.pem"), old.cert)
	put(t, filepath.Join(root, "archive", "privkey1.pem"), old.key)
	put(t, filepath.Join(root, "archive", "fullchain2.pem"), next.cert)
	put(t, filepath.Join(root, "archive", "privkey2.pem"), next.key)
	site := filepath.Join(dir, "a.example")
	if err := os.MkdirAll(site, 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, "../../archive/fullchain1.pem", filepath.Join(site, "fullchain.pem"))
	link(t, "../../archive/privkey1.pem", filepath.Join(site, "privkey.pem"))
	s := open(t, dir)
	content(t, s)
	serves(t, s, "a.example", old)
	link(t, "../../archive/privkey2.pem", filepath.Join(site, "privkey.pem"))
	s.Reload()
	serves(t, s, "a.example", old)
	complains(t, s, "a.example/fullchain.pem", "the one before is in use")
	link(t, "../../archive/fullchain2.pem", filepath.Join(site, "fullchain.pem"))
	s.Reload()
	serves(t, s, "a.example", next)
	content(t, s)
}

// Whatever happens to a file, what it held before is served, and somebody is told.
func TestBrokenFilesLeaveTheLastGoodOne(t *testing.T) {
	good, other, rsa := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "a.example"), makeCert(t, options{key: rsaKey()}, "a.example")
	crt, key := "a.crt", "a.key"
	for _, tt := range []struct {
		label, file, says string
		breaks            func(t *testing.T, dir string)
	}{
		{"another's key", crt, "private key does not match", func(t *testing.T, dir string) { put(t, filepath.Join(dir, key), other.key) }},
		{"another algorithm's key", crt, "private key", func(t *testing.T, dir string) { put(t, filepath.Join(dir, key), rsa.key) }},
		{"half a certificate", crt, "half-written", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), other.cert[:200]) }},
		{"half a chain", crt, "half-written", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), other.cert, good.cert[:200]) }},
		{"half a key", crt, "half-written", func(t *testing.T, dir string) { put(t, filepath.Join(dir, key), good.key[:50]) }},
		{"emptied", crt, "half-written", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), nil) }},
		{"garbage", crt, "half-written", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), bytes.Repeat([]byte{0xff}, 100)) }},
		{"a block of garbage", crt, "x509", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, crt), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		}},
		{"the key where the certificate was", crt, "no certificate", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), good.key) }},
		{"a passphrase", crt, "passphrase", func(t *testing.T, dir string) {
			put(t, filepath.Join(dir, key), bytes.ReplaceAll(good.key, []byte("PRIVATE"), []byte("ENCRYPTED PRIVATE")))
		}},
		{"huge", crt, "longer", func(t *testing.T, dir string) { put(t, filepath.Join(dir, crt), make([]byte, largest+1)) }},
		{"no key any more", crt, "no private key", func(t *testing.T, dir string) { remove(t, filepath.Join(dir, key)) }},
		{"a pipe", crt, "not a regular file", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, crt))
			if err := syscall.Mkfifo(filepath.Join(dir, crt), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"a link to nowhere", crt, "no such file", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, crt))
			link(t, "nowhere", filepath.Join(dir, crt))
		}},
		{"a directory", "a.key", "without certificate", func(t *testing.T, dir string) {
			remove(t, filepath.Join(dir, crt))
			if err := os.Mkdir(filepath.Join(dir, crt), 0o755); err != nil {
				t.Fatal(err)
			}
		}},
		{"no DNS name", crt, "no DNS name", func(t *testing.T, dir string) { putPair(t, dir, "a", makeCert(t, options{})) }},
	} {
		t.Run(tt.label, func(t *testing.T) {
			dir := t.TempDir()
			putPair(t, dir, "a", good)
			s := open(t, dir)
			serves(t, s, "a.example", good)
			tt.breaks(t, dir)
			s.Reload()
			serves(t, s, "a.example", good)
			complains(t, s, tt.file, tt.says)
			if err := os.RemoveAll(filepath.Join(dir, crt)); err != nil {
				t.Fatal(err)
			}
			putPair(t, dir, "a", other)
			s.Reload()
			serves(t, s, "a.example", other)
			content(t, s)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// One that is broken from the beginning hides no other.
func TestBrokenBesideGood(t *testing.T) {
	dir := t.TempDir()
	good := makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", good)
	put(t, filepath.Join(dir, "b.crt"), []byte("nonsense"))
	put(t, filepath.Join(dir, "b.key"), good.key)
	s := open(t, dir)
	serves(t, s, "a.example", good)
	complains(t, s, "b.crt", "PEM")
}

func TestRemoved(t *testing.T) {
	dir := t.TempDir()
	good, next := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", good)
	s := open(t, dir)
	remove(t, filepath.Join(dir, "a.crt"))
	remove(t, filepath.Join(dir, "a.key"))
	s.Reload() // it may be about to be written anew
	serves(t, s, "a.example", good)
	putPair(t, dir, "a", next)
	s.Reload()
	serves(t, s, "a.example", next)
	remove(t, filepath.Join(dir, "a.crt"))
	remove(t, filepath.Join(dir, "a.key"))
	s.Reload()
	s.Reload()
	serves(t, s, "a.example", made{})
	content(t, s)
	if got := s.Info(); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestDirectoryVanishes(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "missing"), zerolog.Nop()); err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "cert_dir") {
		t.Errorf("%v", err)
	}
	dir := filepath.Join(t.TempDir(), "certs")
	good := makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", good)
	s := open(t, dir)
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	s.Reload()
	serves(t, s, "a.example", good)
	complains(t, s, ".", "no such file")
	if err := os.Rename(dir+".old", dir); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	content(t, s)
}

func TestKeyThatEverybodyReads(t *testing.T) {
	dir := t.TempDir()
	good := makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", good)
	if err := os.Chmod(filepath.Join(dir, "a.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	serves(t, s, "a.example", good)
	complains(t, s, "a.key", "chmod o-r")
	if err := os.Chmod(filepath.Join(dir, "a.key"), 0o640); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	content(t, s)
}

// TestCertificateWhoseKeyIsGone: what is left of the pair is no key, and everybody may read it.
func TestCertificateWhoseKeyIsGone(t *testing.T) {
	dir := t.TempDir()
	good := makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", good)
	for _, name := range []string{"a.crt", "a.key"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir)
	if err := os.Remove(filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	serves(t, s, "a.example", good)
	if all := s.Problems(); len(all) != 1 || !strings.Contains(all[0].Message, "no private key in a.crt") {
		t.Errorf("%v; want that the key is gone, and nothing else", all)
	}
}

// What ends soon is logged once a day, what has ended is served and said to have.
func TestEnd(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	good := makeCert(t, options{end: start.Add(16 * 24 * time.Hour)}, "a.example")
	putPair(t, dir, "a", good)
	var log bytes.Buffer
	now := start
	s := newStore(dir, zerolog.New(&log), func() time.Time { return now })
	s.Reload()
	warnings := func(message string) int { return strings.Count(log.String(), message) }
	for now.Before(start.Add(20 * 24 * time.Hour)) {
		now = now.Add(time.Hour)
		s.Reload()
	}
	if n := warnings("certificate expires soon"); n != 14 {
		t.Errorf("warned %d times in the last 14 days", n)
	}
	if n := warnings("certificate has expired"); n < 4 || n > 5 {
		t.Errorf("said %d times in four days and an hour that it has expired", n)
	}
	if n := warnings("certificate loaded"); n != 1 {
		t.Errorf("loaded %d times:\n%s", n, log.String())
	}
	serves(t, s, "a.example", good)
	complains(t, s, "a.crt", "expired on")
}

// A problem is logged when it appears, not at every look.
func TestProblemsAreLoggedOnce(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "a.pem"), []byte("x"))
	var log bytes.Buffer
	s, err := Open(dir, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s.Reload()
	}
	if n := strings.Count(log.String(), filepath.Join(dir, "a.pem")); n != 1 {
		t.Errorf("%d lines:\n%s", n, log.String())
	}
}

// A change that keeps size and time to the tick is seen, as long as the file is young.
func TestChangeWithinATick(t *testing.T) {
	dir := t.TempDir()
	a, b := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "a.example")
	for len(a.cert) != len(b.cert) || len(a.key) != len(b.key) { // DER lengths of signatures vary
		b = makeCert(t, options{}, "a.example")
	}
	path := filepath.Join(dir, "a.pem")
	put(t, path, a.cert, a.key)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(dir, zerolog.Nop(), info.ModTime) // no time passes
	s.Reload()
	serves(t, s, "a.example", a)
	if err := os.WriteFile(path, slices.Concat(b.cert, b.key), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	s.Reload()
	serves(t, s, "a.example", b)
}

func loopback(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}
