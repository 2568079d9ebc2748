package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/cobra"
)

func newDNS(c *cli) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "dns",
		GroupID: groupAsk,
		Short:   "Ask the DNS server of a POP",
		Long: `Asks the DNS server of a POP, which answers the names of the mesh where it has an
address (EDGEPROXY_DNS_ADDR):

  APP.internal            backends of the app, in the order in which the proxy
                          would pick for the client that asks; A and AAAA
  REGION.APP.internal     those of one region
  nearest.APP.internal    the first
  _APP._tcp.internal      the same with ports: SRV
  ID.backends.internal    one backend; REGION.backends.internal those of a region
  NODE.pops.internal      one POP; REGION.pops.internal those of a region
  NAME.peers.internal     a plain device of the overlay
  regions.internal        TXT; also pops.internal

and by PTR the addresses of the overlay.`,
		Example: `  edgeproxy dns query shop.internal`,
	})
	cmd.AddCommand(newDNSQuery(c))
	return cmd
}

// dnsQuery is what is asked, and where.
type dnsQuery struct {
	target
	server, client string
	tcp            bool
}

func newDNSQuery(c *cli) *cobra.Command {
	q := &dnsQuery{target: target{cli: c}}
	cmd := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "Look a name up, as dig does",
		Long: `Looks a name up at the DNS server of a POP, or at any other one (--server), and
prints the records. TYPE is A unless it is given; the name of an IP address is
looked up where NAME is one. With --client the answer is the one that a client in
that network would get. An answer that does not fit into a packet is asked for
again by TCP.

Exit code 1 where the name does not exist, is refused, or nobody answers; 0 also
where it exists and has no records of the type.` + runningHelp,
		Example: `  edgeproxy dns query shop.internal
  edgeproxy dns query _shop._tcp.internal SRV
  edgeproxy dns query nearest.shop.internal --client 200.160.2.0/24
  edgeproxy dns query 10.50.2.7
  edgeproxy dns query internal SOA --server 127.0.0.1:5353 --tcp --json`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := q.message(cmd, args)
			if err != nil {
				return err
			}
			server, err := q.where(cmd)
			if err != nil {
				return err
			}
			return q.print(cmd.Context(), server, m)
		},
	}
	q.addRunningFlags(cmd.Flags())
	cmd.Flags().StringVar(&q.server, "server", "", "DNS server, `host:port` (default that of the POP)")
	cmd.Flags().StringVar(&q.client, "client", "", "`address` or network to answer for (EDNS client subnet)")
	cmd.Flags().BoolVar(&q.tcp, "tcp", false, "ask by TCP at once")
	return cmd
}

// message is the query that the arguments ask for.
func (q *dnsQuery) message(cmd *cobra.Command, args []string) (*dns.Msg, error) {
	qtype := dns.TypeA
	switch len(args) {
	case 0:
		return nil, takes("a NAME")(cmd, args)
	case 1:
	case 2:
		known := false
		if qtype, known = dns.StringToType[strings.ToUpper(args[1])]; !known {
			return nil, usagef("%q is no type of records; want A, AAAA, SRV, TXT, PTR, SOA, NS or another one", args[1])
		}
	default:
		return nil, takes("a NAME", "a TYPE")(cmd, args)
	}
	name := dns.Fqdn(args[0])
	if _, err := netip.ParseAddr(args[0]); err == nil {
		if name, err = dns.ReverseAddr(args[0]); err != nil {
			return nil, usagef("%q has no name", args[0])
		}
		if len(args) == 1 {
			qtype = dns.TypePTR
		}
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return nil, usagef("%q is no domain name", args[0])
	}
	m := new(dns.Msg).SetQuestion(name, qtype)
	m.SetEdns0(1232, false)
	if q.client != "" {
		p, err := netip.ParsePrefix(q.client)
		if err != nil {
			var a netip.Addr
			a, err = netip.ParseAddr(q.client)
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if err != nil || p.Addr().Zone() != "" || p.Addr().Is4In6() {
			return nil, usagef("--client: %q is no IP address or network, such as 200.160.2.0/24", q.client)
		}
		p = p.Masked()
		o := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: net.IP(p.Addr().AsSlice())}
		if p.Addr().Is6() {
			o.Family = 2
		}
		m.IsEdns0().Option = []dns.EDNS0{o}
	}
	return m, nil
}

// where is the server to ask.
func (q *dnsQuery) where(cmd *cobra.Command) (string, error) {
	if q.server != "" {
		host, port, err := net.SplitHostPort(q.server)
		if err != nil {
			host, port = strings.Trim(q.server, "[]"), "53"
		}
		return net.JoinHostPort(host, port), nil
	}
	r, err := q.reach(cmd)
	if err != nil {
		return "", err
	}
	defer r.Close()
	addr := r.pop.DNS
	if r.file == "" {
		st, err := r.Status(cmd.Context())
		if err != nil {
			return "", err
		}
		addr = st.DNS
	}
	if addr == "" {
		return "", errors.New("the POP answers no DNS: start it with EDGEPROXY_DNS_ADDR, such as 127.0.0.1:5353, or name another server with --server host:port")
	}
	if at, err := netip.ParseAddrPort(addr); err == nil && at.Addr().IsUnspecified() {
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at.Port()).String()
		if at.Addr().Is6() {
			addr = net.JoinHostPort("localhost", strconv.Itoa(int(at.Port()))) // of either kind
		}
	}
	return addr, nil
}

const (
	dnsTry   = 2 * time.Second // for an answer
	dnsTries = 3
)

