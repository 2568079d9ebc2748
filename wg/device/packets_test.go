package device

import (
	"bytes"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// tcpPacket is a whole one, with right checksums.
func tcpPacket(from, to string, port uint16, seq uint32, flags header.TCPFlags, payload []byte) []byte {
	a, b := netip.MustParseAddr(from), netip.MustParseAddr(to)
	const options = 12
	size := header.TCPMinimumSize + options + len(payload)
	var p []byte
	src, dst := tcpip.AddrFromSlice(a.AsSlice()), tcpip.AddrFromSlice(b.AsSlice())
	if a.Is4() {
		p = make([]byte, header.IPv4MinimumSize+size)
		header.IPv4(p).Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: tcpProtocol, SrcAddr: src, DstAddr: dst})
		header.IPv4(p).SetChecksum(^header.IPv4(p).CalculateChecksum())
	} else {
		p = make([]byte, header.IPv6MinimumSize+size)
		header.IPv6(p).Encode(&header.IPv6Fields{PayloadLength: uint16(size), TransportProtocol: header.TCPProtocolNumber, HopLimit: 64, SrcAddr: src, DstAddr: dst})
	}
	tcp := header.TCP(p[len(p)-size:])
	tcp.Encode(&header.TCPFields{SrcPort: port, DstPort: 80, SeqNum: seq, AckNum: 7, DataOffset: header.TCPMinimumSize + options, Flags: flags, WindowSize: 1000})
	copy(tcp[header.TCPMinimumSize:], []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2})
	copy(tcp[header.TCPMinimumSize+options:], payload)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(size))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	return p
}

func validPacket(t *testing.T, p []byte) {
	t.Helper()
	s, ok := parseSegment(p)
	if !ok {
		t.Fatalf("not a whole TCP packet: % x", p[:min(len(p), 60)])
	}
	var src, dst tcpip.Address
	if p[0]>>4 == 4 {
		if ip := header.IPv4(p); !ip.IsChecksumValid() {
			t.Error("IPv4 checksum is wrong")
		}
		src, dst = header.IPv4(p).SourceAddress(), header.IPv4(p).DestinationAddress()
	} else {
		src, dst = header.IPv6(p).SourceAddress(), header.IPv6(p).DestinationAddress()
	}
	payload := p[s.headers:]
	if !header.TCP(p[s.ip:]).IsChecksumValid(src, dst, checksum.Checksum(payload, 0), uint16(len(payload))) {
		t.Error("TCP checksum is wrong")
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	mathrand.NewChaCha8([32]byte{}).Read(b)
	return b
}

// What segments cut up is whole again after the coalescer.
func TestCutAndCoalesce(t *testing.T) {
	const mss = 1360
	for name, ends := range map[string][2]string{"IPv4": {"10.50.0.1", "10.50.0.2"}, "IPv6": {"fd50::1", "fd50::2"}} {
		for _, size := range []int{1, mss, mss + 1, 10 * mss, 47*mss + 3} {
			payload := randomBytes(size)
			large := tcpPacket(ends[0], ends[1], 1000, 0xfffffff0, header.TCPFlagAck|header.TCPFlagPsh, payload)
			s, _ := parseSegment(large)
			packet := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: s.headers, Payload: buffer.MakeWithData(payload)})
			copy(packet.TransportHeader().Push(s.headers-s.ip), large[s.ip:])
			copy(packet.NetworkHeader().Push(s.ip), large)
			packet.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, MSS: mss}
			if s.ip == header.IPv6MinimumSize {
				packet.GSOOptions.Type = stack.GSOTCPv6
			}
			var cut segments
			cut.start(packet)
			var small [][]byte
			for cut.active() {
				buf := make([]byte, 2048)
				small = append(small, buf[:cut.next(buf)])
			}
			if want := (size + mss - 1) / mss; len(small) != want {
				t.Errorf("%s, %d bytes: %d segments, want %d", name, size, len(small), want)
			}
			for i, p := range small {
				validPacket(t, p)
				if pushes := p[s.ip+13]&pushFlag != 0; pushes != (i == len(small)-1) {
					t.Errorf("segment %d of %d pushes: %t", i, len(small), pushes)
				}
			}
			got := coalesced(small)
			if len(got) != 1 || !bytes.Equal(got[0][s.headers:], payload) || !bytes.Equal(got[0][s.ip:s.ip+16], large[s.ip:s.ip+16]) {
				t.Errorf("%s, %d bytes: %d packets, want the one that was cut", name, size, len(got))
			}
		}
	}
}

func coalesced(packets [][]byte) (got [][]byte) {
	c := &coalescer{deliver: func(_ tcpip.NetworkProtocolNumber, v *buffer.View) { got = append(got, slices.Clone(v.AsSlice())) }}
	for _, p := range packets {
		c.add(p)
	}
	c.flushAll()
	return got
}

