package identity

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"unique"
)

// Key is a cluster key: 32 secret bytes that all POPs of a mesh share. It is
// comparable, and prints as its ID whatever the verb. The zero Key is none.
type Key struct {
	// Behind a handle, because fmt looks into the unexported fields of others
	// without asking for Format: there it finds an address.
	secret unique.Handle[[keyBytes]byte]
}

const keyBytes = 32

// Insecure is the key of a POP that was given none. It is public, in this
// line: it protects nothing and is for loopback or --insecure. ParseKey does
// not take it.
var Insecure = newKey([]byte("edgeproxy: no key, no protection"))

const keyRemedy = "make one with: edgeproxy keygen"

// ParseKey reads 32 bytes in base64, in the standard or the URL alphabet, with
// or without padding and white space around it. Errors say what is wrong and
// what to do, and hold nothing of the text.
func ParseKey(text string) (Key, error) {
	text = strings.TrimSpace(text)
	digits := strings.TrimRight(text, "=")
	switch {
	case text == "":
		return Key{}, fault("the cluster key is empty")
	case len(digits) == 2*keyBytes && isHex(digits):
		return Key{}, fault("the cluster key is written in hex, want base64")
	case len(text) > 4096:
		return Key{}, fault("the cluster key is far too long, want 44 characters of base64")
	}
	if len(digits) < len(text) && len(text)%4 != 0 {
		return Key{}, fault("the cluster key is not base64 (see its end)")
	}
	// Strict: a mistyped last character must not pass as the same key.
	raw, err := base64.RawStdEncoding.Strict().DecodeString(urlToStd.Replace(digits))
	var corrupt base64.CorruptInputError
	switch {
	case errors.As(err, &corrupt) && int(corrupt) < len(digits)-1:
		return Key{}, fault(fmt.Sprintf("the cluster key is not base64 (see character %d)", int(corrupt)+1))
	case err != nil:
		return Key{}, fault("the cluster key is not base64 (see its end)")
	case len(raw) != keyBytes:
		return Key{}, fault(fmt.Sprintf("the cluster key has %d bytes, want %d", len(raw), keyBytes))
	}
	k := newKey(raw)
	if k == Insecure {
		return Key{}, fault("the cluster key is the public one of a POP without a key")
	}
	return k, nil
}

var urlToStd = strings.NewReplacer("-", "+", "_", "/", "\n", "!", "\r", "!") // the decoder would skip line ends

func fault(what string) error { return errors.New(what + ": " + keyRemedy) }

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

// ID is the key's public name: 16 hex digits that tell nothing about it.
func (k Key) ID() string { return hex.EncodeToString(k.derive("edgeproxy/1 key id", idBytes)) }

const idBytes = 8

// Gossip is the key for memberlist's packets: the cluster key itself, so that
// `serf agent -encrypt` joins with the text that edgeproxy was given.
func (k Key) Gossip() []byte { return k.bytes() }

// String is the ID.
func (k Key) String() string { return k.ID() }

// Format prints the ID for every verb, so that no %x or %#v shows the secret.
func (k Key) Format(f fmt.State, _ rune) { io.WriteString(f, k.ID()) }

func newKey(secret []byte) Key { return Key{unique.Make([keyBytes]byte(secret))} }

// bytes is a copy of the secret; zeros for the zero Key.
func (k Key) bytes() []byte {
	if k == (Key{}) {
		return make([]byte, keyBytes)
	}
	secret := k.secret.Value()
	return secret[:]
}

// derive gives n bytes that depend on the key and on what they are for (RFC 5869).
func (k Key) derive(info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, k.bytes(), nil, info, n)
	if err != nil {
		panic(err) // lengths are constants of this package, far inside what HKDF gives
	}
	return out
}