// ask asks the server, again where a packet may be lost.
func (q *dnsQuery) ask(ctx context.Context, server string, m *dns.Msg) (in *dns.Msg, network string, took time.Duration, err error) {
	network = "udp"
	if q.tcp {
		network = "tcp"
	}
	for try := 1; ; try++ {
		client := dns.Client{Net: network, Timeout: dnsTry}
		in, took, err = client.ExchangeContext(ctx, m, server)
		switch {
		case err == nil && in.Truncated && network == "udp":
			network = "tcp"
		case err == nil || try >= dnsTries || ctx.Err() != nil:
			return in, network, took, err
		}
	}
}

// dnsAnswer is what --json prints.
type dnsAnswer struct {
	Server        string      `json:"server"`
	Protocol      string      `json:"protocol"`
	Name          string      `json:"name"`
	Type          string      `json:"type"`
	Rcode         string      `json:"rcode"`
	Authoritative bool        `json:"authoritative"`
	Recursion     bool        `json:"recursion_available"`    // it asks other servers for this client
	Scope         *uint8      `json:"client_scope,omitempty"` // how much of the client's network the answer is for
	Took          float64     `json:"took_ms"`
	Answers       []dnsRecord `json:"answers"`
	Authority     []dnsRecord `json:"authority"`
	Additional    []dnsRecord `json:"additional"`
}

type dnsRecord struct {
	Name string `json:"name"`
	TTL  uint32 `json:"ttl"`
	Type string `json:"type"`
	Data string `json:"data"`
}

func dnsRecords(list []dns.RR) []dnsRecord {
	all := []dnsRecord{}
	for _, rr := range list {
		if h := rr.Header(); h.Rrtype != dns.TypeOPT {
			all = append(all, dnsRecord{h.Name, h.Ttl, dns.Type(h.Rrtype).String(), strings.TrimPrefix(rr.String(), h.String())})
		}
	}
	return all
}

func (q *dnsQuery) print(ctx context.Context, server string, m *dns.Msg) error {
	asked := m.Question[0]
	in, network, took, err := q.ask(ctx, server, m)
	if err != nil {
		return fmt.Errorf("%s does not answer by %s: %w; is it the address of a DNS server (\"edgeproxy status\" has the POP's)?", server, strings.ToUpper(network), err)
	}
	a := dnsAnswer{
		Server: server, Protocol: network, Name: asked.Name, Type: dns.Type(asked.Qtype).String(), Rcode: dns.RcodeToString[in.Rcode],
		Authoritative: in.Authoritative, Recursion: in.RecursionAvailable, Took: float64(took) / float64(time.Millisecond),
		Answers: dnsRecords(in.Answer), Authority: dnsRecords(in.Ns), Additional: dnsRecords(in.Extra),
	}
	if opt := in.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if s, is := o.(*dns.EDNS0_SUBNET); is {
				a.Scope = &s.SourceScope
			}
		}
	}
	if q.json {
		err = q.cli.json(a)
	} else {
		err = q.cli.dnsRecords(a.Answers)
	}
	if err != nil {
		return err
	}
	if err := dnsRefusal(a); err != nil {
		return err
	}
	if len(a.Answers) == 0 && !q.json {
		q.cli.complain(fmt.Sprintf("%s exists, and has no records of type %s", a.Name, a.Type))
	}
	return nil
}

// dnsRecords prints a table for people, and for programs a record a line.
func (c *cli) dnsRecords(all []dnsRecord) error {
	if len(all) == 0 {
		return nil
	}
	if isTerminal(c.stdout) {
		var rows [][]cell
		for _, r := range all {
			rows = append(rows, []cell{{text: r.Name}, {text: strconv.FormatUint(uint64(r.TTL), 10)}, {text: r.Type}, {text: r.Data}})
		}
		return c.table([]column{{name: "name"}, {"ttl", true}, {name: "type"}, {name: "data"}}, rows)
	}
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintln(&b, printable(fmt.Sprintf("%s %d %s %s", r.Name, r.TTL, r.Type, strings.ReplaceAll(r.Data, "\t", " "))))
	}
	return c.print(b.String())
}

// dnsRefusal is what an answer that is none says, for people.
func dnsRefusal(a dnsAnswer) error {
	switch a.Rcode {
	case "NOERROR":
		return nil
	case "NXDOMAIN":
		return fmt.Errorf("%s does not exist, says %s (NXDOMAIN)", a.Name, a.Server)
	case "REFUSED":
		if t := dns.StringToType[a.Type]; t >= 128 && t < dns.TypeANY { // RFC 6895: no data, but transfers and the like
			return fmt.Errorf("%s refuses queries of type %s (REFUSED)", a.Server, a.Type)
		}
		why := "EDGEPROXY_DNS_FORWARD names no server for it, or this client is none of those for whom it asks them"
		if a.Recursion {
			why = "of the servers that it asks for other names (EDGEPROXY_DNS_FORWARD) those that answer refuse it"
		}
		return fmt.Errorf("%s does not answer for %s (REFUSED): it is in another domain than EDGEPROXY_DNS_DOMAIN, and %s", a.Server, a.Name, why)
	case "SERVFAIL":
		return fmt.Errorf("%s could not find out about %s (SERVFAIL): the servers that it asks for other names (EDGEPROXY_DNS_FORWARD) do not answer, or could not either", a.Server, a.Name)
	}
	return fmt.Errorf("%s answers %s to %s %s", a.Server, a.Rcode, a.Name, a.Type)
}
