package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	mostForwards = 256                     // at a time; beyond, clients get SERVFAIL
	forwardTry   = 1500 * time.Millisecond // for one server's answer
	forwardAll   = 4 * time.Second         // for any server's: less than clients wait
	avoidFor     = 10 * time.Second        // a server that did not answer is asked last
	// hopsOption counts the servers like this one that a query has come through
	// (an EDNS option for local use, RFC 6891): two that forward to each other
	// would never end.
	hopsOption = 65313
	mostHops   = 2
)

// forwarder asks other servers.
type forwarder struct {
	servers []upstream
	slots   chan struct{} // one taken for each query under way
	counts  [2]atomic.Uint64
}

type upstream struct {
	addr  netip.AddrPort
	avoid *atomic.Int64 // unix ns until when
}

func newForwarder(servers []netip.AddrPort) *forwarder {
	f := &forwarder{slots: make(chan struct{}, mostForwards)}
	for _, a := range servers {
		f.servers = append(f.servers, upstream{a, new(atomic.Int64)})
	}
	return f
}

// take begins a query, unless there are too many; end ends it.
func (f *forwarder) take() bool {
	select {
	case f.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f *forwarder) end() { <-f.slots }

// answerOf is what another server answers, packed for the client; SERVFAIL also
// where what it says makes this one fall over.
func (s *Server) answerOf(ctx context.Context, req *request) (packet []byte, rcode int) {
	defer func() {
		if p := recover(); p != nil {
			s.fell(p, time.Now())
			packet, rcode = req.failed()
		}
	}()
	answered, err := s.forward.answer(ctx, req)
	if err != nil {
		return req.failed()
	}
	return req.passedOn(answered)
}

// passedOn is another server's answer, packed for the client; SERVFAIL where it
// has records that the library can read and not write again.
func (r *request) passedOn(answered *dns.Msg) (packet []byte, rcode int) {
	m := r.adopt(answered)
	packet = pack(m, r.limit)
	if new(dns.Msg).Unpack(packet) != nil {
		return r.failed()
	}
	return packet, m.Rcode
}

// failed is the answer where no other server gives one.
func (r *request) failed() (packet []byte, rcode int) {
	m := r.answer(dns.RcodeServerFailure, false)
	m.RecursionAvailable = true
	return pack(m, r.limit), m.Rcode
}

// answer asks the servers, one after the other until one answers.
func (f *forwarder) answer(ctx context.Context, req *request) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, forwardAll)
	defer cancel()
	answered, err := f.ask(ctx, req)
	if err != nil {
		f.counts[1].Add(1)
		return nil, err
	}
	f.counts[0].Add(1)
	return answered, nil
}

// adopt makes another server's answer one to this request.
func (r *request) adopt(m *dns.Msg) *dns.Msg {
	m.Id, m.Question, m.Compress = r.msg.Id, r.msg.Question, true
	m.RecursionDesired, m.RecursionAvailable, m.Authoritative, m.Truncated = r.msg.RecursionDesired, true, false, false
	if m.Rcode > 15 { // EDNS's, and about our query
		m.Rcode = dns.RcodeServerFailure
	}
	m.Extra = slices.DeleteFunc(m.Extra, func(rr dns.RR) bool { // what is between that server and us
		return rr.Header().Rrtype == dns.TypeOPT || rr.Header().Rrtype == dns.TypeTSIG
	})
	r.addOPT(m, false)
	return m
}

func (f *forwarder) ask(ctx context.Context, req *request) (m *dns.Msg, err error) {
	servers := slices.Clone(f.servers)
	now := time.Now().UnixNano()
	slices.SortStableFunc(servers, func(a, b upstream) int {
		avoidA, avoidB := a.avoid.Load() > now, b.avoid.Load() > now
		switch {
		case avoidA == avoidB:
			return 0
		case avoidB:
			return -1
		}
		return 1
	})
	var failed *dns.Msg // an answer, if nobody has a better one
	for _, s := range servers {
		if ctx.Err() != nil {
			break
		}
		m, err = exchange(ctx, s.addr, req)
		if err != nil {
			if ctx.Err() == nil {
				s.avoid.Store(time.Now().Add(avoidFor).UnixNano())
			}
			continue
		}
		if m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			return m, nil
		}
		if failed == nil {
			failed = m
		}
	}
	if failed != nil {
		return failed, nil
	}
	if err == nil {
		err = ctx.Err()
	}
	return nil, err
}

// exchange asks one server, by TCP where its answer by UDP does not fit, and
// without EDNS where it does not know that.
func exchange(ctx context.Context, server netip.AddrPort, req *request) (*dns.Msg, error) {
	query := req.onward(true)
	m, err := once(ctx, "udp", server, query)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		query = req.onward(false)
		m, err = once(ctx, "udp", server, query)
	}
	if err == nil && m.Truncated {
		query.Id = dns.Id()
		m, err = once(ctx, "tcp", server, query)
	}
	return m, err
}

// onward is the query as other servers get it: with an id that nobody can
// guess, and without what the client says of itself.
func (r *request) onward(edns bool) *dns.Msg {
	m := new(dns.Msg)
	m.Id, m.Question = dns.Id(), r.msg.Question
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = r.msg.RecursionDesired, r.msg.CheckingDisabled, r.msg.AuthenticatedData
	if edns {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetUDPSize(mostUDP)
		opt.SetDo(r.opt != nil && r.opt.Do())
		opt.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: hopsOption, Data: []byte{byte(r.hops + 1)}}}
		m.Extra = []dns.RR{opt}
	}
	return m
}

var errNoAnswer = errors.New("no answer to what was asked")

// once asks a server from a port of its own, which the kernel chooses at
// random. What is no answer to the question is somebody's guess: by UDP it is
// passed over.
func once(ctx context.Context, network string, server netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	packet, err := query.Pack()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTry)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	udp := network == "udp"
	c := &dns.Conn{Conn: conn, UDPSize: 4 << 10}
	if _, err := c.Write(packet); err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	for {
		body, err := c.ReadMsgHeader(nil)
		switch {
		case udp && errors.Is(err, dns.ErrShortRead):
			continue
		case err != nil:
			return nil, fmt.Errorf("answer of %s: %w", server, err)
		}
		m := new(dns.Msg)
		err = m.Unpack(body)
		if answers(m, query) && (err == nil || m.Truncated) {
			return m, nil
		}
		if !udp {
			return nil, fmt.Errorf("answer of %s: %w", server, errNoAnswer)
		}
	}
}

// answers says whether a message is an answer to the query.
func answers(m, query *dns.Msg) bool {
	if m.Id != query.Id || !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 { // as of an error
		return m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented || m.Rcode == dns.RcodeServerFailure || m.Rcode == dns.RcodeRefused
	}
	q, asked := m.Question[0], query.Question[0]
	return len(m.Question) == 1 && q.Qtype == asked.Qtype && q.Qclass == asked.Qclass && strings.EqualFold(q.Name, asked.Name)
}
