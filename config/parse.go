package config

import (
	"cmp"
	"encoding/base64"
	"errors"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// clean is what holds for every value, before its setting looks at it.
func clean(s string) (string, error) {
	s = strings.TrimSpace(s)
	switch {
	case !utf8.ValidString(s):
		return s, fault{what: "is not UTF-8"}
	case strings.ContainsFunc(s, unicode.IsControl):
		return s, fault{what: "holds a line break, a tab or another control character"}
	}
	return s, nil
}

func plain(r raw) (string, error) { return r.text, nil }

func secret(r raw) (Secret, error) { return Secret(r.text), nil }

func lower(r raw) (string, error) { return asciiLower(r.text), nil }

// asciiLower leaves other letters alone: strings.ToLower makes a k of the Kelvin sign, which would pass as a code.
func asciiLower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + ('a' - 'A')
		}
		return r
	}, s)
}

func asciiUpper(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - ('a' - 'A')
		}
		return r
	}, s)
}

func onOff(r raw) (bool, error) {
	switch asciiLower(r.text) {
	case "on", "true", "yes", "1":
		return true, nil
	case "off", "false", "no", "0":
		return false, nil
	}
	return false, fault{what: "is neither on nor off"}
}

func whole(r raw) (int, error) {
	n, err := strconv.Atoi(r.text)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // Atoi then gives the nearest, which is out of range as well
		return 0, fault{what: "is not a whole number"}
	}
	return n, nil
}

func fraction(r raw) (float64, error) {
	f, err := strconv.ParseFloat(r.text, 64)
	if err != nil && !math.IsInf(f, 0) || math.IsNaN(f) {
		return 0, fault{what: "is not a number", hint: "e.g. 0.03"}
	}
	return f, nil
}

// number reads a count of units. The unit stands in the name of the setting, so a value has none.
func number(unit time.Duration) func(raw) (time.Duration, error) {
	return func(r raw) (time.Duration, error) {
		f, err := strconv.ParseFloat(r.text, 64)
		if d, derr := time.ParseDuration(r.text); err != nil && derr == nil {
			n := strconv.FormatFloat(float64(d)/float64(unit), 'f', -1, 64)
			return 0, fault{what: "is not a plain number", hint: "write " + n + ", without a unit"}
		}
		if err != nil && !math.IsInf(f, 0) || math.IsNaN(f) {
			return 0, fault{what: "is not a number"}
		}
		// What does not fit becomes the nearest that does, which is out of every range as well.
		ns := math.Round(f * float64(unit))
		return time.Duration(min(max(ns, -math.MaxInt64/2), math.MaxInt64/2)), nil
	}
}

func between[T cmp.Ordered](lo, hi T) func(T) error {
	return func(v T) error {
		if v < lo || v > hi {
			return fault{what: "is out of range"}
		}
		return nil
	}
}

func notEmpty(s string) error {
	if s == "" {
		return fault{what: "is empty"}
	}
	return nil
}

// healthCheck leaves it to package mesh, which reads the same text in rows.
func healthCheck(s string) error {
	_, err := mesh.ParseCheck(s)
	if err == nil {
		return nil
	}
	if why := errors.Unwrap(err); why != nil { // without the value and the rule, which every problem has
		err = why
	}
	return fault{what: "is no health check: " + err.Error()}
}

func oneOf(words []string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, s) {
			return fault{what: "is not known"}
		}
		return nil
	}
}

func oneOfRule(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

var (
	regionPattern = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	nodePattern   = regexp.MustCompile(`^[A-Za-z0-9._-]{1,63}$`)
	tokenPattern  = regexp.MustCompile(`^[!-~]*$`)
)

func regionCode(s string) error {
	if !regionPattern.MatchString(s) {
		return fault{what: "is not a region code", hint: "e.g. sa, us, eu, ap or eu-west"}
	}
	return nil
}

func nodeName(s string) error {
	if s != "" && !nodePattern.MatchString(s) {
		return fault{what: "is not a node name", hint: "e.g. sa-1"}
	}
	return nil
}

func visible(s Secret) error {
	if len(s) > 4096 || !tokenPattern.MatchString(string(s)) {
		return fault{what: "cannot be sent as a bearer token", hint: "e.g. the output of: openssl rand -hex 32"}
	}
	return nil
}

// clusterKey checks the form only; whether two POPs have the same key shows when they meet.
func clusterKey(s Secret) error {
	if s == "" {
		return nil
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(string(s), "="))
	if err != nil || len(key) != 32 {
		return fault{what: "is not base64 of 32 bytes", hint: "\"edgeproxy keygen\" prints one"}
	}
	return nil
}

func hostPort(addr string) error {
	const example = "e.g. 0.0.0.0:8080, [::1]:8080 or :8080"
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		switch {
		case isPort(addr):
			return fault{what: "has no colon", hint: "write :" + addr}
		case strings.Count(addr, ":") > 1:
			return fault{what: "is not host:port", hint: "an IPv6 address stands in brackets, e.g. [::1]:8080"}
		}
		return fault{what: "is not host:port", hint: example}
	}
	if !isPort(port) {
		return fault{what: "has no port number from 0 to 65535", hint: example}
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !strings.EqualFold(host, "localhost") {
		// A name may mean several addresses, or another one tomorrow; a socket is bound to one.
		return fault{what: "names a host instead of an address", hint: "write the host's IP address, or :" + port + " for all"}
	}
	return nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}
