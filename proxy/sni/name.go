package sni

import (
	"bytes"
	"fmt"
	"net/netip"
)

const (
	longestName  = 253 // as text, of the 255 bytes that DNS has (RFC 1035, 2.3.4)
	longestLabel = 63
)

var (
	errNameLong   = fmt.Errorf("%w: longer than %d bytes", ErrName, longestName)
	errNameLabel  = fmt.Errorf("%w: a label is empty or longer than %d bytes", ErrName, longestLabel)
	errNameLetter = fmt.Errorf("%w: it holds more than letters, digits, hyphens, underscores and dots", ErrName)
)

// hostName returns the name in lower case, without the dot that may end it.
// An address is no name (RFC 6066, 3), though some clients send theirs: they
// are served as those that send none.
func hostName(b []byte) (string, error) {
	if isAddress(b) {
		return "", nil
	}
	b = bytes.TrimSuffix(b, []byte{'.'})
	if err := checkName(b); err != nil {
		return "", err
	}
	var low [longestName]byte
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	return string(low[:len(b)]), nil
}

// isAddress tries only what looks like one, since a failure allocates.
func isAddress(b []byte) bool {
	if len(b) > 64 {
		return false
	}
	digits := true
	for _, c := range b {
		digits = digits && (c == '.' || '0' <= c && c <= '9')
	}
	if !digits && bytes.IndexByte(b, ':') < 0 {
		return false
	}
	_, err := netip.ParseAddr(string(b))
	return err == nil
}

// checkName accepts what DNS calls a host name, and the underscore that it does
// not, because internal names have it and certificates may.
func checkName(b []byte) error {
	if len(b) > longestName {
		return errNameLong
	}
	label := 0
	for _, c := range b {
		switch {
		case c == '.':
			if label == 0 {
				return errNameLabel
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return errNameLetter
		}
		if label++; label > longestLabel {
			return errNameLabel
		}
	}
	if label == 0 {
		return errNameLabel
	}
	return nil
}
