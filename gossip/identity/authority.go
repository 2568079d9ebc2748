package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

var (
	notBefore  = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter   = time.Date(2120, 1, 1, 0, 0, 0, 0, time.UTC)
	verifiedAt = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // for every clock, so that none matters
)

// fixedTime is the clock of every TLS config made here.
func fixedTime() time.Time { return verifiedAt }

// authority is the CA that follows from a cluster key. Every holder of the key
// derives the same one, to the byte.
type authority struct {
	id      string // of the cluster key; the subject's and issuer's common name
	cert    *x509.Certificate
	private ed25519.PrivateKey
	roots   *x509.CertPool // cert alone
}

func newAuthority(k Key) (*authority, error) {
	a := &authority{id: k.ID(), private: ed25519.NewKeyFromSeed(k.derive("edgeproxy/1 ca ed25519 seed", ed25519.SeedSize))}
	public := a.private.Public().(ed25519.PublicKey)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: a.id},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs nodes, never another CA
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
		SubjectKeyId:          hashOf(public), // given, as Go's own choice has changed between releases
	}
	var err error
	if a.cert, err = sign(template, template, public, a.private); err != nil {
		return nil, fmt.Errorf("derive the authority of cluster key %s: %w", a.id, err)
	}
	a.roots = x509.NewCertPool()
	a.roots.AddCert(a.cert)
	return a, nil
}

// issue signs the certificate of a node: the same one each time.
func (a *authority) issue(node string, public ed25519.PublicKey) (*x509.Certificate, error) {
	if err := checkNodeID(node); err != nil {
		return nil, err
	}
	cert, err := sign(nodeTemplate(node, public), a.cert, public, a.private)
	if err != nil {
		return nil, fmt.Errorf("certify node %q under cluster key %s: %w", node, a.id, err)
	}
	return cert, nil
}

func nodeTemplate(node string, public ed25519.PublicKey) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(append([]byte{1}, hashOf(public, []byte(node))[:15]...)),
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:                  []*url.URL{nodeURI(node)},
	}
}

// sign takes no random source: Ed25519 needs none, so the bytes are always the same.
func sign(template, parent *x509.Certificate, public ed25519.PublicKey, by ed25519.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(nil, template, parent, public, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// verify says whether a peer's certificate was issued under this authority for
// the given side of TLS, and to which node.
func (a *authority) verify(cert *x509.Certificate, usage x509.ExtKeyUsage) (node string, err error) {
	_, err = cert.Verify(x509.VerifyOptions{Roots: a.roots, CurrentTime: verifiedAt, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return "", err
	}
	return nodeOf(cert)
}

// nodeOf reads the node id out of a certificate that carries exactly one.
func nodeOf(cert *x509.Certificate) (string, error) {
	if _, ok := cert.PublicKey.(ed25519.PublicKey); !ok {
		return "", errors.New("peer's certificate is not for an Ed25519 key")
	}
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 {
		return "", errors.New("peer's certificate does not name one node")
	}
	text := cert.URIs[0].String()
	node, err := url.PathUnescape(strings.TrimPrefix(text, nodePrefix))
	if err != nil || checkNodeID(node) != nil || nodeURI(node).String() != text {
		return "", errors.New("peer's certificate does not name a node")
	}
	return node, nil
}

// nodePrefix and the id with URL escapes is the subject alternative name: a
// DNS name could not carry every id (underscores, two dots in a row).
const nodePrefix = "edgeproxy:node/"

func nodeURI(node string) *url.URL {
	scheme, rest, _ := strings.Cut(nodePrefix, ":")
	return &url.URL{Scheme: scheme, Opaque: rest + url.PathEscape(node)}
}

const maxNodeID = 255 // bytes; configured ids are at most 63

func checkNodeID(node string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if node == "" || len(node) > maxNodeID || !utf8.ValidString(node) || strings.ContainsFunc(node, odd) {
		return fmt.Errorf("%.64q is not a node id: want 1 to %d bytes of printable text", node, maxNodeID)
	}
	return nil
}

// hashOf is what serial numbers and key ids are made of: 20 bytes of SHA-256.
func hashOf(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)[:20]
}
