package identity

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrNoCommonKey: the two sides of a handshake accept no cluster key in common.
var ErrNoCommonKey = errors.New("the peer accepts none of this POP's cluster keys: give both the same key (edgeproxy keys list)")

// protocolPrefix and a key's id is the ALPN protocol (RFC 7301) that stands for
// a stream under that cluster key.
const protocolPrefix = "edgeproxy/1 "

// Credentials is what a POP proves itself with, and checks others by. Safe for
// concurrent use.
type Credentials struct {
	id   string
	node *Node

	current atomic.Pointer[credentialState]
	setting sync.Mutex // one SetKeyring at a time
}

// credentialState is immutable.
type credentialState struct {
	ring      Keyring
	issued    []*issued // as ring.Live: in order of preference
	protocols []string  // of issued
}

// issued is all that follows from one cluster key, made once: a handshake signs
// what TLS itself has it sign, nothing more.
type issued struct {
	*authority
	protocol string
	cert     *tls.Certificate
	server   *tls.Config
}

// NewCredentials is for the node of that id. The keyring may not be empty.
func NewCredentials(id string, node *Node, ring Keyring) (*Credentials, error) {
	c := &Credentials{id: id, node: node}
	if err := checkNodeID(id); err != nil {
		return nil, err
	}
	return c, c.SetKeyring(ring)
}

// Node is this POP's id.
func (c *Credentials) Node() string { return c.id }

// Keyring is the one in use.
func (c *Credentials) Keyring() Keyring { return c.current.Load().ring }

// SetKeyring changes the accepted keys for every later handshake. Connections
// that stand are left alone.
func (c *Credentials) SetKeyring(ring Keyring) error {
	if ring.Empty() {
		return errors.New("credentials: the keyring holds no cluster key")
	}
	c.setting.Lock()
	defer c.setting.Unlock()
	next := &credentialState{ring: ring}
	for _, k := range ring.Live() {
		i := c.current.Load().find(protocolPrefix + k.ID())
		if i == nil {
			var err error
			if i, err = c.issue(k); err != nil {
				return err
			}
		}
		next.issued = append(next.issued, i)
		next.protocols = append(next.protocols, i.protocol)
	}
	c.current.Store(next)
	return nil
}

func (c *Credentials) issue(k Key) (*issued, error) {
	ca, err := newAuthority(k)
	if err != nil {
		return nil, err
	}
	leaf, err := ca.issue(c.id, c.node.Public())
	if err != nil {
		return nil, err
	}
	i := &issued{authority: ca, protocol: protocolPrefix + ca.id}
	i.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: c.node.private, Leaf: leaf}
	i.server = base()
	i.server.NextProtos = []string{i.protocol}
	i.server.Certificates = []tls.Certificate{*i.cert}
	i.server.ClientAuth = tls.RequireAndVerifyClientCert
	i.server.ClientCAs = ca.roots
	i.server.VerifyConnection = func(s tls.ConnectionState) error {
		return i.check(s, x509.ExtKeyUsageClientAuth, "")
	}
	return i, nil
}

// find is nil where the protocol stands for no accepted key.
func (s *credentialState) find(protocol string) *issued {
	if s == nil {
		return nil
	}
	if i := slices.Index(s.protocols, protocol); i >= 0 {
		return s.issued[i]
	}
	return nil
}

func base() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Time: fixedTime, SessionTicketsDisabled: true}
}

// ServerTLS accepts members. It follows SetKeyring: make it once. Of the keys
// that the client offers it takes the one it prefers, shows its certificate
// under that key and wants the client's under the same. Where there is none
// the handshake ends with an alert, before any certificate.
func (c *Credentials) ServerTLS() *tls.Config {
	config := base()
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 0 { // crypto/tls would let it pass without one
			return nil, ErrNoCommonKey
		}
		now := c.current.Load()
		for _, i := range now.issued {
			if slices.Contains(hello.SupportedProtos, i.protocol) {
				return i.server, nil
			}
		}
		// Negotiation fails on this, with the alert that Explain knows.
		none := base()
		none.NextProtos = []string{protocolPrefix}
		return none, nil
	}
	// Never reached past GetConfigForClient; it fails closed if that changes.
	config.ClientAuth = tls.RequireAndVerifyClientCert
	config.ClientCAs = x509.NewCertPool()
	return config
}

// ClientTLS dials a member: the node of that id, or any if it is "". It is for
// one dial: it offers the keys that are accepted now.
func (c *Credentials) ClientTLS(wantNode string) *tls.Config {
	now := c.current.Load()
	config := base()
	config.NextProtos = slices.Clone(now.protocols)
	// Node ids are not host names: VerifyConnection does the whole check.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(s tls.ConnectionState) error {
		i := now.find(s.NegotiatedProtocol)
		if i == nil {
			return ErrNoCommonKey
		}
		return i.check(s, x509.ExtKeyUsageServerAuth, wantNode)
	}
	// TLS asks for this only after VerifyConnection.
	config.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		for _, i := range now.issued {
			for _, subject := range r.AcceptableCAs {
				if bytes.Equal(subject, i.authority.cert.RawSubject) {
					return i.cert, nil
				}
			}
		}
		return nil, ErrNoCommonKey
	}
	return config
}

// check verifies the other side of a handshake: its own certificate, directly
// under the CA, whatever else it sent along.
func (i *issued) check(s tls.ConnectionState, usage x509.ExtKeyUsage, wantNode string) error {
	if s.NegotiatedProtocol != i.protocol || len(s.PeerCertificates) == 0 {
		return ErrNoCommonKey
	}
	node, err := i.verify(s.PeerCertificates[0], usage)
	if err != nil {
		return err
	}
	if wantNode != "" && node != wantNode {
		return &WrongNodeError{Want: wantNode, Got: node}
	}
	return nil
}

// WrongNodeError: a member answered, but another than the one that was dialled.
type WrongNodeError struct{ Want, Got string }

// Error names both.
func (e *WrongNodeError) Error() string {
	return fmt.Sprintf("dialled node %q, but node %q answered", e.Want, e.Got)
}
