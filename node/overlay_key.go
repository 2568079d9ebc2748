package node

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/edgeproxy/edgeproxy/wg"
)

// overlayKeys are <db>.wg: this POP's WireGuard key as "wg genkey" prints it,
// and on a second line, while it is being changed, the next. They never leave
// the machine.
type overlayKeys struct {
	path string

	mu        sync.Mutex
	now, next [32]byte // now: zeros before open; next: zeros where the key is not being changed
}

// open reads the file, or makes it with a new key. It may be called again where it failed.
func (k *overlayKeys) open() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now != ([32]byte{}) {
		return nil
	}
	info, err := os.Stat(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		k.now = newOverlayKey()
		if err = k.saveLocked(); err != nil {
			k.now = [32]byte{}
		}
		return err
	}
	if err != nil {
		return fmt.Errorf("read this POP's WireGuard key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, so that others on this machine can read this POP's WireGuard key: chmod 600 it, or, if others may have read it, remove it for a new one", k.path, mode)
	}
	body, err := os.ReadFile(k.path)
	if err != nil {
		return fmt.Errorf("read this POP's WireGuard key: %w", err)
	}
	var first [32]byte
	for i, line := range strings.Fields(string(body)) {
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(key) != 32 || i > 1 || [32]byte(key) == ([32]byte{}) {
			return fmt.Errorf("%s does not hold a WireGuard key as \"wg genkey\" prints it: restore it, or remove it for a new one", k.path)
		}
		if i == 0 {
			first = [32]byte(key)
		}
		// A next one belongs to a change that was cut off: whoever has begun it begins anew.
	}
	if first == ([32]byte{}) {
		return fmt.Errorf("%s is empty: restore it, or remove it for a new WireGuard key", k.path)
	}
	k.now = first
	return nil
}

// newOverlayKey is a clamped Curve25519 scalar (RFC 7748, section 5), as "wg genkey" makes it.
func newOverlayKey() (key [32]byte) {
	rand.Read(key[:])
	key[0] &= 248
	key[31] = key[31]&127 | 64
	return key
}

func publicKey(private [32]byte) wg.Key {
	key, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		return wg.Key{} // only of another length
	}
	return wg.Key(key.PublicKey().Bytes())
}

// private is the key in use, zeros before open.
func (k *overlayKeys) private() [32]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.now
}

// public are the keys for the others; zero where there is none.
func (k *overlayKeys) public() (now, next wg.Key) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now == ([32]byte{}) {
		return now, next
	}
	if k.next != ([32]byte{}) {
		next = publicKey(k.next)
	}
	return publicKey(k.now), next
}

// begin makes the next key, which is on disk when it returns.
func (k *overlayKeys) begin() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = newOverlayKey()
	err := k.saveLocked()
	if err != nil {
		k.next = [32]byte{}
	}
	return err
}

// cancel forgets the next key.
func (k *overlayKeys) cancel() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.next = [32]byte{}
	return k.saveLocked()
}

// promote makes the next key the one in use.
func (k *overlayKeys) promote() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, next := k.now, k.next
	k.now, k.next = next, [32]byte{}
	err := k.saveLocked()
	if err != nil {
		k.now, k.next = now, next
	}
	return err
}

func (k *overlayKeys) saveLocked() error {
	var b bytes.Buffer
	for _, key := range [...][32]byte{k.now, k.next} {
		if key != ([32]byte{}) {
			b.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
		}
	}
	if err := writeFile(k.path, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("keep this POP's WireGuard key: %w", err)
	}
	return nil
}
