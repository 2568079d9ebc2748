package node

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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

// changedKeys has those POPs expected with the key in their tag, too, whose row
// has another: the row may be on the other side of the tunnel that it opens.
func (o *overlay) changedKeys(pops []wg.POP, members []membership.Member) {
	tags := make(map[string]wg.Key, len(members))
	for _, x := range members {
		if p, ok := o.tagged(x); ok && !x.Self {
			tags[x.Name] = p.Key
		}
	}
	for i := range pops {
		p := &pops[i]
		if key := tags[p.Name]; key != (wg.Key{}) && key != p.Key && p.Next == (wg.Key{}) {
			p.Next = key
		}
	}
}

// streamsThrough notes where the record streams find the other POPs in the
// overlay; those that have none are found outside.
func (o *overlay) streamsThrough(roster wg.Roster, members []membership.Member) {
	if o.cfg.SyncOver != "overlay" {
		return
	}
	in := make(map[string]netip.Addr, len(roster.POPs))
	for _, p := range roster.POPs {
		if in[p.Name] = p.Six; o.noSix != "" || !p.Six.IsValid() {
			in[p.Name] = p.Four
		}
	}
	at := make(map[string]string, len(members))
	for _, x := range members {
		addr, ours := syncAddr(x)
		if !ours || x.Self {
			continue
		}
		at[addr] = addr
		if a := in[x.Name]; a.IsValid() {
			_, port, _ := net.SplitHostPort(addr)
			at[addr] = net.JoinHostPort(a.String(), port)
		}
	}
	o.peerAt.Store(&at)
}

// errNoWay is before a peer's place in the overlay is known.
var errNoWay = errors.New("where it is in the overlay is not known yet")

// dialPeer opens a record stream, through the overlay where it is to go there
// and the peer has one.
func (o *overlay) dialPeer(ctx context.Context, addr string) (net.Conn, error) {
	if o.cfg.SyncOver != "overlay" {
		return o.direct.DialContext(ctx, "tcp", addr)
	}
	known := o.peerAt.Load()
	if known == nil {
		return nil, errNoWay
	}
	in, ok := (*known)[addr]
	switch {
	case !ok:
		return nil, errNoWay
	case in != addr && o.within.Load():
		return o.DialContext(ctx, "tcp", in)
	}
	return o.direct.DialContext(ctx, "tcp", in)
}

// listenSync takes record streams at this POP's addresses in the overlay, while
// the device has them.
func (o *overlay) listenSync(ctx context.Context, m *replication) {
	if o.cfg.SyncOver != "overlay" || o.syncOf == m && slices.Equal(o.syncAt, o.addrs) {
		return
	}
	if o.endSync != nil { // of a part of the POP that was replaced, or other addresses
		o.endSync()
	}
	ctx, cancel := context.WithCancel(ctx)
	port := uint16(m.front.Addr().(*net.TCPAddr).Port)
	var serving sync.WaitGroup
	for _, at := range o.addrs {
		ln, err := o.device.Listen(ctx, netip.AddrPortFrom(at.Addr(), port))
		if err != nil { // one of 0.0.0.0 has it already
			o.log.Debug().Err(err).Msg("record streams are not taken at this address by itself")
			continue
		}
		serving.Go(func() {
			if err := m.streams.Serve(ctx, ln); err != nil {
				o.log.Error().Err(err).Msg("record streams in the overlay")
			}
		})
	}
	o.syncOf, o.syncAt = m, slices.Clone(o.addrs)
	o.endSync = func() {
		cancel()
		ended := make(chan struct{})
		go func() { serving.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(endWithin): // what it serves is stuck, and never ends
		}
	}
}
