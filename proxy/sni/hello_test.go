package sni

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// Parse reads the ClientHello at the beginning of b; see Parser.Parse.
func Parse(b, scratch []byte) (Hello, int, error) {
	var p Parser
	return p.Parse(b, scratch)
}

// Protocols returns what the client offers by ALPN, in its order.
func (h Hello) Protocols() []string {
	var all []string
	for rest := cursor(h.ALPN); len(rest) > 0; {
		one, ok := rest.vector8()
		if !ok {
			return all
		}
		all = append(all, string(one))
	}
	return all
}

// tape is a connection that takes what is written, and ends where something is to be read.
type tape struct {
	net.Conn
	in  io.Reader
	out bytes.Buffer
}

func (c *tape) Write(b []byte) (int, error) { return c.out.Write(b) }
func (c *tape) Read(b []byte) (int, error) {
	if c.in == nil {
		return 0, io.EOF
	}
	return c.in.Read(b)
}
func (*tape) Close() error                     { return nil }
func (*tape) SetDeadline(time.Time) error      { return nil }
func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

// clientHello is what crypto/tls sends first.
func clientHello(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	conn := &tape{}
	if err := tls.Client(conn, config).Handshake(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return conn.out.Bytes()
}

// manyProtocols make a hello of more than size bytes.
func manyProtocols(size int) []string {
	var all []string
	for n := 0; n < size; n += 201 {
		all = append(all, fmt.Sprintf("%0200d", n))
	}
	return all
}

// ticketed is a session that could be resumed, for a hello with a ticket.
type ticketed struct{ state *tls.ClientSessionState }

func (c *ticketed) Get(string) (*tls.ClientSessionState, bool)  { return c.state, c.state != nil }
func (c *ticketed) Put(_ string, state *tls.ClientSessionState) { c.state = state }

type wanted struct {
	label string
	bytes []byte
	name  string
	alpn  []string
}

func realHellos(t testing.TB) []wanted {
	with := func(c *tls.Config) []byte { c.InsecureSkipVerify = true; return clientHello(t, c) }
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61)
	return []wanted{
		{"TLS 1.3", with(&tls.Config{ServerName: "www.example.com"}), "www.example.com", nil},
		{"TLS 1.2", with(&tls.Config{ServerName: "www.example.com", MaxVersion: tls.VersionTLS12}), "www.example.com", nil},
		{"TLS 1.0", with(&tls.Config{ServerName: "a", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}), "a", nil},
		{"ALPN", with(&tls.Config{ServerName: "api.example.com", NextProtos: []string{"h2", "http/1.1"}}), "api.example.com", []string{"h2", "http/1.1"}},
		{"no name", with(&tls.Config{NextProtos: []string{"h2"}}), "", []string{"h2"}},
		{"upper case", with(&tls.Config{ServerName: "WWW.Example.COM"}), "www.example.com", nil},
		{"longest name", with(&tls.Config{ServerName: long}), long, nil},
		{"much ALPN", with(&tls.Config{ServerName: "big.example.com", NextProtos: manyProtocols(12 << 10)}), "big.example.com", manyProtocols(12 << 10)},
	}
}

// inRecords cuts the only record of a hello into records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[recordHeader:], n) {
		out = append(out, typeHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(len(part)))
		out = append(out, part...)
	}
	return out
}

func check(t *testing.T, w wanted, hello Hello, need int, err error) {
	t.Helper()
	if err != nil || need != 0 || hello.Name != w.name || !slices.Equal(hello.Protocols(), w.alpn) {
		t.Fatalf("name %q, protocols %q, need %d, %v; want %q and %q", hello.Name, hello.Protocols(), need, err, w.name, w.alpn)
	}
}

func TestRealHellos(t *testing.T) {
	for _, w := range realHellos(t) {
		t.Run(w.label, func(t *testing.T) {
			hello, need, err := Parse(w.bytes, nil)
			check(t, w, hello, need, err)
			hello, need, err = Parse(append(bytes.Clone(w.bytes), "early data"...), nil)
			check(t, w, hello, need, err)
		})
	}
}

