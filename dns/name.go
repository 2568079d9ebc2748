package dns

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// The lengths of a label and of a name in a packet, in bytes (RFC 1035).
// dns.IsDomainName lets some names with escapes through that are longer, and that
// nobody can unpack.
const (
	mostLabel = 63
	mostName  = 255
)

// label is text as one label of a name, in lower case and as package miekg/dns
// writes what it reads from a packet: bytes that are special in names are
// escaped (RFC 4343). Not ok: no label is that long, or that short.
func label(text string) (string, bool) {
	if text == "" || len(text) > mostLabel {
		return "", false
	}
	var b strings.Builder
	for i := range len(text) {
		switch c := text[i]; {
		case 'A' <= c && c <= 'Z':
			b.WriteByte(c + 'a' - 'A')
		case strings.IndexByte(`. '@;()"\`, c) >= 0:
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, "\\%03d", c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), true
}

// forms are how text is written in a name: as one label, and where it has dots
// also as several, which is how people write it.
func forms(text string) (list []string) {
	if one, ok := label(text); ok {
		list = append(list, one)
	}
	if !strings.Contains(text, ".") {
		return list
	}
	var labels []string
	for part := range strings.SplitSeq(text, ".") {
		l, ok := label(part)
		if !ok {
			return list
		}
		labels = append(labels, l)
	}
	return append(list, strings.Join(labels, "."))
}

// wireLen is how many bytes a name is in a packet, where it is not compressed.
func wireLen(name string) int {
	n := 1
	for i := 0; i < len(name); i++ {
		if n++; name[i] != '\\' {
			continue
		}
		if i++; i+2 < len(name) && '0' <= name[i] && name[i] <= '9' { // \DDD
			i += 2
		}
	}
	return n
}

// parent is the name without its first label.
func parent(name string) string {
	next, end := dns.NextLabel(name, 0)
	if end {
		return "."
	}
	return name[next:]
}

const hexDigits = "0123456789abcdef"

// reverseName is where the PTR records of an address are (RFC 1035, 3596).
func reverseName(a netip.Addr) string {
	if a = a.Unmap(); a.Is4() {
		b := a.As4()
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
	}
	b := a.As16()
	name := make([]byte, 0, 4*len(b)+len("ip6.arpa."))
	for i := len(b) - 1; i >= 0; i-- {
		name = append(name, hexDigits[b[i]&15], '.', hexDigits[b[i]>>4], '.')
	}
	return string(append(name, "ip6.arpa."...))
}

// reverseZone is the zone of the addresses of a network, whose length is a
// multiple of 8.
func reverseZone(p netip.Prefix) string {
	perLabel := 8
	if p.Addr().Is6() {
		perLabel = 4
	}
	name := reverseName(p.Addr())
	for range (p.Addr().BitLen() - p.Bits()) / perLabel {
		name = parent(name)
	}
	return name
}
