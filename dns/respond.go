package dns

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	headerLen  = 12
	mostUDP    = 1232 // bytes of an answer by UDP, which no path fragments (DNS flag day 2020)
	leastUDP   = dns.MinMsgSize
	mostTCP    = dns.MaxMsgSize
	ednsOldest = 0 // and newest
)

// request is a query that makes sense so far.
type request struct {
	msg    dns.Msg
	opt    *dns.OPT          // nil: the client knows no EDNS
	subnet *dns.EDNS0_SUBNET // nil: the client says none
	from   netip.Addr
	limit  int // bytes of the answer
	hops   int // other servers like this one that it has come through
}

var errFormat = errors.New("makes no sense")

// read takes a packet apart. A nil request: there is nothing to answer, or
// what is returned as reply. The packet may hold anything.
func read(packet []byte, from netip.Addr, udp bool) (req *request, reply *dns.Msg) {
	if len(packet) < headerLen || packet[2]&0x80 != 0 {
		return nil, nil // also what is an answer: two servers would talk for ever
	}
	req = &request{from: from, limit: mostTCP}
	if udp {
		req.limit = leastUDP
	}
	err := req.msg.Unpack(packet)
	if req.msg.Opcode != dns.OpcodeQuery {
		return nil, req.bare(packet, dns.RcodeNotImplemented)
	}
	if err != nil || binary.BigEndian.Uint16(packet[4:]) != 1 || len(req.msg.Question) != 1 {
		return nil, req.bare(packet, dns.RcodeFormatError)
	}
	if err := req.readOPT(udp); err != nil {
		return nil, req.bare(packet, dns.RcodeFormatError)
	}
	if req.opt != nil && req.opt.Version() > ednsOldest {
		return nil, req.answer(dns.RcodeBadVers, false)
	}
	switch q := req.msg.Question[0]; {
	case q.Qclass != dns.ClassINET,
		q.Qtype == dns.TypeNone, q.Qtype == dns.TypeOPT, q.Qtype >= 128 && q.Qtype < dns.TypeANY: // transfers and the like
		return nil, req.answer(dns.RcodeRefused, false)
	}
	return req, nil
}

// bare is an answer to what was not understood: the packet's id, and what
// could be read of the question, and of EDNS: without an OPT record it would say
// that this server knows none (RFC 6891, section 7).
func (r *request) bare(packet []byte, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.Id = binary.BigEndian.Uint16(packet)
	m.Response = true
	m.Opcode = int(packet[2]>>3) & 15
	m.RecursionDesired = packet[2]&1 != 0
	m.Rcode = rcode
	if len(r.msg.Question) == 1 && r.msg.Opcode == dns.OpcodeQuery {
		m.Question = r.msg.Question
	}
	(&request{opt: r.msg.IsEdns0()}).addOPT(m, false) // none of its options, which may be what is wrong
	return m
}

// readOPT reads what EDNS says (RFC 6891, 7871).
func (r *request) readOPT(udp bool) error {
	for _, rr := range r.msg.Extra {
		opt, is := rr.(*dns.OPT)
		if !is {
			continue
		}
		if r.opt != nil || opt.Hdr.Name != "." {
			return errFormat
		}
		r.opt = opt
	}
	if r.opt == nil {
		return nil
	}
	if udp {
		r.limit = min(max(int(r.opt.UDPSize()), leastUDP), mostUDP)
	}
	for _, o := range r.opt.Option {
		switch o := o.(type) {
		case *dns.EDNS0_SUBNET:
			if r.subnet != nil || o.SourceScope != 0 || o.Family != 0 && !masked(o.Address, o.Family, o.SourceNetmask) {
				return errFormat
			}
			r.subnet = o
		case *dns.EDNS0_LOCAL:
			if o.Code == hopsOption && len(o.Data) == 1 {
				r.hops = int(o.Data[0])
			}
		}
	}
	return nil
}

// masked says whether nothing but zeros follows the prefix.
func masked(ip net.IP, family uint16, bits uint8) bool {
	a := subnetAddr(ip, family)
	p, err := a.Prefix(int(bits))
	return err == nil && p.Addr() == a
}

// subnetAddr is an address as its family says, which net.IP forgets.
func subnetAddr(ip net.IP, family uint16) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	if family == 1 {
		return a.Unmap()
	}
	return a
}

// client is for whom the answer is. A network stands for all in it.
func (r *request) client() client {
	if r.subnet == nil {
		return client{addr: r.from, exact: true}
	}
	if r.subnet.SourceNetmask == 0 {
		return client{} // who asks does not want to be told apart
	}
	a := subnetAddr(r.subnet.Address, r.subnet.Family)
	exact := a.Is4() && r.subnet.SourceNetmask == 32 || a.Is6() && !a.Is4In6() && r.subnet.SourceNetmask >= 64
	return client{addr: a.Unmap(), exact: exact}
}