func TestCoalescerKeepsApart(t *testing.T) {
	a := func(port uint16, seq uint32, flags header.TCPFlags, n int) []byte {
		return tcpPacket("10.50.0.1", "10.50.0.2", port, seq, flags, randomBytes(n))
	}
	const ack, push, fin = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagAck | header.TCPFlagFin
	other := a(1, 200, ack, 100)
	other[8] = 63 // TTL
	window := a(1, 200, ack, 100)
	window[20+15]++
	for name, c := range map[string]struct {
		in   [][]byte
		want int
	}{
		"in order":              {[][]byte{a(1, 100, ack, 100), a(1, 200, ack, 100), a(1, 300, ack, 50)}, 1},
		"a hole":                {[][]byte{a(1, 100, ack, 100), a(1, 300, ack, 100)}, 2},
		"two streams":           {[][]byte{a(1, 100, ack, 100), a(2, 100, ack, 100), a(1, 200, ack, 100), a(2, 200, ack, 100)}, 2},
		"after a push":          {[][]byte{a(1, 100, ack, 100), a(1, 200, push, 100), a(1, 300, ack, 100)}, 2},
		"after a short one":     {[][]byte{a(1, 100, ack, 100), a(1, 200, ack, 50), a(1, 250, ack, 50)}, 2},
		"a longer one":          {[][]byte{a(1, 100, ack, 100), a(1, 200, ack, 150)}, 2},
		"the end":               {[][]byte{a(1, 100, ack, 100), a(1, 200, fin, 0)}, 2},
		"acknowledgements":      {[][]byte{a(1, 100, ack, 0), a(1, 100, ack, 0)}, 2},
		"another TTL":           {[][]byte{a(1, 100, ack, 100), other}, 2},
		"another window":        {[][]byte{a(1, 100, ack, 100), window}, 2},
		"ten streams":           {[][]byte{a(1, 1, ack, 9), a(2, 1, ack, 9), a(3, 1, ack, 9), a(4, 1, ack, 9), a(5, 1, ack, 9), a(6, 1, ack, 9), a(7, 1, ack, 9), a(8, 1, ack, 9), a(9, 1, ack, 9), a(10, 1, ack, 9)}, 10},
		"not TCP and truncated": {[][]byte{{0x45, 0}, append([]byte{0x60}, make([]byte, 39)...)}, 2},
	} {
		got := coalesced(c.in)
		if len(got) != c.want {
			t.Errorf("%s: %d packets, want %d", name, len(got), c.want)
		}
	}
}

func FuzzCoalescer(f *testing.F) {
	f.Add(tcpPacket("10.50.0.1", "10.50.0.2", 1, 1, header.TCPFlagAck, []byte("abc")), tcpPacket("10.50.0.1", "10.50.0.2", 1, 4, header.TCPFlagAck, []byte("d")))
	f.Add(tcpPacket("fd50::1", "fd50::2", 1, 1, header.TCPFlagAck, []byte("abc")), tcpPacket("fd50::1", "fd50::2", 1, 4, header.TCPFlagAck, []byte("def")))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var in [][]byte
		for _, p := range [][]byte{a, b} {
			if _, ok := destinationOf(p); ok && len(p) < 32<<10 {
				in = append(in, p)
			}
		}
		// Nothing is lost: two packets, or one with the payload of both.
		if got := coalesced(in); len(got) != len(in) && (len(got) != 1 || len(got[0]) >= len(a)+len(b)) {
			t.Errorf("%d packets became %d", len(in), len(got))
		}
	})
}

func TestHop(t *testing.T) {
	for _, ttl := range []byte{64, 255, 2, 1, 0} {
		for i := range 200 {
			p := tcpPacket("10.50.0.1", "10.50.0.2", uint16(i), 1, header.TCPFlagAck, nil)
			p[8] = ttl
			binary.BigEndian.PutUint16(p[4:], uint16(i*331)) // for many checksums
			header.IPv4(p).SetChecksum(0)
			header.IPv4(p).SetChecksum(^header.IPv4(p).CalculateChecksum())
			if ok := hop(p); ok != (ttl > 1) {
				t.Fatalf("TTL %d passes: %t", ttl, ok)
			} else if ok && (p[8] != ttl-1 || !header.IPv4(p).IsChecksumValid()) {
				t.Fatalf("TTL %d became %d, checksum valid: %t", ttl, p[8], header.IPv4(p).IsChecksumValid())
			}
		}
		p := tcpPacket("fd50::1", "fd50::2", 1, 1, header.TCPFlagAck, nil)
		if p[7] = ttl; hop(p) != (ttl > 1) || ttl > 1 && p[7] != ttl-1 {
			t.Errorf("hop limit %d became %d", ttl, p[7])
		}
	}
}
