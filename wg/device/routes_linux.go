package device

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocolOurs marks our routes among the interface's (rtnetlink(7)): another
// than the kernel's, the administrator's and those of routing daemons.
const protocolOurs = 157

// setRoutes never takes the place of a route that is not ours: what is behind a
// peer may be right here, too. One that cannot be set keeps no other back.
func (l *systemLink) setRoutes(routes []netip.Prefix) error {
	present, err := netlink.RouteList(l.link, netlink.FAMILY_ALL)
	if err != nil {
		return l.failed("list its routes", err)
	}
	var errs []error
	have := map[netip.Prefix]bool{}
	for _, r := range present {
		if r.Protocol != protocolOurs || r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		p := netip.PrefixFrom(addr.Unmap(), ones)
		if have[p] = slices.Contains(routes, p); have[p] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, l.failed("remove route "+p.String(), err))
		}
	}
	for _, r := range routes {
		if !have[r] {
			errs = append(errs, l.addRoute(r))
		}
	}
	return errors.Join(errs...)
}

func (l *systemLink) addRoute(r netip.Prefix) error {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of this machine: %w", err)
	}
	for _, a := range addresses {
		if p, ok := prefixOf(a); ok && a.LinkIndex != l.link.Attrs().Index && r.Contains(p.Addr()) {
			return fmt.Errorf("route %s is not set here: %s has the address %s in it", r, linkName(a.LinkIndex), p.Addr())
		}
	}
	err = netlink.RouteAdd(&netlink.Route{LinkIndex: l.link.Attrs().Index, Dst: &net.IPNet{IP: r.Addr().AsSlice(), Mask: mask(r)}, Scope: netlink.SCOPE_LINK, Protocol: protocolOurs})
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("route %s is not set here: this machine has another to it", r)
	}
	if err != nil {
		return l.failed("add route "+r.String(), err)
	}
	return nil
}
