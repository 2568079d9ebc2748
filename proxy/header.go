package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	proxyproto "github.com/pires/go-proxyproto"
)

// maxHeader bounds a version 2 header with its TLVs. The addresses take at
// most 216 bytes; load balancers add a few hundred.
const maxHeader = 4096

var (
	errNoHeader   = errors.New("no PROXY header: this address is in EDGEPROXY_TRUSTED_PROXIES and must send one")
	errLongHeader = fmt.Errorf("PROXY header longer than %d bytes", maxHeader)
)

var signature2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

// headerLength finds how long the PROXY header at the beginning of b is, as
// the specification frames it (haproxy.org/download/2.6/doc/proxy-protocol.txt):
// 0 while b does not show it yet.
func headerLength(b []byte) (int, error) {
	switch {
	case bytes.HasPrefix(b, signature2[:min(len(b), len(signature2))]):
		if len(b) < 16 {
			return 0, nil
		}
		n := 16 + int(b[14])<<8 + int(b[15])
		if n > maxHeader {
			return 0, errLongHeader
		}
		if n > len(b) {
			n = 0
		}
		return n, nil
	case bytes.HasPrefix(b, []byte("PROXY ")[:min(len(b), 6)]):
		const longest = 107 // of version 1, CR LF included
		if i := bytes.IndexByte(b[:min(len(b), longest)], '\n'); i >= 0 {
			return i + 1, nil
		}
		if len(b) >= longest {
			return 0, errLongHeader
		}
		return 0, nil
	}
	return 0, errNoHeader
}

// proxied is what a PROXY header names: who the client is, and where it
// connected to.
type proxied struct{ src, dst netip.AddrPort }

// parseHeader returns the addresses that a complete header names, zero ones
// where it names none (LOCAL, UNKNOWN, UNSPEC, a Unix socket).
func parseHeader(b []byte) (proxied, error) {
	// PROXY with family UNSPEC is legal ("the receiver should ignore
	// addresses"), but the library refuses it.
	if len(b) >= 16 && b[0] == '\r' && b[12] == 0x21 && b[13]>>4 == 0 {
		return proxied{}, nil
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return proxied{}, err
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnspec() {
		return proxied{}, nil
	}
	src, ok := h.SourceAddr.(*net.TCPAddr)
	dst, too := h.DestinationAddr.(*net.TCPAddr)
	if !ok || !too || src == nil || dst == nil {
		return proxied{}, nil
	}
	return proxied{src.AddrPort(), dst.AddrPort()}, nil
}

// scanHeader finds the header at the beginning of b and what address it names.
// A length of 0 without an error: it is not complete.
func scanHeader(b []byte) (from proxied, length int, err error) {
	if len(b) == 0 {
		return from, 0, nil
	}
	if length, err = headerLength(b); length > 0 {
		from, err = parseHeader(b[:length])
	}
	return from, length, err
}
