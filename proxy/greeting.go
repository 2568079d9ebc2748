package proxy

import (
	"net"
	"net/netip"

	"github.com/edgeproxy/edgeproxy/mesh"
	proxyproto "github.com/pires/go-proxyproto"
)

// greetingRoom is more than a PROXY header with two addresses, a name (at most
// 253 bytes), a protocol (255) and what version 2 puts around them takes.
const greetingRoom = 1 << 10

// greeting is the PROXY header that a backend is sent before the client's bytes:
// who the client is, and where it connected to. Version 2 also says which name
// a TLS client asked for (PP2_TYPE_AUTHORITY) and, where the TLS is ours, on which
// protocol we agreed (PP2_TYPE_ALPN).
func (a *account) greeting(v mesh.ProxyVersion, local netip.AddrPort) []byte {
	if a.local.IsValid() {
		local = a.local
	}
	h := proxyproto.HeaderProxyFromAddrs(byte(v), net.TCPAddrFromAddrPort(withoutZone(a.peer)), net.TCPAddrFromAddrPort(withoutZone(local)))
	if v == mesh.ProxyV2 && a.hello != nil {
		var tlvs []proxyproto.TLV
		for _, t := range [...]struct {
			kind  proxyproto.PP2Type
			value string
		}{{proxyproto.PP2_TYPE_AUTHORITY, a.hello.name}, {proxyproto.PP2_TYPE_ALPN, a.hello.alpn}} {
			if t.value != "" {
				tlvs = append(tlvs, proxyproto.TLV{Type: t.kind, Value: []byte(t.value)})
			}
		}
		_ = h.SetTLVs(tlvs) // fails only above 65,535 bytes
	}
	b, err := h.Format()
	if err != nil { // of addresses that are none: the backend still has to get a header
		return v.Local()
	}
	return b
}

func withoutZone(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
}
