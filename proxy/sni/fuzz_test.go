package sni

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

var errSeen = errors.New("seen")

// asServer is what crypto/tls reads in a stream; false where it refuses it before it has the hello.
func asServer(stream []byte) (name string, alpn []string, ok bool) {
	conn := &tape{in: bytes.NewReader(stream)}
	_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name, alpn, ok = hello.ServerName, hello.SupportedProtos, true
		return nil, errSeen
	}}).Handshake()
	return name, alpn, ok
}

// stricter is what we refuse and crypto/tls lets through.
var stricter = []error{ErrName, ErrTooLong, errVersion, errRecordSize, errInterleaved, errLengths}

// FuzzParse: whatever comes, in whatever pieces, gives the same answer, and
// where crypto/tls, as the backend might be, reads a name, it is ours. Two that
// differed would let a client in by one name and have it served by another.
func FuzzParse(f *testing.F) {
	for _, w := range realHellos(f) {
		if len(w.bytes) < 4096 {
			f.Add(w.bytes, uint16(len(w.bytes)/2))
			f.Add(inRecords(w.bytes, 50), uint16(3))
		}
	}
	f.Add(hello(host("a.example", "b.example")), uint16(1))
	f.Add(hello(host("192.0.2.1"), extension(16, vector(2, 2, 'h', '2'))), uint16(60))
	f.Add(inRecords(hello(host("a.example")), 1), uint16(9))
	f.Add(append([]byte{21, 3, 1, 0, 2, 1, 1}, hello(host("a.example"))...), uint16(9))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		got, need, err := Parse(stream, nil)
		if err != nil && (need != 0 || got.Name != "" || got.ALPN != nil) || need < 0 || len(stream)+need > MaxHello && need > 0 {
			t.Fatalf("%q, need %d, %v", got.Name, need, err)
		}

		var p Parser
		at := min(int(cut), len(stream))
		_, wants, early := p.Parse(stream[:at], nil)
		switch {
		case early != nil:
			if at < len(stream) && err == nil {
				t.Fatalf("refused after %d bytes, and then not: %v", at, early)
			}
		case wants > 0:
			if need == 0 && err == nil && at+wants > len(stream) {
				t.Fatalf("after %d bytes it wants %d, but the hello is complete with %d", at, wants, len(stream))
			}
			again, more, later := p.Parse(stream, make([]byte, 0, 64))
			if again.Name != got.Name || !bytes.Equal(again.ALPN, got.ALPN) || more != need || later != err {
				t.Fatalf("in two pieces %q %d %v, in one %q %d %v", again.Name, more, later, got.Name, need, err)
			}
		}

		name, alpn, ok := asServer(stream)
		switch {
		case !ok:
		case err == nil && need > 0:
			t.Fatalf("crypto/tls is content, we want %d bytes more", need)
		case errors.Is(err, errPlain) && stream[0] == 21: // crypto/tls passes over a warning before the hello
		case err != nil:
			if !slices.ContainsFunc(stricter, func(s error) bool { return errors.Is(err, s) }) {
				t.Fatalf("crypto/tls reads %q, we say %v", name, err)
			}
		default:
			if _, notName := netip.ParseAddr(name); notName == nil {
				name = ""
			}
			if got.Name != strings.ToLower(name) || !slices.Equal(got.Protocols(), alpn) {
				t.Fatalf("crypto/tls reads %q %q, we %q %q", name, alpn, got.Name, got.Protocols())
			}
		}
	})
}
