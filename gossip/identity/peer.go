package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strings"
)

// Peer is who is at the other end of a stream.
type Peer struct {
	Node       string            // its id
	Key        ed25519.PublicKey // its own, to pin the id to
	ClusterKey string            // id of the cluster key that both used
}

// PeerOf reads the peer of a connection made with ServerTLS or ClientTLS,
// which have verified it: this does not do so again.
func PeerOf(s tls.ConnectionState) (Peer, error) {
	id, ok := strings.CutPrefix(s.NegotiatedProtocol, protocolPrefix)
	switch {
	case !s.HandshakeComplete:
		return Peer{}, errors.New("peer's identity: the handshake is not complete")
	case s.Version != tls.VersionTLS13 || !ok || len(s.PeerCertificates) == 0:
		return Peer{}, errors.New("peer's identity: not a connection between members")
	}
	cert := s.PeerCertificates[0]
	if cert.Issuer.CommonName != id {
		return Peer{}, errors.New("peer's identity: certificate of another cluster key than was negotiated")
	}
	node, err := nodeOf(cert)
	if err != nil {
		return Peer{}, fmt.Errorf("peer's identity: %w", err)
	}
	return Peer{Node: node, Key: cert.PublicKey.(ed25519.PublicKey), ClusterKey: id}, nil
}

// alertNoProtocol is what a server says to a client none of whose protocols,
// here: cluster keys, it knows (RFC 7301 §3.2).
const alertNoProtocol = 120

// Explain makes ErrNoCommonKey of the alert that a client gets for it, and
// returns every other error, and nil, as it is.
func Explain(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return err
	}
	// crypto/tls does not export the type of its alerts; their number is RFC 8446's.
	if v := reflect.ValueOf(op.Err); v.Kind() != reflect.Uint8 || v.Uint() != alertNoProtocol {
		return err
	}
	return fmt.Errorf("%w (%w)", ErrNoCommonKey, err)
}
