package device

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// segments cuts one packet of our stack into those that fit the MTU, straight
// into WireGuard's buffers: the stack makes TCP segments of up to 64 KiB and
// leaves their checksum to us (segmentation offload), which spares it most of
// its work per packet.
type segments struct {
	packet *stack.PacketBuffer
	parts  [][]byte // of its bytes, yet to be copied
	header []byte   // network's and transport's
	ip     int      // length of the network's
	left   int      // bytes of payload
	mss    int      // 0: the packet goes as it is
	seq    uint32
	id     uint16
	first  bool
}

// start takes a reference of the caller's over.
func (s *segments) start(packet *stack.PacketBuffer) {
	s.packet, s.parts, s.mss, s.first = packet, s.parts[:0], 0, true
	views, offset := packet.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if offset >= len(b) {
			offset -= len(b)
			continue
		}
		s.parts = append(s.parts, b[offset:])
		offset = 0
	}
	s.left = packet.Size()
	gso := packet.GSOOptions
	if gso.Type != stack.GSOTCPv4 && gso.Type != stack.GSOTCPv6 {
		return
	}
	s.mss = int(gso.MSS)
	s.ip = len(packet.NetworkHeader().Slice())
	s.header = append(s.header[:0], make([]byte, packet.HeaderSize())...)
	s.copy(s.header)
	s.left -= len(s.header)
	if s.mss == 0 {
		s.mss = max(s.left, 1)
	}
	s.seq = header.TCP(s.header[s.ip:]).SequenceNumber()
	if gso.Type == stack.GSOTCPv4 {
		s.id = header.IPv4(s.header).ID()
	}
}

func (s *segments) active() bool { return s.packet != nil }

// next writes the next packet and says how long it is. After the last one the
// segments are no longer active.
func (s *segments) next(to []byte) int {
	if s.mss == 0 {
		n := s.left
		s.copy(to[:n])
		s.end()
		return n
	}
	n := min(s.left, s.mss)
	to = to[:len(s.header)+n]
	copy(to, s.header)
	s.copy(to[len(s.header):])
	s.left -= n
	s.finish(to)
	s.first = false
	s.seq += uint32(n)
	s.id++
	if s.left == 0 {
		s.end()
	}
	return len(to)
}

// finish makes the headers those of one segment.
func (s *segments) finish(packet []byte) {
	tcp := header.TCP(packet[s.ip:])
	tcp.SetSequenceNumber(s.seq)
	if flags := tcp.Flags(); s.left > 0 || !s.first {
		if s.left > 0 {
			flags &^= header.TCPFlagFin | header.TCPFlagPsh
		}
		if !s.first {
			flags &^= header.TCPFlagCwr
		}
		tcp.SetFlags(uint8(flags))
	}
	var source, destination tcpip.Address
	if packet[0]>>4 == 4 {
		ip := header.IPv4(packet)
		ip.SetTotalLength(uint16(len(packet)))
		ip.SetID(s.id)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		source, destination = ip.SourceAddress(), ip.DestinationAddress()
	} else {
		ip := header.IPv6(packet)
		ip.SetPayloadLength(uint16(len(packet) - header.IPv6MinimumSize))
		source, destination = ip.SourceAddress(), ip.DestinationAddress()
	}
	tcp.SetChecksum(0)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, source, destination, uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
}

func (s *segments) copy(to []byte) {
	for len(to) > 0 && len(s.parts) > 0 {
		n := copy(to, s.parts[0])
		to = to[n:]
		if s.parts[0] = s.parts[0][n:]; len(s.parts[0]) == 0 {
			s.parts = s.parts[1:]
		}
	}
}

func (s *segments) end() {
	s.packet.DecRef()
	s.packet = nil
}

// hop makes packet, an IP packet of at least its header's minimum, one that has
// passed a router. It is false if the packet has passed its last.
func hop(packet []byte) bool {
	if packet[0]>>4 == 6 {
		if packet[7] <= 1 {
			return false
		}
		packet[7]--
		return true
	}
	if packet[8] <= 1 {
		return false
	}
	packet[8]--
	// RFC 1624, equation 3, for the word of TTL and protocol, which lost 0x0100.
	sum := uint32(^binary.BigEndian.Uint16(packet[10:])) + 0xfeff
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum))
	return true
}
