package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const largest = 1 << 20 // bytes of a file; a long chain has 10 KiB

// errAuthority marks what cert-manager and others put beside a certificate.
var errAuthority = errors.New("an authority's certificate, which serves nobody")

// pair is a certificate with its key: as it was last seen, and as it was last good.
type pair struct {
	file   string
	seen   sources
	keyed  bool // there was a key in what was last seen, as far as one can tell
	loaded time.Time
	broken string // what is wrong with what was last seen
	good   *certificate
	valid  bool      // good's, at the last look
	warned time.Time // of good's end
	missed bool      // at the last look
}

// certificate is one in use. It does not change.
type certificate struct {
	file string
	cert tls.Certificate
}

// current says whether what f names has been loaded as it is. What is broken,
// or so young that a further change might not show, is read again.
func (p *pair) current(f sources, now time.Time) bool {
	if p.broken != "" || f.keyFile != p.seen.keyFile || !same(f.certInfo, p.seen.certInfo) || !same(f.keyInfo, p.seen.keyInfo) {
		return false
	}
	return p.loaded.Sub(f.certInfo.ModTime()) >= settled && p.loaded.Sub(f.keyInfo.ModTime()) >= settled
}

// load reads the files, and says whether there is another certificate in use now.
func (p *pair) load(f sources, now time.Time) (changed bool) {
	p.seen, p.loaded, p.broken = f, now, ""
	cert, err := read(f)
	p.keyed = err == nil || f.keyFile != f.file
	if errors.Is(err, errAuthority) {
		return false
	}
	if err != nil {
		p.broken = err.Error()
		return false
	}
	if p.good != nil && bytes.Equal(bytes.Join(p.good.cert.Certificate, nil), bytes.Join(cert.Certificate, nil)) {
		return false
	}
	p.good, p.warned = &certificate{file: p.file, cert: cert}, time.Time{}
	return true
}

// problems is what there is to say about the pair, for people.
func (p *pair) problems(now time.Time) (all []Problem) {
	say := func(file, format string, args ...any) {
		all = append(all, Problem{File: file, Message: fmt.Sprintf(format, args...)})
	}
	switch {
	case p.broken != "" && p.good != nil:
		say(p.file, "%s; the one before is in use", p.broken)
	case p.broken != "":
		say(p.file, "%s", p.broken)
	}
	if p.good != nil {
		leaf := p.good.cert.Leaf
		if now.After(leaf.NotAfter) {
			say(p.file, "expired on %s; it is served all the same", leaf.NotAfter.UTC().Format(time.DateTime))
		}
		if now.Before(leaf.NotBefore) {
			say(p.file, "not valid before %s; it is served all the same", leaf.NotBefore.UTC().Format(time.DateTime))
		}
	}
	if p.seen.keyInfo != nil && p.seen.keyInfo.Mode().Perm()&0o004 != 0 && p.good != nil && p.keyed {
		say(p.seen.keyFile, "every user can read this key: chmod o-r")
	}
	return all
}

func (c *certificate) valid(now time.Time) bool {
	return !now.Before(c.cert.Leaf.NotBefore) && !now.After(c.cert.Leaf.NotAfter)
}

func (c *certificate) algorithm() string {
	switch key := c.cert.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return "unknown"
}

// read parses a certificate, its chain and its key.
func read(f sources) (none tls.Certificate, err error) {
	if f.alone {
		return none, errors.New("a key without certificate: put its .crt or .pem beside it")
	}
	cert, err := readPEM(f.cert)
	if err != nil {
		return none, err
	}
	key := cert
	if f.key != f.cert {
		if key, err = readPEM(f.key); err != nil {
			return none, fmt.Errorf("its key %s: %w", f.keyFile, err)
		}
	}
	switch {
	case !bytes.Contains(cert, []byte("-----BEGIN CERTIFICATE-----")):
		return none, errors.New("no certificate in it")
	case bytes.Contains(key, []byte("ENCRYPTED")):
		return none, fmt.Errorf("the key in %s has a passphrase, which nobody is there to type: store it without", f.keyFile)
	case f.key == f.cert && authority(cert):
		return none, errAuthority
	case !bytes.Contains(key, []byte(" PRIVATE KEY-----")) && !bytes.Contains(key, []byte("BEGIN PRIVATE KEY-----")):
		return none, fmt.Errorf("no private key in %s: put it there, or beside it in a file that ends in .key", f.keyFile)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return none, errors.New(strings.TrimPrefix(err.Error(), "tls: "))
	}
	if len(pair.Leaf.DNSNames) == 0 {
		return none, errors.New("the certificate has no DNS name (subjectAltName), so it can serve nobody")
	}
	return pair, nil
}

// authority says whether a file without a key is an authority's: of such a one
// nobody expects that it is served.
func authority(cert []byte) bool {
	if bytes.Contains(cert, []byte("PRIVATE KEY-----")) {
		return false
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes) // readPEM has seen that there is a block
	return err == nil && leaf.IsCA && len(leaf.DNSNames) == 0
}

// readPEM reads a file of whole blocks. A writer that is not done yet, or a
// full disk, leaves half a block, which the decoder would pass over.
func readPEM(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, reason(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file") // opening a pipe would wait
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, reason(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil {
		return nil, reason(err)
	}
	if len(b) > largest {
		return nil, fmt.Errorf("longer than %d bytes", largest)
	}
	blocks := 0
	for rest := b; ; blocks++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
	}
	if begun := bytes.Count(b, []byte("-----BEGIN ")); begun != blocks || blocks == 0 {
		return nil, fmt.Errorf("half-written or not PEM: %d of %d blocks are whole", blocks, begun)
	}
	return b, nil
}

// reason leaves out the path, which stands beside the message already.
func reason(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("%s: %w", path.Op, path.Err)
	}
	return err
}