// answer begins an answer: the question as it was asked, and what EDNS asks for.
func (r *request) answer(rcode int, tailored bool) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Response, m.Rcode = r.msg.Id, true, rcode
	m.RecursionDesired, m.CheckingDisabled = r.msg.RecursionDesired, r.msg.CheckingDisabled
	m.Question = r.msg.Question
	m.Compress = true
	r.addOPT(m, tailored)
	return m
}

func (r *request) addOPT(m *dns.Msg, tailored bool) {
	if r.opt == nil {
		return
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	opt.SetUDPSize(mostUDP)
	opt.SetDo(r.opt.Do()) // RFC 3225; nothing is signed
	if r.subnet != nil {
		scope := uint8(0)
		if tailored {
			scope = r.subnet.SourceNetmask
		}
		opt.Option = []dns.EDNS0{&dns.EDNS0_SUBNET{
			Code: dns.EDNS0SUBNET, Family: r.subnet.Family, Address: r.subnet.Address,
			SourceNetmask: r.subnet.SourceNetmask, SourceScope: scope,
		}}
	}
	m.Extra = append(m.Extra, opt)
}

// pack is the message in so many bytes, with TC set where not all of the answer
// fits; what is only there to save a question goes first.
func pack(m *dns.Msg, limit int) []byte {
	packet, err := m.Pack()
	if err == nil && len(packet) > limit && len(m.Extra) > 0 {
		m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeOPT })
		packet, err = m.Pack()
	}
	if err == nil && len(packet) > limit || errors.Is(err, dns.ErrBuf) {
		m.Truncate(limit)
		m.Compress = true
		packet, err = m.Pack()
	}
	if err != nil || len(packet) > limit {
		m.Answer, m.Ns, m.Extra = nil, nil, nil
		m.Rcode = dns.RcodeServerFailure
		packet, _ = m.Pack() // a question that came in a packet goes into one
	}
	return packet
}

// reply is what follows from a packet: an answer, or a request that somebody
// else has to answer, or neither.
type reply struct {
	packet  []byte
	rcode   int
	forward *request
}

// respondSafely is respond that ends nothing else: what reads packets is
// another's, and this process has clients beside those of DNS.
func (s *Server) respondSafely(packet []byte, from netip.Addr, udp bool, now time.Time) (r reply) {
	defer func() {
		if p := recover(); p != nil {
			s.fell(p, now)
			r = reply{}
		}
	}()
	return s.respond(packet, from, udp, now)
}

const fellEvery = 10 * time.Second // is logged

// fell tells of a query that the server fell over.
func (s *Server) fell(p any, now time.Time) {
	s.metrics.fell.Add(1)
	if last := s.fellAt.Load(); now.UnixNano()-last >= int64(fellEvery) && s.fellAt.CompareAndSwap(last, now.UnixNano()) {
		s.log.Error().Interface("err", p).Bytes("stack", debug.Stack()).Msg("a query makes the server panic: dropped")
	}
}

// respond computes what follows from a packet.
func (s *Server) respond(packet []byte, from netip.Addr, udp bool, now time.Time) reply {
	from = from.Unmap()
	req, m := read(packet, from, udp)
	if m != nil {
		return reply{packet: pack(m, leastUDP), rcode: m.Rcode}
	}
	if req == nil {
		return reply{}
	}
	q := req.msg.Question[0]
	inside := s.inside(from)
	mayForward := s.forward != nil && inside
	z := s.zoneOf(dns.CanonicalName(q.Name))
	switch {
	case z == nil && mayForward && req.hops < mostHops:
		return reply{forward: req}
	case z == nil:
		m = req.answer(dns.RcodeRefused, false)
	case udp && !inside && s.rate.over(from, now):
		m = req.answer(dns.RcodeSuccess, false)
		m.Authoritative, m.Truncated = true, true
		s.metrics.limited.Add(1)
	default:
		who := req.client()
		if req.subnet != nil && !inside {
			who.exact = false // strangers are not told which backend somebody has
		}
		a := s.current(now).answer(question{q.Name, q.Qtype, who, req.limit}, z, s.mesh, now)
		m = req.answer(a.rcode, a.tailored)
		m.Authoritative = true
		m.Answer, m.Ns, m.Extra = a.records, a.authority, append(a.further, m.Extra...)
	}
	m.RecursionAvailable = mayForward
	return reply{packet: pack(m, req.limit), rcode: m.Rcode}
}

// inside says whether a client is one of ours, for whom other names are looked
// up: not whoever finds this server on the internet. Behind address translation
// that is not known (docs/dns.md).
func (s *Server) inside(from netip.Addr) bool {
	return from.IsLoopback() || from.IsPrivate() || from.IsLinkLocalUnicast() ||
		slices.ContainsFunc(s.overlay, func(p netip.Prefix) bool { return p.Contains(from) })
}
