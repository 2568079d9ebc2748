package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
)

// Node is the persistent key of one POP. Its public half is in every
// certificate of the POP, so peers know it again whatever the cluster key.
type Node struct{ private ed25519.PrivateKey }

// Public is the key that peers see as Peer.Key.
func (n *Node) Public() ed25519.PublicKey { return n.private.Public().(ed25519.PublicKey) }

// String says nothing of the private key.
func (n *Node) String() string { return fmt.Sprintf("%x", n.Public()) }

// Format prints the public key for every verb.
func (n *Node) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "%x", []byte(n.Public())) }

const (
	pemType    = "PRIVATE KEY" // PKCS#8, RFC 5958
	nodeRemedy = "restore it from a backup, or remove it: this POP then gets a new key, and POPs that know it by the old one must forget that"
)

// LoadNode reads the node's key from a PKCS#8 PEM file of mode 0600, or makes
// it where no file is yet; made says which. What is wrong with a file that is
// there is an error with its remedy: a key is never replaced unasked.
func LoadNode(path string) (n *Node, made bool, err error) {
	body, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		n, err = makeNode(path)
		return n, err == nil, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("this POP's key: %w", err)
	}
	if n, err = parseNode(body); err != nil {
		return nil, false, fmt.Errorf("this POP's key: read %s: %w: %s", path, err, nodeRemedy)
	}
	return n, false, nil
}

func makeNode(path string) (*Node, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make this POP's key: %w", err)
	}
	n := &Node{private}
	body, err := n.marshal()
	if err == nil {
		err = writePrivate(path, body)
	}
	if err != nil {
		return nil, fmt.Errorf("make this POP's key: %w", err)
	}
	return n, nil
}

func (n *Node) marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(n.private)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// parseNode reads one PEM block with an Ed25519 key in it. Its errors hold
// nothing of the text.
func parseNode(body []byte) (*Node, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, errors.New("it is empty")
	}
	block, rest := pem.Decode(body)
	switch {
	case block == nil:
		return nil, errors.New("it is not PEM, or was cut short")
	case block.Type != pemType:
		return nil, fmt.Errorf("it does not hold a PEM block %q", pemType)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it holds more than one key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("its PEM block is not a PKCS#8 key")
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("its key is not an Ed25519 key")
	}
	return &Node{private}, nil
}
