package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	proxyproto "github.com/pires/go-proxyproto"
)

// header2 is a version 2 header: version and command, family, payload.
func header2(command, family byte, payload ...byte) string {
	b := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), command, family)
	return string(append(binary.BigEndian.AppendUint16(b, uint16(len(payload))), payload...))
}

// addresses is a payload: source and destination, ports 4000 and 443.
func addresses(src, dst string) []byte {
	b := append(netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, 4000), 443)
}

// tlv is one that load balancers send: AWS' VPC endpoint id.
var tlv = append([]byte{0xEA, 0, 5, 1}, "vpce"...)

// goodHeaders are legal, and what address they name; none: the socket's counts.
var goodHeaders = []struct{ name, header, from string }{
	{"v1 TCP4", "PROXY TCP4 203.0.113.7 198.51.100.1 4000 443\r\n", "203.0.113.7:4000"},
	{"v1 TCP6", "PROXY TCP6 2001:db8::7 2001:db8::1 4000 443\r\n", "[2001:db8::7]:4000"},
	{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", ""},
	{"v1 UNKNOWN with rest", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ""},
	{"v2 PROXY IPv4", header2(0x21, 0x11, addresses("203.0.113.7", "198.51.100.1")...), "203.0.113.7:4000"},
	{"v2 PROXY IPv4 with TLV", header2(0x21, 0x11, append(addresses("203.0.113.7", "198.51.100.1"), tlv...)...), "203.0.113.7:4000"},
	{"v2 PROXY IPv6", header2(0x21, 0x21, addresses("2001:db8::7", "2001:db8::1")...), "[2001:db8::7]:4000"},
	{"v2 PROXY IPv6 with TLV", header2(0x21, 0x21, append(addresses("2001:db8::7", "2001:db8::1"), tlv...)...), "[2001:db8::7]:4000"},
	{"v2 PROXY IPv4 in IPv6", header2(0x21, 0x21, addresses("::ffff:203.0.113.7", "::1")...), "203.0.113.7:4000"},
	{"v2 PROXY UNSPEC", header2(0x21, 0x00), ""},
	{"v2 PROXY UNSPEC with TLV", header2(0x21, 0x00, tlv...), ""},
	{"v2 PROXY UDP", header2(0x21, 0x12, addresses("203.0.113.7", "198.51.100.1")...), ""},
	{"v2 PROXY Unix", header2(0x21, 0x31, append([]byte("/run/client"), make([]byte, 205)...)...), ""},
	{"v2 LOCAL", header2(0x20, 0x00), ""},
	{"v2 LOCAL with TLV", header2(0x20, 0x00, tlv...), ""},
	{"v2 LOCAL that names an address", header2(0x20, 0x11, addresses("203.0.113.7", "198.51.100.1")...), ""},
	{"v2 as long as can be", header2(0x21, 0x11, append(addresses("203.0.113.7", "198.51.100.1"), make([]byte, maxHeader-16-12)...)...), "203.0.113.7:4000"},
}

// badHeaders are refused as soon as what has come shows that they are bad:
// none of these ends, and none waits for the timeout.
var badHeaders = []struct{ name, header string }{
	{"HTTP", "GET / HTTP/1.1\r\n"},
	{"one byte of TLS", "\x16"},
	{"almost v1", "PROXX TCP4 "},
	{"v1 in lower case", "proxy TCP4 203.0.113.7 198.51.100.1 4000 443\r\n"},
	{"v1 without CR", "PROXY TCP4 203.0.113.7 198.51.100.1 4000 443\n"},
	{"v1 without CRLF", "PROXY TCP4 " + strings.Repeat("1", 200)},
	{"v1 of 108 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n"},
	{"v1 of another family", "PROXY UDP4 203.0.113.7 198.51.100.1 4000 443\r\n"},
	{"v1 with a name", "PROXY TCP4 example.net 198.51.100.1 4000 443\r\n"},
	{"v1 with port 65536", "PROXY TCP4 203.0.113.7 198.51.100.1 65536 443\r\n"},
	{"v1 without ports", "PROXY TCP4 203.0.113.7 198.51.100.1\r\n"},
	{"almost v2", "\r\n\r\n\x00\r\nQUIX"},
	{"v2 of 65535 bytes", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff"},
	{"v2 too long by one", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x0f\xf1"},
	{"v2 of version 3", header2(0x31, 0x11, addresses("203.0.113.7", "198.51.100.1")...)},
	{"v2 with command 2", header2(0x22, 0x11, addresses("203.0.113.7", "198.51.100.1")...)},
	{"v2 too short for its addresses", header2(0x21, 0x11, 1, 2, 3)},
	{"v2 of family 4", header2(0x21, 0x41, addresses("203.0.113.7", "198.51.100.1")...)},
}

// pieces gives its data in reads of the given sizes, and then nothing until
// the deadline.
type pieces struct {
	data  []byte
	sizes func() int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	n := copy(b[:min(len(b), max(1, p.sizes()))], p.data)
	p.data = p.data[n:]
	return n, nil
}

// Headers are understood, whole or byte by byte, and what follows is kept.
func TestReadHeader(t *testing.T) {
	for _, h := range goodHeaders {
		for _, size := range []int{1, 2, 7, 1 << 20} {
			const data = "PROXY data behind it\r\n"
			conn := &pieces{data: []byte(h.header + data), sizes: func() int { return size }}
			from, rest, err := readHeader(conn, make([]byte, bufferSize))
			if err != nil {
				t.Errorf("%s in pieces of %d: %v", h.name, size, err)
				continue
			}
			var want netip.AddrPort
			if h.from != "" {
				want = netip.MustParseAddrPort(h.from)
			}
			if unmap(from) != want {
				t.Errorf("%s in pieces of %d: from %v, want %v", h.name, size, from, want)
			}
			if got := string(rest) + string(conn.data); got != data {
				t.Errorf("%s in pieces of %d: %q follows, want %q", h.name, size, got, data)
			}
		}
	}
}

// Headers are refused by what they say, never by waiting for more.
func TestReadHeaderRefuses(t *testing.T) {
	for _, h := range badHeaders {
		for _, size := range []int{1, 1 << 20} {
			conn := &pieces{data: []byte(h.header), sizes: func() int { return size }}
			if from, _, err := readHeader(conn, make([]byte, bufferSize)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s in pieces of %d: from %v, %v; want it refused", h.name, size, from, err)
			}
		}
	}
	conn := &pieces{data: []byte("PROXY TCP4"), sizes: func() int { return 3 }}
	if _, _, err := readHeader(conn, make([]byte, bufferSize)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("half a header and silence: %v, want the deadline", err)
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range goodHeaders {
		f.Add([]byte(h.header+"data"), uint8(3))
	}
	for _, h := range badHeaders {
		f.Add([]byte(h.header), uint8(200))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		length, err := headerLength(append(b, 0)[:len(b)])
		if len(b) == 0 {
			return // readHeader never asks about nothing
		}
		if length < 0 || length > len(b) || length > maxHeader || err != nil && length != 0 {
			t.Fatalf("headerLength = %d, %v of %d bytes", length, err, len(b))
		}
		// Fewer bytes say less, never something else.
		for i := 1; i < len(b) && i <= maxHeader+1; i++ {
			n, perr := headerLength(b[:i])
			switch {
			case perr != nil && err == nil:
				t.Fatalf("%d bytes refused (%v), %d accepted", i, perr, len(b))
			case n != 0 && n != length:
				t.Fatalf("length %d by %d bytes, %d by all %d", n, i, length, len(b))
			case length > 0 && i < length && n != 0:
				t.Fatalf("a header of %d bytes complete after %d", length, i)
			}
		}

		conn := &pieces{data: bytes.Clone(b), sizes: func() int { return int(size) }}
		from, rest, rerr := readHeader(conn, make([]byte, bufferSize))
		if rerr != nil {
			if errors.Is(rerr, os.ErrDeadlineExceeded) && (length > 0 || err != nil) {
				t.Fatalf("readHeader waits for more than %d bytes; headerLength = %d, %v", len(b), length, err)
			}
			return
		}
		if length == 0 {
			t.Fatalf("readHeader accepts what headerLength does not: %d, %v", length, err)
		}
		if got := append(bytes.Clone(rest), conn.data...); !bytes.Equal(got, b[length:]) {
			t.Fatalf("%d bytes follow a header of %d, want %d", len(got), length, len(b)-length)
		}

		// The library frames it alike and names the same source, where it
		// accepts it at all.
		reader := bufio.NewReaderSize(bytes.NewReader(b), len(b)+16)
		h, lerr := proxyproto.Read(reader)
		if lerr != nil {
			return
		}
		left, _ := io.ReadAll(reader)
		if consumed := len(b) - len(left); consumed != length {
			t.Fatalf("the library takes %d bytes, we %d", consumed, length)
		}
		if tcp, ok := h.SourceAddr.(*net.TCPAddr); ok && !h.Command.IsLocal() && tcp.AddrPort() != from {
			t.Fatalf("the library says from %v, we %v", tcp, from)
		}
	})
}

// readHeader reads a PROXY header into buf as a prelude is read, and what came
// with it.
func readHeader(r io.Reader, buf []byte) (from netip.AddrPort, early []byte, err error) {
	for have := 0; ; {
		n, err := r.Read(buf[have:])
		have += n
		if from, length, herr := scanHeader(buf[:have]); length > 0 || herr != nil {
			return from.src, buf[length:have], herr
		}
		if err != nil {
			return from, nil, err
		}
	}
}
