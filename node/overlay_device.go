package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/edgeproxy/edgeproxy/wg/device"
)

func (o *overlay) fail(err error) {
	if o.broken != err.Error() {
		o.log.Error().Err(err).Msg("overlay does not work: serving without it")
	}
	o.broken = err.Error()
}

// open makes the device, of the first kind that works. The rest of the POP asks
// for it before it serves: which kind it is says how connections are relayed.
func (o *overlay) open(now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.openLocked(now)
}

func (o *overlay) openLocked(now time.Time) {
	if o.off() || o.closed || o.device != nil || now.Before(o.retry) {
		return
	}
	o.retry = now.Add(overlayAgain)
	if err := o.keys.open(); err != nil {
		o.fail(err)
		return
	}
	modes := []device.Mode{device.Mode(o.cfg.WG)}
	if o.cfg.WG == "auto" {
		modes = []device.Mode{device.Kernel, device.TUN, device.Netstack}
	}
	if o.mode != "" {
		modes = []device.Mode{o.mode} // connections are relayed as it needs
	}
	var failures []string
	for _, mode := range modes {
		cfg := device.Config{
			Mode: mode, Interface: o.cfg.WGInterface, Port: uint16(o.cfg.WGPort), PrivateKey: o.keys.private(),
			Addresses: o.addresses(), MTU: o.cfg.WGMTU, Node: o.node,
		}
		o.noSix = ""
		d, err := device.Open(cfg, o.log)
		if errors.Is(err, device.ErrNoIPv6) { // half of an overlay is better than none
			o.noSix = err.Error()
			o.log.Warn().Err(err).Msg("overlay without IPv6")
			cfg.Addresses = o.possible(cfg.Addresses)
			d, err = device.Open(cfg, o.log)
		}
		if err != nil {
			failures = append(failures, fmt.Sprintf("%s: %v", mode, err))
			if elsewhere(err) {
				continue
			}
			break
		}
		if len(failures) > 0 {
			o.log.Info().Str("mode", string(mode)).Strs("instead_of", failures).Msg("overlay")
		}
		o.device, o.mode, o.broken, o.addrs, o.plan = d, mode, "", cfg.Addresses, wg.Plan{}
		o.reach.Store(nil)
		if mode == device.Netstack {
			o.within.Store(true)
			o.dialing.Store(d)
		}
		o.log.Info().Str("mode", string(mode)).Str("interface", o.cfg.WGInterface).Uint16("port", d.Port()).Msg("overlay up")
		if m := o.part(); m != nil && m.ring != nil {
			m.retagSoon() // the key may be new
		}
		return
	}
	o.fail(errors.New(strings.Join(failures, "; ")))
}

// elsewhere says whether another kind of device may do. Where the interface, the
// port or an address is another's, a device beside it would only hide that.
func elsewhere(err error) bool {
	for _, lacks := range []error{device.ErrNoKernel, device.ErrNoTUN, device.ErrRights, device.ErrUnsupported} {
		if errors.Is(err, lacks) {
			return true
		}
	}
	return false
}

// addresses are this POP's by its row; before there is one, the one that
// follows from its name.
func (o *overlay) addresses() []netip.Prefix {
	own, _ := o.rows.Load().own(o.node)
	own.Name, own.Six = o.node, o.networks.POPSix(o.node)
	if !own.Four.IsValid() || !o.networks.Contains(own.Four) {
		own.Four = netip.Addr{}
	}
	return o.layout.Plan(o.node, wg.Roster{POPs: []wg.POP{own}}).Addresses
}

// possible is what of the addresses the device can have.
func (o *overlay) possible(addrs []netip.Prefix) []netip.Prefix {
	if o.noSix == "" {
		return addrs
	}
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// six is this POP's IPv6 address; none where the machine has no IPv6.
func (o *overlay) six() netip.Addr {
	if o.noSix != "" {
		return netip.Addr{}
	}
	return o.networks.POPSix(o.node)
}

// userspace says whether backends in the overlay are reached through a stack in
// this process only.
func (o *overlay) userspace() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mode == device.Netstack || o.mode == "" && (o.cfg.WG == "auto" || o.cfg.WG == string(device.Netstack))
}

// close takes the device down for good: another process may have it now.
func (o *overlay) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.dropLocked()
}

// dropLocked closes the device.
func (o *overlay) dropLocked() {
	if o.endSync != nil {
		o.endSync()
		o.endSync, o.syncOf = nil, nil
	}
	if o.device != nil {
		o.dialing.Store(nil)
		if err := o.device.Close(); err != nil {
			o.log.Warn().Err(err).Msg("overlay not taken down whole")
		}
		o.device = nil
	}
}

// Reaches says whether an address is reached through DialContext only: it is in
// the overlay, and the overlay is in this process. It is asked for every connection.
func (o *overlay) Reaches(a netip.Addr) bool {
	if !o.within.Load() {
		return false
	}
	if o.networks.Contains(a) {
		return true
	}
	if routes := o.reach.Load(); routes != nil {
		for _, r := range *routes {
			if r.Contains(a) {
				return true
			}
		}
	}
	return false
}

// DialContext connects through the overlay in this process.
func (o *overlay) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	d := o.dialing.Load()
	if d == nil {
		return nil, errors.New("the overlay does not work now")
	}
	return d.DialContext(ctx, network, addr)
}
