package clustertests

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// withDNS has a POP answer DNS on a free port.
const withDNS = "EDGEPROXY_DNS_ADDR=127.0.0.1:0"

// lookup is one question, as dig has it.
type lookup struct {
	name, qtype string
	subnet      string // EDNS client subnet
	tcp         bool
}

// dig is what the POP answers, the data of a record a line, by dig where there
// is one.
func (p *pop) dig(t testing.TB, l lookup) string {
	t.Helper()
	if path, err := exec.LookPath("dig"); err == nil {
		host, port, _ := net.SplitHostPort(p.DNS)
		args := []string{"@" + host, "-p", port, "+short", "+norecurse", "+tries=3", "+time=5"}
		if l.tcp {
			args = append(args, "+tcp")
		}
		if l.subnet != "" {
			args = append(args, "+subnet="+l.subnet)
		}
		out, err := exec.Command(path, append(args, l.name, l.qtype)...).CombinedOutput()
		if err != nil {
			t.Fatalf("dig %+v: %v\n%s", l, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	var lines []string
	for _, rr := range p.resolve(t, l).Answer {
		lines = append(lines, strings.ReplaceAll(strings.TrimPrefix(rr.String(), rr.Header().String()), "\t", " "))
	}
	return strings.Join(lines, "\n")
}

// resolve is the whole answer.
func (p *pop) resolve(t testing.TB, l lookup) *dns.Msg {
	t.Helper()
	m, err := p.resolveBy(l)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (p *pop) resolveBy(l lookup) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(dns.Fqdn(l.name), dns.StringToType[l.qtype])
	m.SetEdns0(1232, false)
	if l.subnet != "" {
		prefix := netip.MustParsePrefix(l.subnet)
		o := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(prefix.Bits()), Address: net.IP(prefix.Addr().AsSlice())}
		if prefix.Addr().Is6() {
			o.Family = 2
		}
		m.IsEdns0().Option = []dns.EDNS0{o}
	}
	c := dns.Client{Timeout: 5 * time.Second}
	if l.tcp {
		c.Net = "tcp"
	}
	in, _, err := c.Exchange(m, p.dnsAddr())
	return in, err
}

func (p *pop) dnsAddr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.DNS
}

// finds is nil where the addresses of a name are these, in any order.
func (p *pop) finds(name string, want ...string) error {
	m, err := p.resolveBy(lookup{name: name, qtype: "A"})
	if err != nil {
		return err
	}
	found := map[string]bool{}
	for _, rr := range m.Answer {
		if a, is := rr.(*dns.A); is {
			found[a.A.String()] = true
		}
	}
	ok := len(found) == len(want)
	for _, w := range want {
		ok = ok && found[w]
	}
	if !ok {
		return fmt.Errorf("%s: %s has %v, want %v", p.Node, name, sorted(found), want)
	}
	return nil
}

// resolver is Go's own, pointed at the POP.
func (p *pop) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, p.DNS)
	}}
}

// notFound says whether a resolver has heard that a name does not exist.
func notFound(err error) bool {
	d, is := errors.AsType[*net.DNSError](err)
	return is && d.IsNotFound
}
