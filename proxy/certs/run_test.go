package certs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Run notices by itself, within two looks.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	old, next := makeCert(t, options{}, "a.example"), makeCert(t, options{}, "a.example")
	putPair(t, dir, "a", old)
	synctest.Test(t, func(t *testing.T) {
		s := open(t, dir)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		putPair(t, dir, "a", next)
		time.Sleep(interval + time.Millisecond)
		serves(t, s, "a.example", next)
		remove(t, filepath.Join(dir, "a.crt"))
		remove(t, filepath.Join(dir, "a.key"))
		time.Sleep(2 * interval)
		serves(t, s, "a.example", made{})
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// FuzzFiles: whatever the files hold, reading them ends in a certificate or in a sentence.
func FuzzFiles(f *testing.F) {
	m := makeCert(f, options{key: otherKey()}, "a.example")
	f.Add(m.cert, m.key)
	f.Add(append(m.cert, m.key...), []byte(nil))
	f.Add(makeCert(f, options{authority: true, key: otherKey()}).cert, []byte("-----BEGIN "))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		s := sources{file: "a.crt", keyFile: "a.key", cert: filepath.Join(dir, "a.crt"), key: filepath.Join(dir, "a.key")}
		if key == nil {
			s.key, s.keyFile = s.cert, s.file
		} else if err := os.WriteFile(s.key, key, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.cert, cert, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := read(s)
		if (err == nil) != (got.PrivateKey != nil) || err != nil && err.Error() == "" {
			t.Errorf("%v, %v", got.Leaf, err)
		}
	})
}
