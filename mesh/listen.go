package mesh

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Mode is what a service's listeners do with a connection before they relay it.
type Mode string

const (
	TCP            Mode = "tcp"             // nothing
	TLSPassthrough Mode = "tls-passthrough" // they read which name the client asks for; the backend has the certificate
	TLSTerminate   Mode = "tls-terminate"   // they have the certificate; the backend is sent what was encrypted
)

// TLS says whether the client has to begin with a TLS handshake.
func (m Mode) TLS() bool { return m == TLSPassthrough || m == TLSTerminate }

// ProxyVersion is the version of the PROXY protocol that a backend is sent.
type ProxyVersion uint8

const (
	ProxyOff ProxyVersion = iota
	ProxyV1
	ProxyV2
)

var proxyVersions = [...]string{"off", "v1", "v2"}

func (v ProxyVersion) String() string { return proxyVersions[v] }

// Local is the header of a connection that no client has made, such as a health
// check: it names nobody.
func (v ProxyVersion) Local() []byte {
	switch v {
	case ProxyV1:
		return []byte("PROXY UNKNOWN\r\n")
	case ProxyV2:
		return []byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
	}
	return nil
}

// Bounds of what anybody may write into a row.
const (
	maxListen = 16 // addresses of a service
	maxSNI    = 256
	maxALPN   = 16
	maxDNS    = 253 // bytes of a DNS name

	maxSpan = 365 * 24 * time.Hour
)

// listening reads what a row says of its listeners and of the connections that
// come to them. What makes no sense is left out; where the connections would be
// served in another way than was meant, the service does not listen.
func (s *Service) listening(p *parser, row []any) {
	s.Listen = p.list("listen", row[5], maxListen, listenAddr)
	s.Mode = p.mode("mode", row[6])
	s.SNI = p.list("sni", row[7], maxSNI, sniName)
	s.ALPN = p.list("alpn", row[8], maxALPN, alpnName)
	if n := p.integer("affinity_ttl", row[9], 0, 0, int64(maxSpan/time.Second)); row[9] != nil && !p.failed("affinity_ttl") {
		s.AffinityTTL = new(time.Duration(n) * time.Second)
	}
	s.ProxyOut, _ = p.proxyVersion("proxy_protocol", row[10])
	if n := p.integer("connect_timeout_ms", row[11], 0, 0, int64(10*time.Minute/time.Millisecond)); !p.failed("connect_timeout_ms") {
		s.ConnectTimeout = time.Duration(n) * time.Millisecond
	}
	if n := p.integer("idle_timeout_secs", row[12], 0, 0, int64(maxSpan/time.Second)); !p.failed("idle_timeout_secs") {
		s.IdleTimeout = time.Duration(n) * time.Second
	}
	if n := p.integer("max_connections", row[13], 0, 0, MaxNumber); !p.failed("max_connections") {
		s.MaxConnections = n
	}
	if !p.failed("mode") && len(s.Listen) > 0 && s.Mode.TLS() != (len(s.SNI) > 0) {
		if s.Mode.TLS() {
			p.fail("sni", "is empty: with mode %s name the clients' names for it, or * for all of them", s.Mode)
		} else {
			p.fail("sni", "needs mode tls-passthrough or tls-terminate: with mode tcp no name is read")
		}
		s.Listen = nil
	}
	if p.failed("mode") || p.failed("proxy_protocol") {
		s.Listen = nil
	}
}

func (p *parser) mode(field string, v any) Mode {
	s, ok := p.text(field, v)
	s = strings.ToLower(strings.TrimSpace(s))
	switch m := Mode(s); {
	case p.failed(field) || !ok || s == "":
	case m == TCP || m.TLS():
		return m
	default:
		p.fail(field, "%q is none of tcp, tls-passthrough and tls-terminate", clip(s))
	}
	return TCP
}

// proxyVersion also says whether the column says anything.
func (p *parser) proxyVersion(field string, v any) (ProxyVersion, bool) {
	s, ok := p.text(field, v)
	s = strings.ToLower(strings.TrimSpace(s))
	if p.failed(field) || !ok || s == "" {
		return ProxyOff, false
	}
	i := slices.Index(proxyVersions[:], s)
	if i < 0 {
		p.fail(field, "%q is none of off, v1 and v2", clip(s))
		return ProxyOff, false
	}
	return ProxyVersion(i), true
}

// list reads words separated by commas or blanks, each as one makes of it. Of
// several mistakes the first is named, and what is right counts.
func (p *parser) list(field string, v any, most int, one func(string) (string, string)) (list []string) {
	s, _ := p.text(field, v)
	if p.failed(field) {
		return nil
	}
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' || r == '\r' })
	if len(words) > most {
		p.fail(field, "has %d entries, at most %d are allowed", len(words), most)
		return nil
	}
	for _, w := range words {
		word, why := one(w)
		if why != "" {
			p.fail(field, "%q %s", clip(w), why)
			continue
		}
		if !slices.Contains(list, word) {
			list = append(list, word)
		}
	}
	return list
}

// listenAddr makes an address to listen on of 443, :443, *:443, 0.0.0.0:443 and
// [::]:443, which are :443, every address of the machine, and of ip:port.
func listenAddr(s string) (addr, why string) {
	port := strings.TrimPrefix(strings.TrimPrefix(s, "*"), ":")
	if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
		return ":" + strconv.FormatUint(n, 10), ""
	}
	at, err := netip.ParseAddrPort(s)
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port()) // ::ffff:0.0.0.0 is every address too
	if err != nil || at.Port() == 0 || at.Addr().IsMulticast() {
		return "", "is no address to listen on: want a port from 1 to 65535, alone or behind an IP address: 443, 192.0.2.1:443 or [2001:db8::1]:443"
	}
	if at.Addr().IsUnspecified() {
		return listenAddr(strconv.Itoa(int(at.Port())))
	}
	return at.String(), ""
}

// sniName takes a DNS name, with one * in the place of its first label, or *.
func sniName(s string) (name, why string) {
	name = strings.ToLower(strings.TrimSuffix(s, "."))
	if name == "*" {
		return name, ""
	}
	rest := strings.TrimPrefix(name, "*.")
	_, err := netip.ParseAddr(rest)
	if err == nil || !IsHostname(rest) || len(name) > maxDNS {
		return "", "is no DNS name, such as www.example.com, *.example.com, or * for any; names in other scripts are written in Punycode"
	}
	return name, ""
}

// IsHostname says whether s, in lower case and without a dot at its end, is a
// name of labels of letters, digits, hyphens and underscores.
func IsHostname(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.ContainsFunc(label, func(r rune) bool {
			return !('a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}

func alpnName(s string) (name, why string) {
	if len(s) > 255 || strings.ContainsFunc(s, notVisible) {
		return "", "is no ALPN protocol, such as h2 or http/1.1"
	}
	return s, ""
}
