package node

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/wg"
)

// tagWG is this POP's WireGuard key and port, for those who have no row of it
// yet: where record streams go through the overlay, rows come through it, too.
const tagWG = "wg"

// tag is this POP's own; empty where the overlay is off.
func (o *overlay) tag() string {
	key, _ := o.keys.public()
	if o.off() || key == (wg.Key{}) || o.cfg.WGEndpoint == "none" {
		return ""
	}
	port := strconv.Itoa(o.cfg.WGPort)
	if o.cfg.WGEndpoint != "" {
		port = o.cfg.WGEndpoint
	}
	return key.String() + "," + port
}

// tagged is a member as its tag has it.
func (o *overlay) tagged(x membership.Member) (p wg.POP, ok bool) {
	key, at, found := strings.Cut(x.Tags[tagWG], ",")
	if !found || x.Tags[tagRole] != roleOurs || !peerName.MatchString(x.Name) || !regionCode.MatchString(x.Tags[tagRegion]) {
		return p, false
	}
	p = wg.POP{Name: x.Name, Region: x.Tags[tagRegion], Six: o.networks.POPSix(x.Name), Claimed: 1<<63 - 1}
	var err error
	if p.Key, err = wg.ParseKey(key); err != nil {
		return p, false
	}
	if port, err := strconv.ParseUint(at, 10, 16); err == nil && port > 0 {
		at = netip.AddrPortFrom(x.Addr.Addr().Unmap(), uint16(port)).String()
	}
	if p.Endpoint, err = parseEndpoint(at); err != nil {
		return p, false
	}
	return p, true
}

// streamsThrough notes where the record streams find the other POPs in the overlay.
func (o *overlay) streamsThrough(m *replication, roster wg.Roster, members []membership.Member) {
	if o.cfg.SyncOver != "overlay" {
		return
	}
	six := make(map[string]netip.Addr, len(roster.POPs))
	for _, p := range roster.POPs {
		six[p.Name] = p.Six
	}
	at := make(map[string]string, len(members))
	for _, x := range members {
		addr, ours := syncAddr(x)
		if in, ok := six[x.Name]; ok && ours {
			_, port, _ := net.SplitHostPort(addr)
			at[addr] = net.JoinHostPort(in.String(), port)
		}
	}
	o.peerAt.Store(&at)
}

// dialPeer opens a record stream, through the overlay where it is to go there
// and the peer is known in it.
func (o *overlay) dialPeer(ctx context.Context, addr string) (net.Conn, error) {
	if at := o.peerAt.Load(); at != nil {
		if in, ok := (*at)[addr]; ok {
			addr = in
			if o.dialing.Load() != nil {
				return o.DialContext(ctx, "tcp", addr)
			}
		}
	}
	return o.direct.DialContext(ctx, "tcp", addr)
}

// listenSync takes record streams at this POP's address in the overlay, while
// the device is there.
func (o *overlay) listenSync(ctx context.Context, m *replication) {
	if o.cfg.SyncOver != "overlay" || o.syncOf == m {
		return
	}
	if o.endSync != nil { // of a part of the POP that was replaced
		o.endSync()
	}
	port := uint16(m.front.Addr().(*net.TCPAddr).Port)
	ln, err := o.device.Listen(ctx, netip.AddrPortFrom(o.networks.POPSix(o.node), port))
	if err != nil {
		if !o.syncFailed {
			o.log.Info().Err(err).Msg("record streams are not taken in the overlay itself")
		}
		o.syncFailed = true
		return
	}
	o.syncFailed = false
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := m.streams.Serve(ctx, ln); err != nil {
			o.log.Error().Err(err).Msg("record streams in the overlay")
		}
	})
	o.syncOf = m
	o.endSync = func() { cancel(); serving.Wait() }
}
