package membership_test

import (
	"bytes"
	"compress/lzw"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
)

// sealed is memberlist's cipher text under key(1); version 0 is the one whose
// padding the receiver takes off.
func sealed(version byte, plain, authenticated []byte) []byte {
	block, err := aes.NewCipher(key(1))
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	return append(append([]byte{version}, nonce...), gcm.Seal(nil, nonce, plain, authenticated)...)
}

// stream is the frame that memberlist's streams begin with.
func stream(version byte, plain []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{10}, uint32(len(plain)+29))
	return append(head, sealed(version, plain, head)...)
}

// badPadding says that 200 of its 16 bytes are padding.
func badPadding() []byte {
	b := make([]byte, 16)
	b[15] = 200
	return b
}

// What arrives at the port, from strangers and from holders of the key, must
// not end the process, the membership or the log's disk.
func TestHostilePackets(t *testing.T) {
	t.Parallel()
	a := start(t, membership.Config{Node: "a", Keys: [][]byte{key(1)}, Timing: quick})
	b := start(t, membership.Config{Node: "b", Keys: [][]byte{key(1)}, Timing: quick, Join: []string{a.Addr().String()}})
	b.until(t, "a=alive b=alive")
	udp, err := net.Dial("udp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	send := func(frame []byte) {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write(frame)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, c)
	}
	const seed = 11
	rnd := rand.New(rand.NewPCG(seed, 0))
	noise := func() []byte {
		b := make([]byte, rnd.IntN(1500))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	frames := [][]byte{
		stream(1, nil), stream(0, badPadding()), // memberlist panics on both
		{10, 0xff, 0xff, 0xff, 0xff, 1}, {10, 0, 0, 0}, {244, 255}, {9, 0x80}, {6}, {},
	}
	for _, f := range frames {
		send(f)
		_, _ = udp.Write(f)
	}
	for range 20 {
		_, _ = udp.Write(sealed(1, bomb(t, 55_000), nil))
		_, _ = udp.Write(sealed(1, bomb(t, 1_000), nil))
	}
	_, _ = udp.Write(sealed(0, badPadding(), nil))
	_, _ = udp.Write(sealed(1, nil, nil))
	for i := range 300 {
		n := noise()
		_, _ = udp.Write(n)
		_, _ = udp.Write(sealed(1, n, nil))
		if i < 100 {
			send(n)
			send(stream(1, n))
			send(stream(1, append([]byte{byte(i % 14)}, n...)))
		}
	}
	a.until(t, "a=alive b=alive") // it may be late to hear b, behind all that
	if err := b.SetTags(map[string]string{"after": "all"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "news still arrive", patience, func() bool { return a.member("b").Tags["after"] == "all" })
	if n := a.log.count(`"level":"warn"`); n > 150 {
		t.Errorf("%d warnings for some hundred bad packets", n)
	}
	if n := a.log.count(`"level":"error"`); n != 0 {
		t.Errorf("%d errors: nobody must look", n)
	}
	if n := a.log.count("decompressed message"); n != 0 {
		t.Errorf("%d packets were unpacked until they had 40 MB", n)
	}
}

// bomb is memberlist's compressed message, {"Algo": 0, "Buf": ...} in msgpack,
// of so many bytes, which are zeros without end once they are unpacked.
func bomb(t *testing.T, size int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	for zeros := make([]byte, 64<<10); packed.Len() < size; {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b := append([]byte{9, 0x82, 0xa4}, "Algo\x00\xa3Buf\xda"...)
	return append(binary.BigEndian.AppendUint16(b, uint16(packed.Len())), packed.Bytes()...)
}

// Whoever holds streams open takes nothing from the others but streams.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	a := start(t, membership.Config{Node: "a", Timing: quick})
	for range 300 {
		c, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	// They are given up after memberlist's ten seconds, at the latest.
	b := start(t, membership.Config{Node: "b", Timing: quick, Join: []string{a.Addr().String()}})
	b.until(t, "a=alive b=alive")
}
