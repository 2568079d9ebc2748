package wg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
)

// Networks are the two that the overlay's addresses come from.
type Networks struct {
	Four netip.Prefix // a /16, of which each subnet is a /24; invalid: no IPv4
	Six  netip.Prefix // a /48, by rights of RFC 4193, of which each subnet is a /64
}

// ParseNetworks takes an IPv6 /48 and at most one IPv4 /16.
func ParseNetworks(list []netip.Prefix) (n Networks, err error) {
	for _, p := range list {
		p = p.Masked()
		switch {
		case p.Addr().Is4() && p.Bits() == 16 && !n.Four.IsValid():
			n.Four = p
		case p.Addr().Is6() && p.Bits() == 48 && !n.Six.IsValid():
			n.Six = p
		default:
			return n, fmt.Errorf("%s: want one IPv6 /48 and, beside it, one IPv4 /16 or none", p)
		}
	}
	if !n.Six.IsValid() {
		return n, errors.New("want an IPv6 /48, like fd50:ed9e::/48: every node has an address of it")
	}
	return n, nil
}

// Contains says whether an address is the overlay's.
func (n Networks) Contains(a netip.Addr) bool {
	a = a.Unmap()
	return n.Four.IsValid() && n.Four.Contains(a) || n.Six.Contains(a)
}

// popSubnet is where POPs are; backends stand in their region's.
const popSubnet = 0

// subnet is the number of a region's: the seed's for its four regions, for any
// other one made of its name. Two regions may have one, which does no harm:
// routes are single addresses.
func subnet(region string) uint16 {
	switch region {
	case "sa":
		return 1
	case "us":
		return 2
	case "eu":
		return 3
	case "ap":
		return 4
	}
	return 5 + uint16(hash("region", region)%250)
}

// POPSix is a POP's IPv6 address, which follows from its name alone: nobody
// else can claim it.
func (n Networks) POPSix(name string) netip.Addr { return n.six(popSubnet, "pop", name) }

// DeviceSix is a plain device's, likewise of its name and region.
func (n Networks) DeviceSix(name, region string) netip.Addr {
	return n.six(subnet(region), "device", name)
}

func (n Networks) six(subnet uint16, kind, name string) netip.Addr {
	a := n.Six.Addr().As16()
	binary.BigEndian.PutUint16(a[6:], subnet)
	binary.BigEndian.PutUint64(a[8:], hash(kind, name))
	return netip.AddrFrom16(a)
}

// POPFour is the first free IPv4 address from the one that the name makes; the
// zero Addr where the 254 of the subnet are taken, or there are none.
func (n Networks) POPFour(name string, taken func(netip.Addr) bool) netip.Addr {
	return n.four(popSubnet, "pop", name, taken)
}

// DeviceFour is a plain device's, likewise, in the subnet of its region.
func (n Networks) DeviceFour(name, region string, taken func(netip.Addr) bool) netip.Addr {
	return n.four(subnet(region), "device", name, taken)
}

func (n Networks) four(subnet uint16, kind, name string, taken func(netip.Addr) bool) netip.Addr {
	if !n.Four.IsValid() {
		return netip.Addr{}
	}
	const hosts = 254 // .0 and .255 are left alone
	a, first := n.Four.Addr().As4(), hash(kind, name)
	a[2] = byte(subnet)
	for i := range uint64(hosts) {
		a[3] = byte(1 + (first+i)%hosts)
		if at := netip.AddrFrom4(a); !taken(at) {
			return at
		}
	}
	return netip.Addr{}
}

// own is the address with the length of its network: an interface that has it
// has a route to the whole network.
func (n Networks) own(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(a, n.Four.Bits())
	}
	return netip.PrefixFrom(a, n.Six.Bits())
}

// alone is an address as a route.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// hash is FNV-1a of the two names (Fowler, Noll, Vo) and SplitMix64's
// finalizer, since FNV's last bytes mix badly.
func hash(a, b string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(a))
	h.Write([]byte{0})
	h.Write([]byte(b))
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
