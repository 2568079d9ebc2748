package identity

import (
	"errors"
	"fmt"
	"io/fs"
)

// Start says what became of the configured key when a keyring was opened.
type Start int

const (
	StartFresh    Start = iota // first start: the keyring is the configured key
	StartKnown                 // the configured key is accepted; the keyring says which is primary
	StartRemoved               // a rotation has removed the configured key; the keyring rules: warn
	StartAdded                 // the keyring did not know the configured key: it was added and made primary
	StartInsecure              // no key is configured: the keyring is Insecure, the file was not looked at
)

// String is for logs.
func (s Start) String() string {
	names := [...]string{"first start", "accepted", "removed by a rotation", "added and made primary", "insecure"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("Start(%d)", int(s))
	}
	return names[s]
}

const ringRemedy = "restore it from a backup, or remove it: this POP then starts with the configured cluster key alone"

// OpenKeyring joins the configured key with what the file has learned since,
// and saves the outcome where it is new. Insecure touches no file.
func OpenKeyring(path string, configured Key, now int64) (Keyring, Start, error) {
	if configured == Insecure {
		return NewKeyring(Insecure), StartInsecure, nil
	}
	r, err := LoadKeyring(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Keyring{}, 0, err
	}
	r, start, err := r.Configure(configured, now)
	if err == nil && (start == StartFresh || start == StartAdded) {
		err = r.Save(path)
	}
	if err != nil {
		return Keyring{}, 0, err
	}
	return r, start, nil
}

// Configure applies the key that the operator has configured. A key that the
// keyring has known is no news, whatever has become of it; an unknown one is
// the operator's word, and how a POP that has missed everything is brought back.
func (r Keyring) Configure(k Key, now int64) (Keyring, Start, error) {
	id := k.ID()
	i, known := r.find(id)
	switch {
	case r.Empty():
		return NewKeyring(k), StartFresh, nil
	case known && r.live(r.keys[i]):
		return r, StartKnown, nil
	case known:
		return r, StartRemoved, nil
	}
	next, err := r.add(k, now) // beyond MaxLive too: it was asked for here and now
	if err == nil {
		next, err = next.Use(id, now)
	}
	if err != nil {
		return r, StartAdded, fmt.Errorf("accept the configured cluster key %s: %w", id, err)
	}
	return next, StartAdded, nil
}

// LoadKeyring reads a file of mode 0600; fs.ErrNotExist where there is none.
func LoadKeyring(path string) (Keyring, error) {
	body, err := readPrivate(path)
	if err != nil {
		return Keyring{}, fmt.Errorf("cluster keys: %w", err)
	}
	r, err := DecodeKeyring(body)
	if err == nil && r.Insecure() {
		err = errors.New("it holds the public key")
	}
	if err != nil {
		return Keyring{}, fmt.Errorf("cluster keys: read %s: %w: %s", path, err, ringRemedy)
	}
	return r, nil
}

// Save replaces the file, with mode 0600; it is on disk when Save returns. A
// keyring that is empty or Insecure is not for keeping: ErrInsecure.
func (r Keyring) Save(path string) error {
	err := ErrInsecure
	if !r.Empty() && !r.Insecure() {
		err = writePrivate(path, r.Encode())
	}
	if err != nil {
		return fmt.Errorf("save cluster keys: %w", err)
	}
	return nil
}
