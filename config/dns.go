package config

import (
	"net"
	"net/netip"
	"strings"

	"github.com/edgeproxy/edgeproxy/mesh"
)

func optionalHostPort(addr string) error {
	if addr == "" {
		return nil
	}
	return hostPort(addr)
}

// domainName takes a name with or without the dot at its end.
func domainName(r raw) (string, error) {
	return strings.TrimSuffix(asciiLower(r.text), "."), nil
}

// mostDomain leaves room for labels of 63 bytes in front.
const mostDomain = 100

func validDomain(name string) error {
	if len(name) > mostDomain || !mesh.IsHostname(name) {
		return fault{what: "is not a domain name of at most 100 characters", hint: "e.g. internal or mesh.example.net"}
	}
	return nil
}

// resolvers are addresses of DNS servers, by default at port 53.
func resolvers(r raw) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, item := range items(r.text) {
		host, port, err := net.SplitHostPort(item)
		if err != nil {
			host, port = strings.TrimSuffix(strings.TrimPrefix(item, "["), "]"), "53"
		}
		at, err := netip.ParseAddrPort(net.JoinHostPort(host, port))
		if err != nil {
			return nil, fault{what: "has " + quote(item) + ", which is no IP address, with or without a port", hint: "e.g. 192.0.2.53 or [2001:db8::53]:5353"}
		}
		out = append(out, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	return out, nil
}

const mostResolvers = 8

func validResolvers(all []netip.AddrPort) error {
	if len(all) > mostResolvers {
		return fault{what: "names more than 8 servers", hint: "two or three will do: the others are asked only when those do not answer"}
	}
	for _, a := range all {
		if a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() {
			return fault{what: "has " + quote(a.String()) + ", where no server can be", hint: "e.g. 192.0.2.53 or [2001:db8::53]:5353"}
		}
	}
	return nil
}
