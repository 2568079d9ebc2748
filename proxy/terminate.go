package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Certificates has those of the services with mode TLSTerminate. Safe for
// concurrent use, and asked for every handshake.
type Certificates interface {
	// GetCertificate is the one for a client, nil where there is none; names are
	// the service's, for clients that name none.
	GetCertificate(client *tls.ClientHelloInfo, names []string) (*tls.Certificate, error)
}

var errNoCertificates = errors.New("this POP has no certificates: set EDGEPROXY_CERT_DIR")

// tlsConfig is how the server's end of a service's handshakes is done.
func (s *Server) tlsConfig(v mesh.Service) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: v.ALPN,
		GetCertificate: func(client *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if s.certs == nil {
				return nil, errNoCertificates
			}
			return s.certs.GetCertificate(client, v.SNI)
		},
	}
}

// terminate does the server's end of the handshake that early begins.
func (c *session) terminate(early []byte, timeout time.Duration) end {
	plain := &resumed{connection: c.client.connection, early: bytes.Clone(early)}
	secure := tls.Server(plain, c.service.tls)
	ctx, cancel := context.WithTimeout(c.front.cut, timeout)
	defer cancel()
	if err := secure.HandshakeContext(ctx); err != nil {
		if c.front.cut.Err() != nil {
			return endDrained
		}
		c.server.perClient.Warn().Err(fmt.Errorf("TLS handshake: %w", err)).Stringer("client", c.peer).Str("name", c.hello.name).Msg("TLS client refused")
		return endHandshake
	}
	c.hello.alpn = secure.ConnectionState().NegotiatedProtocol
	c.client.connection = &decrypted{Conn: secure, plain: plain}
	return endOpen
}

// resumed is a connection of which some has been read already.
type resumed struct {
	connection
	early []byte
}

func (r *resumed) Read(b []byte) (int, error) {
	if len(r.early) > 0 {
		n := copy(b, r.early)
		r.early = r.early[n:]
		return n, nil
	}
	return r.connection.Read(b)
}

// decrypted is a client's end of a session whose TLS is ours. A client that
// closes its connection between two records without saying so has ended, as one
// that says so: many do.
type decrypted struct {
	*tls.Conn
	plain *resumed
	cut   atomic.Bool // it ends before both sides have said that they have
}

// SetLinger makes Close a reset, as it does of the connection below.
func (d *decrypted) SetLinger(seconds int) error {
	d.cut.Store(true)
	return d.plain.SetLinger(seconds)
}

// SetDeadline is how a session is ended from outside.
func (d *decrypted) SetDeadline(t time.Time) error {
	d.cut.Store(true)
	return d.Conn.SetDeadline(t)
}

// Close says goodbye first, unless the connection was cut: what was cut off must
// not look complete, and saying it may take 5 s.
func (d *decrypted) Close() error {
	if d.cut.Load() {
		return d.plain.Close()
	}
	return d.Conn.Close()
}
