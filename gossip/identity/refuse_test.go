package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// forge makes a certificate as an attacker would, with what they have.
type forge struct {
	template *x509.Certificate
	key      crypto.Signer
	parent   *x509.Certificate // nil: self-signed
	by       crypto.Signer
	chain    []*x509.Certificate // sent along
}

func (f forge) certificate(t *testing.T) *tls.Certificate {
	t.Helper()
	if f.template == nil {
		return &tls.Certificate{}
	}
	parent, by := f.parent, f.by
	if parent == nil {
		parent, by = f.template, f.key
	}
	der, err := x509.CreateCertificate(rand.Reader, f.template, parent, f.key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: f.key}
	for _, more := range f.chain {
		c.Certificate = append(c.Certificate, more.Raw)
	}
	return c
}

// Who knows a cluster key's id (it travels in clear) but not the key, and who
// knows the key but does not keep to the form, is refused on either side.
func TestCertificatesRefused(t *testing.T) {
	ours, theirs := testAuthority(t, 1), testAuthority(t, 2)
	node := testNode('x').private
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	fake := *ours // our authority's name, another key
	fake.private = theirs.private
	fake.cert, err = sign(&x509.Certificate{SerialNumber: big.NewInt(1), Subject: ours.cert.Subject, NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true}, theirs.cert, theirs.cert.PublicKey.(ed25519.PublicKey), theirs.private)
	if err != nil {
		t.Fatal(err)
	}
	middle, err := sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: ours.cert.Subject, NotBefore: notBefore, NotAfter: notAfter,
		IsCA: true, BasicConstraintsValid: true}, ours.cert, testNode('m').Public(), ours.private)
	if err != nil {
		t.Fatal(err)
	}
	with := func(change func(*x509.Certificate)) forge {
		c := nodeTemplate("x", node.Public().(ed25519.PublicKey))
		change(c)
		return forge{template: c, key: node, parent: ours.cert, by: ours.private}
	}
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	plain := with(func(*x509.Certificate) {})
	for name, f := range map[string]forge{
		"good":                               plain,
		"none":                               {},
		"self-signed":                        {template: plain.template, key: node},
		"another key's":                      {template: plain.template, key: node, parent: theirs.cert, by: theirs.private},
		"another key's, with its authority":  {template: plain.template, key: node, parent: theirs.cert, by: theirs.private, chain: []*x509.Certificate{theirs.cert}},
		"an authority of our name":           {template: plain.template, key: node, parent: fake.cert, by: fake.private, chain: []*x509.Certificate{fake.cert}},
		"through a middle authority":         {template: plain.template, key: node, parent: middle, by: testNode('m').private, chain: []*x509.Certificate{middle}},
		"signed by a node":                   {template: plain.template, key: node, parent: nodeCert(t, ours, "n"), by: testNode('n').private, chain: []*x509.Certificate{nodeCert(t, ours, "n")}},
		"the authority itself":               {template: ours.cert, key: ours.private, parent: ours.cert, by: ours.private},
		"expired":                            with(func(c *x509.Certificate) { c.NotAfter = time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"not yet valid":                      with(func(c *x509.Certificate) { c.NotBefore = time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC) }),
		"for code signing":                   with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		"for clients only":                   with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
		"for servers only":                   with(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"no name":                            with(func(c *x509.Certificate) { c.URIs = nil }),
		"a host name only":                   with(func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"x"} }),
		"a host name too":                    with(func(c *x509.Certificate) { c.DNSNames = []string{"x"} }),
		"two nodes":                          with(func(c *x509.Certificate) { c.URIs = append(c.URIs, nodeURI("y")) }),
		"another scheme":                     with(func(c *x509.Certificate) { c.URIs[0] = uri("spiffe://edgeproxy/node/x") }),
		"an empty node":                      with(func(c *x509.Certificate) { c.URIs[0] = uri("edgeproxy:node/") }),
		"a node in a second spelling":        with(func(c *x509.Certificate) { c.URIs[0] = uri("edgeproxy:node/%78") }),
		"a node with a query":                with(func(c *x509.Certificate) { c.URIs[0] = uri("edgeproxy:node/x?y") }),
		"a node with a control character":    with(func(c *x509.Certificate) { c.URIs[0] = uri("edgeproxy:node/x%0a") }),
		"an ECDSA key":                       {template: plain.template, key: ec, parent: ours.cert, by: ours.private},
		"our certificate, another's private": {template: plain.template, key: stolen{testNode('y').private, node.Public()}, parent: ours.cert, by: ours.private},
	} {
		t.Run(name, func(t *testing.T) {
			cert := f.certificate(t)
			us := testCredentials(t, "us-1", NewKeyring(testKey(1)))
			protocol := []string{protocolPrefix + ours.id}

			o := meet(t, us.ServerTLS(), &tls.Config{NextProtos: protocol, InsecureSkipVerify: true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }})
			if ok := o.serverErr == nil; ok != (name == "good" || name == "for clients only") {
				t.Errorf("as a client's: %v", o.serverErr)
			}
			if name == "none" {
				return // a server without a certificate does not get that far
			}
			o = meet(t, &tls.Config{NextProtos: protocol, Certificates: []tls.Certificate{*cert},
				ClientAuth: tls.RequireAnyClientCert, ClientCAs: ours.roots}, us.ClientTLS(""))
			if ok := o.clientErr == nil; ok != (name == "good" || name == "for servers only") {
				t.Errorf("as a server's: %v", o.clientErr)
			}
			if o.clientErr != nil && len(o.server.PeerCertificates) > 0 {
				t.Error("the client showed its certificate to a server that it refused")
			}
		})
	}
}

