package dns

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Protocols by which queries come.
const (
	byUDP = iota
	byTCP
	protocols
)

var protocolNames = [protocols]string{"udp", "tcp"}

const rcodes = dns.RcodeBadVers + 1

// Bounds are the upper bounds of the buckets of the times that answers took.
var Bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, time.Second,
}

// metrics count what the server does: atomic adds on the way of a query.
type metrics struct {
	answers [protocols][rcodes]atomic.Uint64
	dropped [protocols]atomic.Uint64 // what was no query
	limited atomic.Uint64            // queries whose clients have to ask again by TCP
	fell    atomic.Uint64            // what the server fell over
	took    [len(Bounds) + 1]atomic.Uint64
	sum     atomic.Int64 // ns
	conns   atomic.Int64
}

// answered counts an answer and how long it took, from the packet on.
func (m *metrics) answered(protocol, rcode int, took time.Duration) {
	if rcode < 0 || rcode >= rcodes {
		rcode = dns.RcodeServerFailure
	}
	m.answers[protocol][rcode].Add(1)
	i := 0
	for i < len(Bounds) && took > Bounds[i] {
		i++
	}
	m.took[i].Add(1)
	m.sum.Add(int64(took))
}

// Count is how many queries by one protocol were answered with one rcode.
type Count struct {
	Protocol, Rcode string
	N               uint64
}

// Stats are the figures at one moment.
type Stats struct {
	Answers     []Count // those that are not 0
	Dropped     uint64  // packets that were no query
	Limited     uint64  // queries by UDP of networks that ask too much
	Fell        uint64  // queries that the server fell over
	Took        [len(Bounds) + 1]uint64
	TookSum     time.Duration
	Connections int64     // by TCP, open now
	Forwarded   [2]uint64 // answered by another server; by none
}

// Stats reads the figures, each exact, not all of the same instant.
func (s *Server) Stats() Stats {
	st := Stats{TookSum: time.Duration(s.metrics.sum.Load()), Connections: s.metrics.conns.Load(), Limited: s.metrics.limited.Load(), Fell: s.metrics.fell.Load()}
	for p := range protocols {
		st.Dropped += s.metrics.dropped[p].Load()
		for rcode := range rcodes {
			if n := s.metrics.answers[p][rcode].Load(); n > 0 {
				st.Answers = append(st.Answers, Count{protocolNames[p], rcodeName(rcode), n})
			}
		}
	}
	for i := range st.Took {
		st.Took[i] = s.metrics.took[i].Load()
	}
	if s.forward != nil {
		st.Forwarded = [2]uint64{s.forward.counts[0].Load(), s.forward.counts[1].Load()}
	}
	return st
}

func rcodeName(rcode int) string {
	if rcode == dns.RcodeBadVers {
		return "BADVERS" // which shares its number with BADSIG
	}
	if name := dns.RcodeToString[rcode]; name != "" {
		return name
	}
	return strconv.Itoa(rcode)
}
