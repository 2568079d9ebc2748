package config

import (
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func prefixes(r raw) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, item := range items(r.text) {
		p, err := prefix(item)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// prefix takes "10.0.0.0/8" or "10.0.0.1". IPv4-mapped IPv6 becomes IPv4, because that is how peers' addresses are
// compared.
func prefix(item string) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(item)
	p := netip.Prefix{}
	switch {
	case err == nil && addr.Zone() != "":
		return p, fault{what: "has the zone of an interface in " + quote(item), hint: "write it without %" + addr.Zone()}
	case err == nil:
		return netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
	}
	if p, err = netip.ParsePrefix(item); err != nil {
		return p, fault{what: "has " + quote(item) + ", which is neither a prefix nor an IP address", hint: "e.g. 10.0.0.0/8"}
	}
	if p != p.Masked() {
		// Trust is nothing to guess about: was one host meant, or the whole net?
		return p, fault{what: "has " + quote(item) + ", which names a host and a net",
			hint: "write " + p.Masked().String() + " for the net or " + p.Addr().String() + " for the host"}
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

const clientPrefixRule = "a whole number from 1 to 32 for IPv4, a comma, and one from 1 to 128 for IPv6"

func clientPrefix(r raw) (out [2]int, err error) {
	v4, v6, ok := strings.Cut(r.text, ",")
	if !ok {
		return out, fault{what: "is not two numbers", hint: "e.g. 32,64"}
	}
	for i, text := range [...]string{v4, v6} {
		if out[i], err = whole(raw{text: strings.TrimSpace(text)}); err != nil {
			return out, err
		}
	}
	return out, nil
}

func validClientPrefix(bits [2]int) error {
	if bits[0] < 1 || bits[0] > 32 || bits[1] < 1 || bits[1] > 128 {
		return fault{what: "is out of range"}
	}
	return nil
}

func validPrefixes(ps []netip.Prefix) error {
	for _, p := range ps {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
			return fault{what: "has " + quote(p.String()) + ", which is no masked prefix"}
		}
	}
	return nil
}

// optionalAddr takes one IP address or nothing.
func optionalAddr(r raw) (netip.Addr, error) {
	if r.text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(r.text)
	if err != nil {
		return addr, fault{what: "is not an IP address", hint: "e.g. 192.0.2.1; the ports are those of gossip_addr and sync_addr"}
	}
	return addr.Unmap(), nil
}

func reachable(addr netip.Addr) error {
	if addr.IsUnspecified() || addr.IsMulticast() || addr.Zone() != "" {
		return fault{what: "is nothing that others can dial", hint: "write the address by which they reach this machine"}
	}
	return nil
}

// seeds are hosts with or without a port; their names are looked up when they are dialed, not here.
func seeds(r raw) ([]string, error) {
	out := items(r.text)
	return out, validSeeds(out)
}

// items are those of a list, which may end with a comma, or hold a variable that was empty.
func items(text string) (out []string) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})$`)

func validSeeds(all []string) error {
	for _, item := range all {
		host, port, err := net.SplitHostPort(item)
		if err != nil {
			host, port = strings.Trim(item, "[]"), "0"
		}
		if _, err := netip.ParseAddr(host); !isPort(port) || err != nil && !hostPattern.MatchString(host) {
			return fault{what: "has " + quote(item) + ", which is neither a host nor host:port", hint: "e.g. sa.example.net:7946 or [2001:db8::1]:7946"}
		}
	}
	return nil
}

func position(r raw) (*[2]float64, error) {
	if r.text == "" {
		return nil, nil
	}
	at, err := latLon(r.text)
	return &at, err
}

func latLon(s string) ([2]float64, error) {
	lat, lon, _ := strings.Cut(s, ",")
	var at [2]float64
	for i, degrees := range []string{lat, lon} {
		var err error
		if at[i], err = strconv.ParseFloat(strings.TrimSpace(degrees), 64); err != nil {
			return at, fault{what: "is not a position", hint: "e.g. -23.55,-46.63 (latitude first)"}
		}
	}
	return at, validLatLon(at)
}

func validPosition(at *[2]float64) error {
	if at == nil {
		return nil
	}
	return validLatLon(*at)
}

// validLatLon is written so that NaN, which compares false with everything, is refused.
func validLatLon(at [2]float64) error {
	if at[0] >= -90 && at[0] <= 90 && at[1] >= -180 && at[1] <= 180 {
		return nil
	}
	return fault{what: "is nowhere on the Earth", hint: "latitude comes first, e.g. -23.55,-46.63"}
}

// table parses and checks a mapping, entry by entry.
type table[V any] struct {
	fold  func(string) string // how keys are compared
	value func(string) (V, error)
	check func(string, V) error
}

var countryPattern = regexp.MustCompile(`^[A-Z]{2}$`)

var countryTable = table[string]{
	fold:  asciiUpper,
	value: func(s string) (string, error) { return asciiLower(s), nil },
	check: func(country, region string) error {
		if !countryPattern.MatchString(country) {
			return fault{what: "has no country code of two letters as its key", hint: "e.g. BR: sa (ISO 3166-1 alpha-2)"}
		}
		return regionCode(region)
	},
}

var regionTable = table[[2]float64]{
	fold:  asciiLower,
	value: latLon,
	check: func(region string, at [2]float64) error {
		if err := regionCode(region); err != nil {
			return fault{what: "has no region code as its key", hint: "e.g. eu: \"50.11,8.68\""}
		}
		return validLatLon(at)
	},
}

func (t table[V]) parse(r raw) (map[string]V, error) {
	if r.pairs == nil {
		return nil, nil
	}
	out := map[string]V{}
	var wrong faults
	for _, p := range r.pairs {
		if len(wrong) == maxProblems {
			break
		}
		if err := t.add(out, p); err != nil {
			f := asFault(err)
			f.in = &p
			wrong = append(wrong, f)
		}
	}
	if wrong != nil {
		return nil, wrong
	}
	return out, nil
}

func (t table[V]) add(out map[string]V, p pair) error {
	key, err := clean(p.key)
	if err != nil {
		return err
	}
	text, err := clean(p.text)
	if err != nil {
		return err
	}
	key = t.fold(key)
	if _, twice := out[key]; twice {
		return fault{what: "stands twice", hint: "remove one"}
	}
	v, err := t.value(text)
	if err != nil {
		return err
	}
	out[key] = v
	return t.check(key, v)
}

// valid checks a map that may not come from parse.
func (t table[V]) valid(m map[string]V) error {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if err := t.check(key, m[key]); err != nil {
			return err
		}
		if t.fold(key) != key {
			return fault{what: "has the key " + quote(key) + ", which should be " + quote(t.fold(key))}
		}
	}
	return nil
}
