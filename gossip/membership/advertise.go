package membership

import (
	"net"
	"net/netip"
)

// guessAdvertise finds what others can dial, where nobody said: the address
// that is bound, or that of the default route, or the first of an interface
// (private ones before public ones), or loopback.
func guessAdvertise(bound netip.Addr) netip.Addr {
	if !bound.IsUnspecified() {
		return bound
	}
	if a, ok := routeSource(); ok {
		return a
	}
	var first netip.Addr
	for _, a := range localAddrs() {
		if a.IsLoopback() || !a.IsGlobalUnicast() {
			continue
		}
		if a.IsPrivate() && a.Is4() {
			return a
		}
		if !first.IsValid() {
			first = a
		}
	}
	if first.IsValid() {
		return first
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// routeSource asks the kernel from which address it would send to the rest of
// the world (documentation addresses, RFC 5737 and 3849); connecting a UDP
// socket sends nothing. Unlike the first private address it is never that of a
// container bridge.
func routeSource() (netip.Addr, bool) {
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			continue
		}
		a := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = c.Close()
		if a.IsGlobalUnicast() && !a.IsLoopback() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// localAddrs lists the addresses of this machine's interfaces that are up.
func localAddrs() []netip.Addr {
	var out []netip.Addr
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out = append(out, p.Addr().Unmap())
			}
		}
	}
	return out
}
