package wg

import (
	"fmt"
	"net/netip"
	"strings"
)

// Export is the wg-quick(8) file of a POP or a plain device, without its
// private key, which nobody else has; false where nobody has the name. A POP
// comes before a device.
//
// A plain device gets every POP that it has a tunnel with, each for its own
// addresses, and one of them for everything else in the overlay. It is made
// for the POPs that there are now: one that joins later is not in it.
func (l Layout) Export(name string, r Roster, port uint16, mtu int) (file string, ok bool) {
	v := l.view(name, r)
	if me, is := v.pop(name); is {
		plan := l.Plan(name, r)
		return quick(fmt.Sprintf("POP %s (%s)", me.Name, me.Region), me.Key, plan.Addresses, port, mtu, plan.Peers), true
	}
	for i := range r.Devices {
		if d := &r.Devices[i]; d.Name == name {
			return quick(fmt.Sprintf("%s (%s)", d.Name, d.Region), d.Key, addressesOf(d.Four, d.Six), d.Endpoint.Port(), mtu, v.peersOf(d)), true
		}
	}
	return "", false
}

// peersOf are the POPs that a plain device has tunnels with.
func (v *view) peersOf(d *Device) (peers []Peer) {
	gateway := v.gateway(d)
	for i := range v.roster.POPs {
		p := &v.roster.POPs[i]
		if !d.Tunnels(p.Name) {
			continue
		}
		peer := Peer{Name: p.Name, Key: p.Key, Endpoint: p.Endpoint, AllowedIPs: addressesOf(p.Four, p.Six), Keepalive: keepalive(p.Endpoint)}
		if p.Name == gateway {
			peer.AllowedIPs = []netip.Prefix{v.Networks.Six}
			if v.Networks.Four.IsValid() {
				peer.AllowedIPs = append([]netip.Prefix{v.Networks.Four}, peer.AllowedIPs...)
			}
		}
		peers = append(peers, peer)
	}
	return peers
}

// quick writes the file. Port 0: any.
func quick(who string, key Key, addresses []netip.Prefix, port uint16, mtu int, peers []Peer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# %s in the overlay\n[Interface]\n# PrivateKey = the one of %s\nAddress = %s\nMTU = %d\n", who, key, join(addresses), mtu)
	if port != 0 {
		fmt.Fprintf(&b, "ListenPort = %d\n", port)
	}
	for _, p := range peers {
		fmt.Fprintf(&b, "\n# %s\n[Peer]\nPublicKey = %s\n", p.Name, p.Key)
		if len(p.AllowedIPs) > 0 {
			fmt.Fprintf(&b, "AllowedIPs = %s\n", join(p.AllowedIPs))
		}
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "Endpoint = %s\n", netip.AddrPortFrom(p.Endpoint.Addr().WithZone(""), p.Endpoint.Port()))
		}
		if p.Keepalive > 0 {
			fmt.Fprintf(&b, "PersistentKeepalive = %d\n", int(p.Keepalive.Seconds()))
		}
	}
	return b.String()
}

func join(prefixes []netip.Prefix) string {
	list := make([]string, len(prefixes))
	for i, p := range prefixes {
		list[i] = p.String()
	}
	return strings.Join(list, ", ")
}
