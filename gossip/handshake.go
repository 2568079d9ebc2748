package gossip

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/identity"
)

// Why a stream ends on this side's decision.
var (
	errForgotten = errors.New("no longer a peer")
	errIdle      = errors.New("neither side needs the stream")
	errReplaced  = errors.New("replaced by another stream")
	errDuplicate = errors.New("there is a stream already")
	errLater     = errors.New("it has had this id for longer")
	errConflict  = errors.New("another live node has this id: give one of the two another (EDGEPROXY_NODE_ID), and a database of its own")
	errSelf      = errors.New("it is this POP itself")
)

// byeError is the other side's decision.
type byeError struct{ byeFrame }

func (e *byeError) Error() string { return "the peer says: " + e.text }

// Unwrap makes its verdict ours.
func (e *byeError) Unwrap() error {
	switch e.code {
	case byeDuplicate:
		return errDuplicate
	case byeConflict:
		return errConflict
	}
	return nil
}

// farewellOf is what to tell the peer about the end of a stream.
func farewellOf(err error) byeFrame {
	switch {
	case err == nil:
		return byeFrame{byeEnd, "this POP ends"}
	case errors.Is(err, errReplaced), errors.Is(err, errDuplicate):
		return byeFrame{byeDuplicate, err.Error()}
	case errors.Is(err, errConflict):
		return byeFrame{byeConflict, err.Error()}
	case errors.Is(err, errForgotten), errors.Is(err, errIdle):
		return byeFrame{byeEnd, err.Error()}
	}
	return byeFrame{byeRefused, err.Error()}
}

// dialPeer opens a stream to a peer. It stands when both have said hello: the
// side that was dialed decides first, and its hello means yes.
func (m *Mesh) dialPeer(ctx context.Context, p *peer, addr string) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Handshake)
	defer cancel()
	raw, err := m.cfg.Dial(ctx, m.cfg.Via(addr))
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, m.cfg.Credentials.ClientTLS(p.node))
	s, err := m.greet(ctx, conn, addr, true)
	if err != nil {
		_ = raw.Close()
		return nil, identity.Explain(err)
	}
	return s, nil
}

// acceptPeer is the same from the other side.
func (m *Mesh) acceptPeer(ctx context.Context, raw net.Conn, config *tls.Config) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Handshake)
	defer cancel()
	s, err := m.greet(ctx, tls.Server(raw, config), raw.RemoteAddr().String(), false)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return s, nil
}

func (m *Mesh) greet(ctx context.Context, conn *tls.Conn, addr string, dialed bool) (*stream, error) {
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	rtt := time.Since(began)
	id, err := identity.PeerOf(conn.ConnectionState())
	if err != nil {
		return nil, err
	}
	if err := m.refresh(ctx); err != nil {
		return nil, err
	}
	s := newStream(m, conn, id.Node, addr, dialed)
	if dialed {
		if err := m.sayHello(s); err != nil {
			return nil, err
		}
	}
	h, err := readHello(s.frames)
	if err == nil {
		err = m.judge(h, Hello{Node: id.Node, Key: id.Key, Nonce: h.nonce, Addr: addr})
	}
	if err == nil {
		err = m.enter(ctx, s, h, rtt)
	}
	if err == nil && !dialed {
		if err = m.sayHello(s); err != nil {
			s.close(err)
			m.leave(s, err)
		}
	}
	if err != nil {
		var said *byeError
		if !errors.As(err, &said) {
			_ = conn.SetWriteDeadline(time.Now().Add(goodbye))
			_, _ = conn.Write(appendFrame(nil, kindBye, farewellOf(err).append))
		}
		return nil, &refusal{node: id.Node, err: err}
	}
	return s, nil
}

// sayHello sends what we have now, from which on changes are announced.
func (m *Mesh) sayHello(s *stream) error {
	h := hello{min: protocolMin, max: protocolMax, node: m.cfg.Node, nonce: m.cfg.Nonce, clock: m.clock()}
	if m.cfg.Keyring != nil {
		h.keyring = m.cfg.Keyring()
		s.saidKeyring(h.keyring)
	}
	m.mu.Lock()
	h.heads, h.horizon = m.own.Clone(), m.horizon.Clone()
	s.said = m.own.Clone()
	m.mu.Unlock()
	_, err := s.conn.Write(appendFrame(nil, kindHello, h.append))
	return err
}

// clock is what peers are told of ours.
func (m *Mesh) clock() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clockLocked()
}

func (m *Mesh) clockLocked() int64 { return clockOf(m.steady.micro()) }

func readHello(frames *frameReader) (h hello, err error) {
	k, body, err := frames.next()
	if err != nil {
		return h, err
	}
	switch k {
	case kindHello:
		if h, err = decodeHello(body); err != nil && !errors.Is(err, errVersion) {
			err = garbage(err)
		}
		return h, err
	case kindBye:
		bye, err := decodeBye(body)
		if err != nil {
			return h, garbage(err)
		}
		return h, &byeError{bye}
	}
	return h, garbage(fmt.Errorf("kind %d before hello", k))
}

// judge says whether the peer may come in, whatever streams there are.
func (m *Mesh) judge(h hello, who Hello) error {
	switch {
	case h.node != who.Node:
		return garbage(fmt.Errorf("calls itself %q, its certificate says %q", h.node, who.Node))
	case who.Node == m.cfg.Node && who.Nonce == m.cfg.Nonce:
		return errSelf
	case who.Node == m.cfg.Node && who.Nonce < m.cfg.Nonce:
		return errLater
	case who.Node == m.cfg.Node:
		return errConflict
	}
	if m.cfg.Admit != nil {
		if err := m.cfg.Admit(who); err != nil {
			return err
		}
	}
	return m.takeKeyring(h.keyring)
}

// takeKeyring merges a document and passes on what it changed. One that makes
// no sense costs the peer nothing: it may be a newer edgeproxy's. The error is
// always nil.
func (m *Mesh) takeKeyring(document []byte) error {
	if len(document) == 0 || m.cfg.MergeKeyring == nil {
		return nil
	}
	before := m.cfg.Keyring()
	if err := m.cfg.MergeKeyring(document); err != nil {
		m.stats.keyringsRefused.Add(1)
		if m.mayWarn(&m.strangers, "keyring") {
			m.log.Warn().Err(err).Msg("keyring refused")
		}
		return nil
	}
	if string(before) != string(m.cfg.Keyring()) {
		m.KeyringChanged()
	}
	return nil
}
