package sni

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"www.example.com"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// vector is b behind its length in n bytes.
func vector(n int, b ...byte) []byte {
	size := binary.BigEndian.AppendUint64(nil, uint64(len(b)))
	return append(size[8-n:], b...)
}

func extension(kind uint16, body []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, kind), vector(2, body...)...)
}

// host is a server_name extension with these host names.
func host(names ...string) []byte {
	var list []byte
	for _, name := range names {
		list = append(append(list, nameHost), vector(2, []byte(name)...)...)
	}
	return extension(extensionServerName, vector(2, list...))
}

// hello is a message in one record; without extensions it has not even their length.
func hello(extensions ...[]byte) []byte {
	body := append(make([]byte, 34), vector(1)...) // version, random, session
	body = append(body, vector(2, 0x13, 0x01)...)
	body = append(body, vector(1, 0)...)
	if extensions != nil {
		body = append(body, vector(2, bytes.Join(extensions, nil)...)...)
	}
	return record(append([]byte{typeClientHello}, vector(3, body...)...))
}

func record(body []byte) []byte { return append([]byte{typeHandshake, 3, 1}, vector(2, body...)...) }

func TestHandmade(t *testing.T) {
	for _, tt := range []struct {
		label string
		bytes []byte
		name  string
	}{
		{"no extensions", hello(), ""},
		{"an empty list of them", hello([]byte{}), ""},
		{"a name", hello(host("a.example")), "a.example"},
		{"a dot at its end", hello(host("a.example.")), "a.example"},
		{"an underscore", hello(host("a_b.example")), "a_b.example"},
		{"GREASE around it", hello(extension(0x0a0a, nil), host("a.example"), extension(0xfafa, []byte{0})), "a.example"},
		{"IPv4", hello(host("192.0.2.1")), ""},
		{"IPv6", hello(host("2001:db8::1")), ""},
		{"digits that are no address", hello(host("1.2.3.4.5")), "1.2.3.4.5"},
		{"another type of name", hello(extension(0, vector(2, append(append([]byte{7}, vector(2, 'x')...), append([]byte{nameHost}, vector(2, 'y')...)...)...))), "y"},
	} {
		if got, need, err := Parse(tt.bytes, nil); err != nil || need != 0 || got.Name != tt.name {
			t.Errorf("%s: %q, need %d, %v; want %q", tt.label, got.Name, need, err, tt.name)
		}
	}
}

func TestRefused(t *testing.T) {
	sized := func(n int) []byte { return record(append([]byte{typeClientHello, 0, byte(n >> 8), byte(n)}, 0)) }
	cutShort := hello(host("a.example"))
	cutShort[recordHeader+3]-- // the message ends a byte before its extensions do
	for _, tt := range []struct {
		label string
		bytes []byte
		want  error
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n"), ErrNotTLS},
		{"SSH", []byte("S"), ErrNotTLS},
		{"SSL 2", []byte("\x80\x2e\x01\x03\x01"), errSSL2},
		{"an alert", []byte(AlertDecodeError), ErrNotTLS},
		{"a version from the future", []byte{typeHandshake, 4}, ErrNotTLS},
		{"a ServerHello", record([]byte{2, 0, 0, 1, 0}), errNotHello},
		{"an empty record", record(nil), errRecordSize},
		{"a record too long", []byte{typeHandshake, 3, 1, 0x40, 0x01}, errRecordSize},
		{"an alert in the middle", append(record([]byte{typeClientHello, 0, 1}), AlertDecodeError...), errInterleaved},
		{"as long as can be and a byte", sized(MaxHello - recordHeader - handshakeHeader + 1), ErrTooLong},
		{"16 MiB", record([]byte{typeClientHello, 255, 255, 255}), ErrTooLong},
		{"cut short", cutShort, errLengths},
		{"nothing in it", record([]byte{typeClientHello, 0, 0, 0}), errLengths},
		{"half an extension", hello([]byte{0, 0, 0}), errLengths},
		{"an extension beyond the end", hello([]byte{0, 9, 0, 1}), errLengths},
		{"two lists of names", hello(host("a.example"), host("b.example")), errTwice},
		{"two names", hello(host("a.example", "b.example")), errServerNames},
		{"no name in the list", hello(host()), errServerNames},
		{"an empty name", hello(host("")), errServerNames},
		{"no list", hello(extension(0, nil)), errLengths},
		{"a list longer than its extension", hello(extension(0, []byte{0, 9, 0, 0, 1, 'a'})), errLengths},
		{"NUL", hello(host("a.example\x00.evil")), ErrName},
		{"a space", hello(host("a example")), ErrName},
		{"a slash", hello(host("../etc")), ErrName},
		{"an asterisk", hello(host("*.example")), ErrName},
		{"UTF-8", hello(host("bücher.example")), ErrName},
		{"an empty label", hello(host("a..example")), ErrName},
		{"a dot at its beginning", hello(host(".example")), ErrName},
		{"only a dot", hello(host(".")), ErrName},
		{"a label of 64", hello(host(strings.Repeat("a", 64))), ErrName},
		{"254 bytes", hello(host(strings.Repeat("a.", 126) + "aa")), ErrName},
		{"a name of 10 KiB", hello(host(strings.Repeat("a.", 5<<10) + "a")), ErrName},
		{"no protocols", hello(extension(16, vector(2))), errProtocols},
		{"an empty protocol", hello(extension(16, vector(2, 0))), errProtocols},
		{"half a protocol", hello(extension(16, vector(2, 5, 'h'))), errLengths},
	} {
		if got, need, err := Parse(tt.bytes, nil); !errors.Is(err, tt.want) || need != 0 || got.Name != "" {
			t.Errorf("%s: %q, need %d, %v; want %v", tt.label, got.Name, need, err, tt.want)
		}
	}
}