// In records of any size and cut at every byte, a hello is incomplete until
// its last byte, and then it is what it was; never more bytes are asked for
// than there are.
func TestFragments(t *testing.T) {
	for _, w := range realHellos(t) {
		for _, size := range []int{1, 2, 3, 4, 5, 7, 16, 100, 1000, maxRecord} {
			stream := inRecords(w.bytes, size)
			if len(stream) > MaxHello {
				continue // 1-byte records take six times the space
			}
			var p Parser
			scratch := make([]byte, 0, MaxHello)
			for have := range len(stream) {
				hello, need, err := p.Parse(stream[:have], scratch)
				if err != nil || need <= 0 || have+need > len(stream) || hello.Name != "" {
					t.Fatalf("%s in records of %d: %d of %d bytes: need %d, %v", w.label, size, have, len(stream), need, err)
				}
			}
			hello, need, err := p.Parse(stream, scratch)
			check(t, w, hello, need, err)
			hello, need, err = Parse(stream, nil)
			check(t, w, hello, need, err)
		}
	}
}

// Who reads only what is asked for gets there, too.
func TestNeedIsEnoughToGoOn(t *testing.T) {
	w := realHellos(t)[0]
	for _, size := range []int{1, 50, maxRecord} {
		stream, have, calls := inRecords(w.bytes, size), 0, 0
		var p Parser
		for {
			hello, need, err := p.Parse(stream[:have], nil)
			if calls++; need == 0 {
				check(t, w, hello, need, err)
				break
			}
			have += need
		}
		if size == maxRecord && calls != 3 { // nothing, the two headers, all
			t.Errorf("%d calls for one record", calls)
		}
		if have > len(stream) {
			t.Errorf("%d bytes of %d", have, len(stream))
		}
	}
}

func TestResumption(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &ticketed{}
		config := &tls.Config{ServerName: "www.example.com", InsecureSkipVerify: true, ClientSessionCache: cache, MinVersion: version, MaxVersion: version}
		server := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
		l, err := tls.Listen("tcp", "127.0.0.1:0", server)
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("x")) // the handshake, and in TLS 1.3 the ticket before it
			conn.Close()
		}()
		conn, err := tls.Dial("tcp", l.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		<-served
		l.Close()
		if cache.state == nil {
			t.Fatal("no ticket came")
		}
		first := len(clientHello(t, &tls.Config{ServerName: "www.example.com", MinVersion: version, MaxVersion: version}))
		with := clientHello(t, config)
		if len(with) <= first {
			t.Fatalf("%x: %d bytes with a ticket, %d without", version, len(with), first)
		}
		hello, need, err := Parse(with, nil)
		check(t, wanted{name: "www.example.com"}, hello, need, err)
	}
}

// A second implementation's hellos.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl here")
	}
	for _, tt := range []struct {
		args, name string
		alpn       []string
	}{
		{"-tls1_3 -servername www.example.com -alpn h2,http/1.1", "www.example.com", []string{"h2", "http/1.1"}},
		{"-tls1_2 -servername WWW.example.com", "www.example.com", nil},
		{"-noservername", "", nil},
		{"-servername www.example.com -split_send_frag 512 -max_send_frag 512", "www.example.com", nil},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(openssl, append([]string{"s_client", "-connect", l.Addr().String()}, strings.Fields(tt.args)...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		var p Parser
		buf := make([]byte, MaxHello)
		for have := 0; ; {
			n, err := conn.Read(buf[have:])
			if err != nil {
				t.Fatalf("%s: %v after %d bytes", tt.args, err, have)
			}
			have += n
			hello, need, err := p.Parse(buf[:have], nil)
			if need > 0 {
				continue
			}
			check(t, wanted{name: tt.name, alpn: tt.alpn}, hello, need, err)
			break
		}
		conn.Close()
		l.Close()
		_ = cmd.Wait() // it says that the handshake failed
	}
}
