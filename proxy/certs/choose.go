package certs

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
)

// index finds certificates by name. It does not change.
type index struct {
	all      []*certificate // by file
	exact    map[string][]*certificate
	wildcard map[string][]*certificate // by what follows the asterisk, with its dot
}

// newIndex puts the best first: of several for one name those that are valid,
// the quicker algorithm, then what lasts longest.
func newIndex(pairs map[string]*pair) *index {
	x := &index{exact: map[string][]*certificate{}, wildcard: map[string][]*certificate{}}
	var ranked []*pair
	for _, p := range pairs {
		if p.good != nil {
			ranked = append(ranked, p)
			x.all = append(x.all, p.good)
		}
	}
	slices.SortFunc(x.all, func(a, b *certificate) int { return strings.Compare(a.file, b.file) })
	slices.SortFunc(ranked, func(a, b *pair) int {
		return cmp.Or(last(!a.valid, !b.valid), last(!a.good.quick(), !b.good.quick()),
			b.good.cert.Leaf.NotAfter.Compare(a.good.cert.Leaf.NotAfter), strings.Compare(a.file, b.file))
	})
	for _, p := range ranked {
		for _, name := range p.good.cert.Leaf.DNSNames {
			name = canonical(name)
			if rest, ok := strings.CutPrefix(name, "*"); ok {
				x.wildcard[rest] = append(x.wildcard[rest], p.good)
			} else {
				x.exact[name] = append(x.exact[name], p.good)
			}
		}
	}
	return x
}

// last orders false before true.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// quick is whether signing with it costs a tenth of what RSA does. Ed25519 is
// quicker still, but few clients support it: they are asked in this order.
func (c *certificate) quick() bool {
	_, ok := c.cert.Leaf.PublicKey.(*ecdsa.PublicKey)
	return ok
}

// canonical is a name as the index has it; of an address there is none.
func canonical(name string) string {
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// Has says whether there is one for a service's name, which may be a pattern.
func (s *Store) Has(name string) bool {
	for _, some := range s.index.Load().serving(canonical(name)) {
		if len(some) > 0 {
			return true
		}
	}
	return false
}

// GetCertificate chooses for a handshake: by the name that the client asks for,
// the exact one before a wildcard, and among those one whose algorithm it
// supports. For a client that names none, names are the service's own, in its
// order ("*" or none at all: any certificate). Without a certificate it returns
// nil and no error, which crypto/tls tells the client as unrecognized_name.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo, names []string) (*tls.Certificate, error) {
	x := s.index.Load()
	if name := canonical(hello.ServerName); name != "" {
		exact, wildcard := x.named(name)
		return supported(hello, exact, wildcard), nil
	}
	for _, name := range names {
		if c := supported(hello, x.serving(canonical(name))...); c != nil {
			return c, nil
		}
	}
	if len(names) == 0 {
		return supported(hello, x.all), nil
	}
	return nil, nil
}

func (x *index) named(name string) (exact, wildcard []*certificate) {
	if dot := strings.IndexByte(name, '.'); dot > 0 {
		wildcard = x.wildcard[name[dot:]]
	}
	return x.exact[name], wildcard
}

// serving returns what could serve a service's name, which may be a pattern.
func (x *index) serving(name string) [][]*certificate {
	suffix, ok := strings.CutPrefix(name, "*")
	if !ok {
		exact, wildcard := x.named(name)
		return [][]*certificate{exact, wildcard}
	}
	if suffix == "" {
		return [][]*certificate{x.all}
	}
	var below []*certificate
	for _, c := range x.all {
		for _, n := range c.cert.Leaf.DNSNames {
			if n = canonical(n); len(n) > len(suffix) && strings.IndexByte(n, '.') == len(n)-len(suffix) && strings.HasSuffix(n, suffix) {
				below = append(below, c)
				break
			}
		}
	}
	return [][]*certificate{x.wildcard[suffix], below}
}

// supported returns the first that the client supports. Where it supports none
// of them the first one is returned, and the handshake says what is missing.
func supported(hello *tls.ClientHelloInfo, lists ...[]*certificate) *tls.Certificate {
	var first *tls.Certificate
	for _, list := range lists {
		for _, c := range list {
			if hello.SupportsCertificate(&c.cert) == nil {
				return &c.cert
			}
			if first == nil {
				first = &c.cert
			}
		}
	}
	return first
}
