package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// testNode is a node key that follows from a number.
func testNode(n byte) *Node {
	return &Node{ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n, 0xa5}, ed25519.SeedSize/2))}
}

func TestNodeKeyIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db.key")
	first, made, err := LoadNode(path)
	if err != nil || !made {
		t.Fatal(first, made, err)
	}
	again, made, err := LoadNode(path)
	if err != nil || made || !again.Public().Equal(first.Public()) {
		t.Fatal(again, made, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	other, _, err := LoadNode(path + "2")
	if err != nil || other.Public().Equal(first.Public()) {
		t.Errorf("two nodes have one key (%v)", err)
	}
	if _, _, err := LoadNode(filepath.Join(path+"-no-such-dir", "key")); err == nil {
		t.Error("a missing directory is not an error")
	}
}

func pemOf(t *testing.T, kind string, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestNodeKeyRefused(t *testing.T) {
	good := pemOf(t, pemType, testNode(1).private)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	restore := "restore it from a backup"
	for name, c := range map[string]struct {
		body       []byte
		mode       fs.FileMode
		says, help string
	}{
		"empty":         {nil, 0o600, "empty", restore},
		"blank":         {[]byte("\n\n"), 0o600, "empty", restore},
		"truncated":     {good[:len(good)-10], 0o600, "cut short", restore},
		"half":          {good[:len(good)/2], 0o600, "cut short", restore},
		"text":          {[]byte("hello"), 0o600, "not PEM", restore},
		"other label":   {pemOf(t, "EC PRIVATE KEY", ec), 0o600, `"PRIVATE KEY"`, restore},
		"other key":     {pemOf(t, pemType, ec), 0o600, "Ed25519", restore},
		"garbage":       {pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: []byte("x")}), 0o600, "PKCS#8", restore},
		"two keys":      {append(bytes.Clone(good), good...), 0o600, "more than one", restore},
		"huge":          {bytes.Repeat(good, 1000), 0o600, "larger than", ""},
		"group reads":   {good, 0o640, "mode 0640", "chmod 600"},
		"all read":      {good, 0o644, "mode 0644", "chmod 600"},
		"others write":  {good, 0o602, "mode 0602", "chmod 600"},
		"good":          {good, 0o600, "", ""},
		"good, 0400":    {good, 0o400, "", ""},
		"no final line": {bytes.TrimSpace(good), 0o600, "", ""},
	} {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, c.body, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		n, made, err := LoadNode(path)
		if c.says == "" {
			if err != nil || made || !n.Public().Equal(testNode(1).Public()) {
				t.Errorf("%s: %v, %v, %v", name, n, made, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.help) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q, %q and the path", name, err, c.says, c.help)
		}
		if body, err := os.ReadFile(path); err != nil || !bytes.Equal(body, c.body) {
			t.Errorf("%s: the file was touched (%v)", name, err)
		}
	}
}

func TestNodeKeyIsNoFIFOAndNoDirectory(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, _, err := LoadNode(path); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzNodeFile(f *testing.F) {
	good, err := testNode(1).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:40])
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := parseNode(body)
		if err != nil {
			return
		}
		out, err := n.marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parseNode(out); err != nil || !again.Public().Equal(n.Public()) {
			t.Fatalf("a key that was read is not read again: %v", err)
		}
	})
}
