package device

import (
	"bytes"
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// coalescer joins TCP segments of one batch that follow each other, so that the
// stack has one large one to look at (generic receive offload, as Linux does
// it). gVisor has one, too, whose Flush leaves packets behind where two streams
// share a bucket.
type coalescer struct {
	flows   [8]flow
	open    int // of flows, the first
	deliver func(tcpip.NetworkProtocolNumber, *buffer.View)
}

// flow is a run of segments of one stream.
type flow struct {
	head     []byte // the first segment
	headers  int    // bytes of its headers, as of all
	payloads [][]byte
	size     int // of the payloads
	mss      int // of the first
	next     uint32
	push     bool
}

// segment is a packet that may be joined to others.
type segment struct {
	ip      int // bytes of the network's header
	headers int // of both
	flags   byte
}

const (
	tcpProtocol = byte(header.TCPProtocolNumber)
	ackFlag     = byte(header.TCPFlagAck)
	pushFlag    = byte(header.TCPFlagPsh)
)

// parseSegment says whether packet is TCP, unfragmented and without options of
// IP; it need not have a payload.
func parseSegment(p []byte) (s segment, ok bool) {
	switch {
	case len(p) >= header.IPv4MinimumSize+header.TCPMinimumSize && p[0] == 0x45:
		s.ip = header.IPv4MinimumSize
		if p[9] != tcpProtocol || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 || int(binary.BigEndian.Uint16(p[2:])) != len(p) {
			return s, false
		}
	case len(p) >= header.IPv6MinimumSize+header.TCPMinimumSize && p[0]>>4 == 6:
		s.ip = header.IPv6MinimumSize
		if p[6] != tcpProtocol || int(binary.BigEndian.Uint16(p[4:]))+header.IPv6MinimumSize != len(p) {
			return s, false
		}
	default:
		return s, false
	}
	s.headers = s.ip + int(p[s.ip+12]>>4)*4
	s.flags = p[s.ip+13]
	return s, s.headers >= s.ip+header.TCPMinimumSize && s.headers <= len(p)
}

// add takes one packet, which stays the caller's and unchanged until flush.
func (c *coalescer) add(p []byte) {
	s, ok := parseSegment(p)
	if !ok {
		c.single(p)
		return
	}
	i := c.find(p, s)
	if payload := len(p) - s.headers; payload == 0 || s.flags&^pushFlag != ackFlag {
		if i >= 0 {
			c.flush(i)
		}
		c.single(p)
		return
	} else if i >= 0 && c.flows[i].follows(p, s) {
		f := &c.flows[i]
		f.payloads = append(f.payloads, p[s.headers:])
		f.size += payload
		f.next += uint32(payload)
		if f.push = s.flags&pushFlag != 0; f.push || payload < f.mss {
			c.flush(i)
		}
		return
	}
	if i >= 0 {
		c.flush(i)
	}
	if s.flags&pushFlag != 0 {
		c.single(p)
		return
	}
	if c.open == len(c.flows) {
		c.flush(0)
	}
	f := &c.flows[c.open]
	c.open++
	*f = flow{
		head: p, headers: s.headers, payloads: append(f.payloads[:0], p[s.headers:]), size: len(p) - s.headers, mss: len(p) - s.headers,
		next: binary.BigEndian.Uint32(p[s.ip+4:]) + uint32(len(p)-s.headers),
	}
}

// find is the stream that p is of, by version, addresses and ports; -1: none.
func (c *coalescer) find(p []byte, s segment) int {
	from := s.ip - 8 // IPv4: addresses and ports are bytes 12 to 23
	if s.ip == header.IPv6MinimumSize {
		from = 8
	}
	for i := range c.flows[:c.open] {
		if h := c.flows[i].head; h[0]>>4 == p[0]>>4 && bytes.Equal(h[from:s.ip+4], p[from:s.ip+4]) {
			return i
		}
	}
	return -1
}

// follows says that p is the next of the stream, and that its headers are those
// of the others but for numbers, length and checksum.
func (f *flow) follows(p []byte, s segment) bool {
	if s.headers != f.headers || len(p)-s.headers > f.mss || s.headers+f.size+len(p)-s.headers > 65535 ||
		binary.BigEndian.Uint32(p[s.ip+4:]) != f.next {
		return false
	}
	if s.ip == header.IPv4MinimumSize {
		if p[1] != f.head[1] || p[6] != f.head[6] || p[8] != f.head[8] { // type of service, flags, TTL
			return false
		}
	} else if !bytes.Equal(p[:4], f.head[:4]) || p[7] != f.head[7] { // class and label, hop limit
		return false
	}
	tcp, head := p[s.ip:s.headers], f.head[s.ip:f.headers]
	return bytes.Equal(tcp[8:12], head[8:12]) && bytes.Equal(tcp[14:16], head[14:16]) && bytes.Equal(tcp[18:], head[18:])
}

// flush delivers the flow, and moves the rest up to keep their order.
func (c *coalescer) flush(i int) {
	f := &c.flows[i]
	v := buffer.NewView(f.headers + f.size)
	v.Write(f.head[:f.headers])
	for _, p := range f.payloads {
		v.Write(p)
	}
	b := v.AsSlice()
	proto, tcp := header.IPv4ProtocolNumber, header.IPv4MinimumSize
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	} else {
		proto, tcp = header.IPv6ProtocolNumber, header.IPv6MinimumSize
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-header.IPv6MinimumSize))
	}
	if f.push {
		b[tcp+13] |= pushFlag
	}
	done := *f
	copy(c.flows[i:c.open], c.flows[i+1:c.open])
	c.open--
	clear(done.payloads)
	c.flows[c.open] = flow{payloads: done.payloads[:0]}
	c.deliver(proto, v)
}

func (c *coalescer) flushAll() {
	for c.open > 0 {
		c.flush(0)
	}
}

func (c *coalescer) single(p []byte) {
	proto := header.IPv4ProtocolNumber
	if p[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	c.deliver(proto, buffer.NewViewWithData(p))
}