// stolen claims a public key that is not its own.
type stolen struct {
	ed25519.PrivateKey
	public crypto.PublicKey
}

func (s stolen) Public() crypto.PublicKey { return s.public }

func nodeCert(t *testing.T, a *authority, id string) *x509.Certificate {
	t.Helper()
	c, err := a.issue(id, testNode(id[0]).Public())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOtherProtocolsRefused(t *testing.T) {
	us := testCredentials(t, "us-1", NewKeyring(testKey(1)))
	old := us.ClientTLS("")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if o := meet(t, us.ServerTLS(), old); o.serverErr == nil || len(o.client.PeerCertificates) > 0 {
		t.Error("a client of TLS 1.2 got in")
	}
	i := us.current.Load().issued[0]
	for name, server := range map[string]*tls.Config{
		"TLS 1.2":      {NextProtos: []string{i.protocol}, Certificates: []tls.Certificate{*i.cert}, MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12},
		"without ALPN": {Certificates: []tls.Certificate{*i.cert}},
	} {
		if o := meet(t, server, us.ClientTLS("")); o.clientErr == nil {
			t.Errorf("a server %s was believed", name)
		}
	}
	noClientCert := us.ServerTLS()
	if o := meet(t, noClientCert, &tls.Config{NextProtos: []string{i.protocol}, InsecureSkipVerify: true}); o.serverErr == nil {
		t.Error("a client without a certificate got in")
	}
}

func TestPeerOfRefusesOtherConnections(t *testing.T) {
	us := testCredentials(t, "us-1", NewKeyring(testKey(1)))
	good := meet(t, us.ServerTLS(), us.ClientTLS("")).client
	if _, err := PeerOf(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*tls.ConnectionState){
		"zero":        func(s *tls.ConnectionState) { *s = tls.ConnectionState{} },
		"incomplete":  func(s *tls.ConnectionState) { s.HandshakeComplete = false },
		"TLS 1.2":     func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 },
		"no ALPN":     func(s *tls.ConnectionState) { s.NegotiatedProtocol = "" },
		"HTTP":        func(s *tls.ConnectionState) { s.NegotiatedProtocol = "h2" },
		"another key": func(s *tls.ConnectionState) { s.NegotiatedProtocol = protocolPrefix + testKey(2).ID() },
		"no peer":     func(s *tls.ConnectionState) { s.PeerCertificates = nil },
		"authority":   func(s *tls.ConnectionState) { s.PeerCertificates = []*x509.Certificate{testAuthority(t, 1).cert} },
	} {
		s := good
		change(&s)
		if p, err := PeerOf(s); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
