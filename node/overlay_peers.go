package node

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/wg"
)

var (
	peerName   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)
	regionCode = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
)

// WGPeers implements api.Overlay.
func (n *Node) WGPeers(context.Context) ([]api.WGPeer, error) {
	all := []api.WGPeer{}
	for _, d := range n.overlay.rows.Load().devices {
		p := api.WGPeer{Name: d.Name, Region: d.Region, PublicKey: d.Key.String(), Via: d.Via, Routes: texts(d.Routes)}
		if d.Four.IsValid() {
			p.Address = d.Four.String()
		}
		if d.Six.IsValid() {
			p.Address6 = d.Six.String()
		}
		if d.Endpoint.IsValid() {
			p.Endpoint = d.Endpoint.String()
		}
		all = append(all, p)
	}
	return all, nil
}

// AddWGPeer implements api.Overlay. What it would take from another is refused.
func (n *Node) AddWGPeer(ctx context.Context, p api.WGPeer) (api.WGPeer, error) {
	m, err := n.part()
	if err != nil {
		return p, err
	}
	o := n.overlay
	d, err := parsePeer(p)
	if err != nil {
		return p, err
	}
	d.Claimed = m.now()
	rows := o.rows.Load()
	there := fmt.Errorf("%w: there is a peer %s already: remove it first, or name another", api.ErrConflict, d.Name)
	if slices.ContainsFunc(rows.devices, func(x wg.Device) bool { return x.Name == d.Name }) {
		return p, there
	}
	for _, name := range d.Via {
		if !slices.ContainsFunc(rows.pops, func(x wg.POP) bool { return x.Name == name }) {
			return p, &mesh.FieldError{Field: "via", Message: fmt.Sprintf("no POP %s is in the overlay: \"edgeproxy members\" lists the POPs", name)}
		}
	}
	if slices.ContainsFunc(rows.pops, func(x wg.POP) bool { return x.Name == d.Name }) {
		return p, fmt.Errorf("%w: %s is a POP: name the peer otherwise", api.ErrConflict, d.Name)
	}
	if !d.Four.IsValid() {
		d.Four = o.networks.DeviceFour(d.Name, d.Region, rows.taken(""))
	}
	if !d.Six.IsValid() {
		d.Six = o.networks.DeviceSix(d.Name, d.Region)
	}
	_, problems := wg.Settle(rows.pops, append(slices.Clone(rows.devices), d), o.networks, o.settled())
	for _, problem := range problems {
		if problem.Name == d.Name {
			return p, fmt.Errorf("%w: %s", api.ErrConflict, problem)
		}
	}
	err = n.write(ctx, func(tx *sqlite.Tx) error {
		if _, found, err := tx.Get(sqlite.WGPeers, d.Name); err != nil || found {
			return cmp.Or(err, there)
		}
		return tx.Put(sqlite.WGPeers, d.Name, map[string]any{
			"region": d.Region, "public_key": d.Key.String(), "address": nullAddr(d.Four), "address6": nullAddr(d.Six),
			"endpoint": nullAddrPort(d.Endpoint), "via": null(strings.Join(d.Via, ",")), "routes": null(strings.Join(texts(d.Routes), ",")),
			"claimed_ms": d.Claimed,
		})
	})
	if err != nil {
		return p, err
	}
	o.log.Info().Str("peer", d.Name).Stringer("key", d.Key).Msg("plain peer admitted to the overlay")
	all, _ := n.WGPeers(ctx)
	i := slices.IndexFunc(all, func(x api.WGPeer) bool { return x.Name == d.Name })
	if i < 0 {
		return p, fmt.Errorf("%w: %s is gone again", api.ErrConflict, d.Name)
	}
	return all[i], nil
}

// parsePeer reads what somebody asks for.
func parsePeer(p api.WGPeer) (d wg.Device, err error) {
	bad := func(field, format string, args ...any) (wg.Device, error) {
		return wg.Device{}, &mesh.FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
	}
	d = wg.Device{Name: p.Name, Region: p.Region, Via: p.Via}
	if !peerName.MatchString(p.Name) {
		return bad("name", "%q: want 1 to 63 of A-Z, a-z, 0-9, dot, _ and -", p.Name)
	}
	if !regionCode.MatchString(p.Region) {
		return bad("region", "%q: want 1 to 32 of a-z, 0-9, _ and -", p.Region)
	}
	if d.Key, err = wg.ParseKey(p.PublicKey); err != nil {
		return bad("public_key", "%q: %v", p.PublicKey, err)
	}
	if p.Address != "" {
		if d.Four, err = netip.ParseAddr(p.Address); err != nil || !d.Four.Is4() {
			return bad("address", "%q: want an IPv4 address", p.Address)
		}
	}
	if p.Address6 != "" {
		if d.Six, err = netip.ParseAddr(p.Address6); err != nil || !d.Six.Is6() || d.Six.Is4In6() || d.Six.Zone() != "" {
			return bad("address6", "%q: want an IPv6 address", p.Address6)
		}
	}
	if p.Endpoint != "" {
		r := rowReader{row: []any{p.Endpoint}}
		if d.Endpoint = r.addrPort(0); r.err != nil {
			return bad("endpoint", "%v", r.err)
		}
	}
	for _, name := range p.Via {
		if !peerName.MatchString(name) {
			return bad("via", "%q: want the names of POPs", name)
		}
	}
	for _, text := range p.Routes {
		route, err := netip.ParsePrefix(text)
		if err != nil {
			return bad("routes", "%q: want a network, like 192.168.7.0/24", text)
		}
		d.Routes = append(d.Routes, route)
	}
	return d, nil
}

// RemoveWGPeer implements api.Overlay.
func (n *Node) RemoveWGPeer(ctx context.Context, name string) error {
	err := n.write(ctx, func(tx *sqlite.Tx) error {
		found, err := tx.Delete(sqlite.WGPeers, name)
		if err == nil && !found {
			return api.NotFound("peer", name)
		}
		return err
	})
	if err == nil {
		n.overlay.log.Info().Str("peer", name).Msg("plain peer revoked")
	}
	return err
}
