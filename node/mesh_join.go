package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// bound is the address to listen on: without a cluster key the default is
// this machine only.
func (m *replication) bound(addr, key string) string {
	if _, port, err := net.SplitHostPort(addr); err == nil && m.cfg.Loopback() && !m.cfg.Explicit(key) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}

// join starts membership and returns once its sockets are bound. It ends with
// ctx; ended then has its error. last is what the generation before wrote.
func (m *replication) join(ctx context.Context, last will) (ended <-chan error, err error) {
	addr := m.bound(last.addr("gossip_addr", m.cfg.GossipAddr), "gossip_addr")
	bind, err := bindAddr(addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", m.cfg.Origin("gossip_addr"), addr, err)
	}
	ended, err = m.joinFrom(ctx, bind)
	if errors.Is(err, syscall.EADDRINUSE) && !m.cfg.Explicit("gossip_addr") {
		ended, err = m.joinFrom(ctx, netip.AddrPortFrom(bind.Addr(), 0))
		if err == nil {
			m.log.Warn().Str("setting", "gossip_addr").Str("wanted", addr).Stringer("addr", m.ring.Addr()).Msg("default port is taken, listening on a free one")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", m.cfg.Origin("gossip_addr"), addr, err)
	}
	return ended, nil
}

func (m *replication) joinFrom(ctx context.Context, bind netip.AddrPort) (<-chan error, error) {
	cfg := membership.Config{
		Node: m.node, Bind: bind, Join: m.cfg.Join, Keys: m.gossipKeys(), Tags: m.tags(), Snapshot: m.cfg.DBPath + ".serf", Via: m.via,
	}
	if m.cfg.AdvertiseAddr.IsValid() {
		cfg.Advertise = netip.AddrPortFrom(m.cfg.AdvertiseAddr, 0)
	}
	ring, err := membership.New(cfg, m.base)
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- ring.Run(ctx) }() // whoever has ended waits for it
	<-ring.Started()
	if !ring.Addr().IsValid() { // it has failed, and may take a moment to say why
		return nil, errors.Join(<-ended, ctx.Err())
	}
	m.ring, m.began = ring, time.Now()
	return ended, nil
}

// bindAddr is a setting's host:port as an address.
func bindAddr(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch {
	case host == "":
		host = "0.0.0.0"
	case strings.EqualFold(host, "localhost"):
		host = "127.0.0.1"
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}

func (m *replication) tags() map[string]string {
	tags := map[string]string{
		tagRole: roleOurs, tagRegion: m.cfg.Region, tagVersion: m.version, membership.NonceTag: m.nonce,
		tagListen: listenTag(m.listens), tagSync: strconv.Itoa(m.front.Addr().(*net.TCPAddr).Port), tagKeys: strings.Join(m.keyIDs(), ","),
	}
	if tag := m.overlay.tag(); tag != "" {
		tags[tagWG] = tag
	}
	if ports := portsTag(m.others); ports != "" {
		tags[tagPorts] = ports
	}
	if p := m.cfg.Position; p != nil {
		tags[tagPosition] = fmt.Sprintf("%g,%g", p[0], p[1])
	}
	return tags
}

// syncAddr is where a member takes record streams, and whether it is one of ours.
func syncAddr(m membership.Member) (string, bool) {
	port, err := strconv.ParseUint(m.Tags[tagSync], 10, 16)
	if m.Tags[tagRole] != roleOurs || err != nil || !m.Addr.IsValid() {
		return "", false
	}
	return netip.AddrPortFrom(m.Addr.Addr().Unmap(), uint16(port)).String(), true
}
