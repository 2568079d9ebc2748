package clustertests

import (
	wire "encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// dnsLoad is what clients of a DNS server have seen.
type dnsLoad struct {
	addr    string
	packets [][]byte // what is asked, in turn
	mu      sync.Mutex
	took    []time.Duration
	rcodes  map[int]int
	lost    atomic.Int64
	first   error
}

func (l *dnsLoad) note(took []time.Duration, rcodes map[int]int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took = append(l.took, took...)
	for rcode, n := range rcodes {
		l.rcodes[rcode] += n
	}
	if l.first == nil {
		l.first = err
	}
}

// paced calls do at a rate, counted from the start: who is late catches up.
func paced(rate float64, lasts time.Duration, do func(i int)) {
	began := time.Now()
	for i := 0; ; i++ {
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if due.Sub(began) >= lasts {
			return
		}
		if wait := time.Until(due); wait > 0 {
			<-time.After(wait)
		}
		do(i)
	}
}

// byUDP asks from one socket, not waiting for answers; those that have not come
// two seconds after the last query are lost.
func (l *dnsLoad) byUDP(rate float64, lasts time.Duration) error {
	conn, err := net.Dial("udp", l.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	var sent [1 << 16]atomic.Int64 // unix ns by id; 0: answered
	began, asked, answered := time.Now(), 0, 0
	var reading sync.WaitGroup
	took, rcodes := []time.Duration{}, map[int]int{}
	reading.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			now := time.Now().UnixNano()
			if at := sent[wire.BigEndian.Uint16(buf)].Swap(0); n >= 12 && at != 0 {
				took = append(took, time.Duration(now-at))
				rcodes[int(buf[3]&15)]++
				answered++
			}
		}
	})
	packet := make([]byte, 0, 512)
	paced(rate, lasts, func(i int) {
		packet = append(packet[:0], l.packets[i%len(l.packets)]...)
		wire.BigEndian.PutUint16(packet, uint16(i))
		sent[uint16(i)].Store(time.Now().UnixNano())
		_, werr := conn.Write(packet)
		err = errors.Join(err, werr)
		asked++
	})
	_ = conn.SetReadDeadline(began.Add(lasts + 2*time.Second))
	reading.Wait()
	l.lost.Add(int64(asked - answered))
	l.note(took, rcodes, err)
	return err
}

// byTCP asks by connections of their own, of which some are used again.
func (l *dnsLoad) byTCP(rate float64, lasts time.Duration) {
	c := dns.Client{Net: "tcp", Timeout: 2 * time.Second}
	took, rcodes := []time.Duration{}, map[int]int{}
	var first error
	paced(rate, lasts, func(i int) {
		m := new(dns.Msg)
		if err := m.Unpack(l.packets[i%len(l.packets)]); err != nil {
			first = err
		}
		m.Id = dns.Id()
		began := time.Now()
		in, _, err := c.Exchange(m, l.addr)
		if err != nil {
			first = errors.Join(first, err)
			l.lost.Add(1)
			return
		}
		took = append(took, time.Since(began))
		rcodes[in.Rcode]++
	})
	l.note(took, rcodes, first)
}

// dnsQuestions are of every kind, as packets.
func dnsQuestions(t testing.TB) (packets [][]byte) {
	t.Helper()
	for app := range 3 {
		for _, q := range []struct {
			name  string
			qtype uint16
			edns  bool
		}{
			{"app-%d.internal.", dns.TypeA, false}, {"app-%d.internal.", dns.TypeAAAA, true}, {"nearest.app-%d.internal.", dns.TypeA, true},
			{"eu.app-%d.internal.", dns.TypeA, true}, {"_app-%d._tcp.internal.", dns.TypeSRV, true}, {"nobody-%d.internal.", dns.TypeA, true},
			{"app-%d-sa-7.backends.internal.", dns.TypeA, true}, {"%d.1.50.10.in-addr.arpa.", dns.TypePTR, true},
		} {
			m := new(dns.Msg).SetQuestion(fmt.Sprintf(q.name, app), q.qtype)
			if q.edns {
				m.SetEdns0(1232, true)
			}
			packet, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			packets = append(packets, packet)
		}
	}
	return packets
}

// TestDNSLoad: 5,000 queries a second, 1 % of them by TCP, for a minute or
// -minutes, while rows change: none is lost or SERVFAIL, and the POP answers 99 %
// within 5 ms of their arrival. What clients see is in the log: on a machine that
// does other things it says more about those.
//
//	EDGEPROXY_TEST=soak go test ./cluster-tests -run DNSLoad -minutes 1 -v
func TestDNSLoad(t *testing.T) {
	needs(t, "soak")
	lasts := time.Minute
	if *nemesisMinutes > 0 {
		lasts = time.Duration(*nemesisMinutes * float64(time.Minute))
	}
	const sockets, rate = 8, 5000.0
	var rows []row
	for app := range 3 {
		for i, region := range []string{"sa", "us", "eu"} {
			for n := range 30 {
				rows = append(rows, rowAt(fmt.Sprintf("app-%d-%s-%d", app, region, n), fmt.Sprintf("app-%d", app), region, fmt.Sprintf("10.50.%d.%d:%d", 1+i, 1+n, 8000+app)))
			}
		}
	}
	p := startPOP(t, rows, withDNS, unchecked, "EDGEPROXY_LOG_LEVEL=info")
	l := &dnsLoad{addr: p.DNS, packets: dnsQuestions(t), rcodes: map[int]int{}}
	var all sync.WaitGroup
	failed := make(chan error, sockets)
	for range sockets {
		all.Go(func() { failed <- l.byUDP(0.99*rate/sockets, lasts) })
	}
	for range 2 {
		all.Go(func() { l.byTCP(0.01*rate/2, lasts) })
	}
	all.Go(func() {
		paced(5, lasts, func(i int) {
			p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='app-1-us-%d'", 1+i%9, i%30))
		})
	})
	all.Wait()
	for range sockets {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d queries in %s, %.0f/s, rcodes %v, %d lost: %s", len(l.took), lasts, float64(len(l.took))/lasts.Seconds(), l.rcodes, l.lost.Load(), quantiles(l.took))
	t.Logf("the POP took %.0f %% of a core; %.1f %% of its answers in 1 ms, from the packet on",
		100*p.metric(t, "process_cpu_seconds_total")/lasts.Seconds(),
		100*p.metric(t, "edgeproxy_dns_answer_seconds_bucket", `le="0.001"`)/p.metric(t, "edgeproxy_dns_answer_seconds_count"))
	if l.first != nil {
		t.Error(l.first)
	}
	if n := l.lost.Load(); n > 0 {
		t.Errorf("%d queries were not answered", n)
	}
	for rcode, n := range l.rcodes {
		if rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
			t.Errorf("%d answers are %s", n, dns.RcodeToString[rcode])
		}
	}
	if want := int(0.99 * rate * lasts.Seconds()); len(l.took) < want {
		t.Errorf("%d queries answered, want %d", len(l.took), want)
	}
	if quick := p.metric(t, "edgeproxy_dns_answer_seconds_bucket", `le="0.005"`) / p.metric(t, "edgeproxy_dns_answer_seconds_count"); quick < 0.99 {
		t.Errorf("%.2f %% of the answers took the POP up to 5 ms, want 99", 100*quick)
	}
}
