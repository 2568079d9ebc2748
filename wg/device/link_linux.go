package device

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// systemLink is an interface of Linux that is ours: its addresses, and so the
// connected routes, and whether it forwards. Packets go through the kernel's
// sockets.
type systemLink struct {
	name   string
	link   netlink.Link
	log    zerolog.Logger
	remove func() error // nil: the interface goes with whoever holds it open
}

// linkNamed is nil where there is none.
func linkNamed(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for interface %s: %w", name, err)
	}
	return l, nil
}

// present is for what goes by the name: someone may have deleted ours and made another.
func (l *systemLink) present() error {
	now, err := linkNamed(l.name)
	if err == nil && (now == nil || now.Attrs().Index != l.link.Attrs().Index) {
		return gone(l.name)
	}
	return err
}

// up sets the MTU, too.
func (l *systemLink) up(mtu int) error {
	if err := netlink.LinkSetMTU(l.link, mtu); err != nil {
		return l.failed(fmt.Sprintf("set its MTU to %d", mtu), err)
	}
	if err := netlink.LinkSetUp(l.link); err != nil {
		return l.failed("set it up", err)
	}
	return nil
}

func (l *systemLink) failed(what string, err error) error {
	if errors.Is(err, unix.EPERM) {
		err = ErrRights
	}
	return fmt.Errorf("interface %s: %s: %w", l.name, what, err)
}

// setAddresses adds before it removes. With the first address of an IPv4
// network Linux removes the later ones of the same, unless promote_secondaries
// says otherwise: so what is wanted is added once more.
func (l *systemLink) setAddresses(addresses []netip.Prefix) error {
	if err := l.present(); err != nil {
		return err
	}
	if err := l.unclaimed(addresses); err != nil {
		return err
	}
	if slices.ContainsFunc(addresses, func(a netip.Prefix) bool { return a.Addr().Is6() }) {
		l.enableIPv6()
	}
	if err := l.add(addresses); err != nil {
		return err
	}
	present, err := netlink.AddrList(l.link, netlink.FAMILY_ALL)
	if err != nil {
		return l.failed("list its addresses", err)
	}
	removed := false
	for _, a := range present {
		p, ok := prefixOf(a)
		if !ok || slices.Contains(addresses, p) || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if err := netlink.AddrDel(l.link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return l.failed("remove address "+p.String(), err)
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return l.add(addresses)
}

func (l *systemLink) add(addresses []netip.Prefix) error {
	for _, a := range addresses {
		address := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: mask(a)}}
		if a.Addr().Is6() {
			address.Flags = unix.IFA_F_NODAD // nobody else can have it here, and it is usable at once
		}
		err := netlink.AddrReplace(l.link, address)
		if a.Addr().Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			err = ErrNoIPv6
		}
		if err != nil {
			return l.failed("add address "+a.String(), err)
		}
	}
	return nil
}

// unclaimed refuses an address that another interface has: what is for the
// overlay would stay on this machine.
func (l *systemLink) unclaimed(addresses []netip.Prefix) error {
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of this machine: %w", err)
	}
	for _, present := range all {
		p, ok := prefixOf(present)
		if !ok || present.LinkIndex == l.link.Attrs().Index {
			continue
		}
		for _, a := range addresses {
			if a.Addr() == p.Addr() {
				return fmt.Errorf("address %s %w, %s's: remove it there, or give this POP another", a.Addr(), ErrAddress, linkName(present.LinkIndex))
			}
		}
	}
	return nil
}

func linkName(index int) string {
	if l, err := netlink.LinkByIndex(index); err == nil {
		return l.Attrs().Name
	}
	return fmt.Sprintf("interface number %d", index)
}

func prefixOf(a netlink.Addr) (netip.Prefix, bool) {
	if a.IPNet == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(a.IP)
	ones, _ := a.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

func (l *systemLink) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (l *systemLink) listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", at.String())
}

func (l *systemLink) close() error {
	if l.remove == nil {
		return nil
	}
	return l.remove()
}
