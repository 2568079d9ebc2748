package device

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocolOurs marks our routes among the interface's (rtnetlink(7)): another
// than the kernel's, the administrator's and those of routing daemons.
const protocolOurs = 157

func (l *systemLink) setRoutes(routes []netip.Prefix) error {
	for _, r := range routes {
		err := netlink.RouteReplace(&netlink.Route{LinkIndex: l.link.Attrs().Index, Dst: &net.IPNet{IP: r.Addr().AsSlice(), Mask: mask(r)}, Scope: netlink.SCOPE_LINK, Protocol: protocolOurs})
		if err != nil {
			return l.failed("add route "+r.String(), err)
		}
	}
	present, err := netlink.RouteList(l.link, netlink.FAMILY_ALL)
	if err != nil {
		return l.failed("list its routes", err)
	}
	for _, r := range present {
		if r.Protocol != protocolOurs || r.Dst == nil {
			continue
		}
		addr, _ := netip.AddrFromSlice(r.Dst.IP)
		ones, _ := r.Dst.Mask.Size()
		if slices.Contains(routes, netip.PrefixFrom(addr.Unmap(), ones)) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return l.failed("remove route "+r.Dst.String(), err)
		}
	}
	return nil
}
