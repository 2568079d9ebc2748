package config

import (
	"net/netip"
	"regexp"
)

var interfacePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,14}$`) // Linux: 15 bytes

func interfaceName(s string) error {
	if !interfacePattern.MatchString(s) {
		return fault{what: "is not the name of a network interface", hint: "e.g. wg0"}
	}
	return nil
}

func endpoint(s string) error {
	if s == "" || s == "none" {
		return nil
	}
	at, err := netip.ParseAddrPort(s)
	if err != nil || at.Port() == 0 || at.Addr().Zone() != "" || at.Addr().IsUnspecified() || at.Addr().IsMulticast() {
		return fault{what: "is not where others could send a packet", hint: "e.g. 198.51.100.7:51820 or [2001:db8::7]:51820"}
	}
	return nil
}

// overlayNetworks are one IPv6 /48 and at most one IPv4 /16.
func overlayNetworks(list []netip.Prefix) error {
	four, six := 0, 0
	for _, p := range list {
		switch {
		case p.Addr().Is4() && p.Bits() == 16:
			four++
		case p.Addr().Is6() && p.Bits() == 48:
			six++
		default:
			return fault{what: "has " + quote(p.String()) + ", which is no IPv6 /48 and no IPv4 /16", hint: "e.g. 10.50.0.0/16,fd50:ed9e::/48"}
		}
	}
	if six != 1 || four > 1 {
		return fault{what: "is not one IPv6 /48 and, beside it, one IPv4 /16 or none", hint: "e.g. 10.50.0.0/16,fd50:ed9e::/48"}
	}
	return nil
}

func names(r raw) ([]string, error) {
	out := items(r.text)
	return out, validNames(out)
}

func validNames(all []string) error {
	for _, item := range all {
		if !nodePattern.MatchString(item) {
			return fault{what: "has " + quote(item) + ", which is not a node name", hint: "e.g. sa-1,us-1"}
		}
	}
	return nil
}