// A stream of records that never completes the hello ends at the bound, however small they are.
func TestBound(t *testing.T) {
	for _, size := range []int{1, 7, 1000} {
		message := append([]byte{typeClientHello, 0, 0x3f, 0xf0}, make([]byte, MaxHello)...)
		stream := inRecords(record(message[:maxRecord]), size)
		var p Parser
		for have := 0; ; {
			_, need, err := p.Parse(stream[:have], nil)
			if errors.Is(err, ErrTooLong) {
				break
			}
			if err != nil || need <= 0 {
				t.Fatalf("after %d bytes: need %d, %v", have, need, err)
			}
			if have += need; have > MaxHello {
				t.Fatalf("asks for byte %d", have)
			}
		}
	}
	exact := hello(extension(21, make([]byte, MaxHello-len(hello(extension(21, nil))))))
	if _, need, err := Parse(exact, nil); len(exact) != MaxHello || need != 0 || err != nil {
		t.Errorf("%d bytes: need %d, %v", len(exact), need, err)
	}
}

func TestAllocations(t *testing.T) {
	named := realHellos(t)[3].bytes
	unnamed := hello()
	pieces := inRecords(named, 100)
	scratch := make([]byte, 0, MaxHello)
	garbage := []byte("GET / HTTP/1.1\r\n")
	for _, tt := range []struct {
		label string
		bytes []byte
		want  float64
	}{{"named", named, 1}, {"unnamed", unnamed, 0}, {"in records", pieces, 1}, {"incomplete", named[:len(named)-1], 0}, {"garbage", garbage, 0}} {
		if got := testing.AllocsPerRun(100, func() { _, _, _ = Parse(tt.bytes, scratch) }); got > tt.want {
			t.Errorf("%s: %v allocations, want %v", tt.label, got, tt.want)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	whole := realHellos(b)[3].bytes
	scratch := make([]byte, 0, MaxHello)
	for _, bb := range []struct {
		name   string
		stream []byte
	}{{"one record", whole}, {"records of 1 byte", inRecords(whole, 1)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bb.stream)))
			for b.Loop() {
				if _, need, err := Parse(bb.stream, scratch); need != 0 || err != nil {
					b.Fatal(need, err)
				}
			}
		})
	}
	// The worst that a client can ask for: as many records as there can be, and a call for every byte.
	b.Run("byte by byte to the bound", func(b *testing.B) {
		stream := bytes.Repeat([]byte{typeHandshake, 3, 1, 0, 1, 0}, MaxHello/6)
		stream[5] = typeClientHello
		stream[17], stream[23] = 0x0a, 0xa7 // the length's last two bytes: 2,727, one more than there is room for
		b.ReportAllocs()
		for b.Loop() {
			var p Parser
			for have := range len(stream) {
				if _, _, err := p.Parse(stream[:have], scratch); err != nil && !errors.Is(err, ErrTooLong) {
					b.Fatal(err)
				}
			}
		}
	})
}
