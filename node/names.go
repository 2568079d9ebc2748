package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/dns"
	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/internal/descriptor"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/prometheus/client_golang/prometheus"
)

// rosterEvery is how often it is looked who has names; backends are looked up
// at every query.
const rosterEvery = 500 * time.Millisecond

// names is this POP's DNS server and its sockets, of one address; nil: it has
// none. It is a dns.Mesh.
type names struct {
	*dns.Server
	n       *Node
	packets []net.PacketConn
	streams []net.Listener
	roster  atomic.Pointer[dns.Roster]
}

// openNames makes the server, where one is asked for, on the sockets that
// listen has.
func (n *Node) openNames(cfg *config.Config) (err error) {
	if n.names == nil {
		return nil
	}
	c := dns.Config{Domain: cfg.DNSDomain, Overlay: cfg.WGNetworks, Forward: cfg.DNSForward}
	n.names.Server, err = dns.New(c, n.names, n.log.With().Str("component", "dns").Logger())
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Origin("dns_domain"), err)
	}
	n.names.look()
	return nil
}

// listenNames has the sockets: those of the generation before, where they are
// at the address that is asked for, else new ones.
func (n *Node) listenNames(ctx context.Context, cfg *config.Config) error {
	streams, err := n.opts.Estate.Listeners(socketDNS)
	if err != nil {
		return err
	}
	packets, err := n.opts.Estate.Packets(socketDNSUDP)
	if err != nil {
		return err
	}
	inherited := &names{n: n, packets: packets}
	for _, ln := range streams {
		inherited.streams = append(inherited.streams, ln)
	}
	if len(streams) > 0 && len(packets) > 0 {
		held := streams[0].Addr().String()
		fromSystemd := !n.opts.Estate.Succeeds() // whose unit says which address it is
		if fromSystemd || cfg.DNSAddr != "" && n.will.addr("dns_addr", cfg.DNSAddr) == held {
			n.names = inherited
			return nil
		}
		n.log.Info().Str("setting", "dns_addr").Str("from", held).Str("to", cfg.DNSAddr).Msg("address changed with the upgrade")
		n.without = append(n.without, socketDNS, socketDNSUDP)
	}
	if (len(streams) > 0) != (len(packets) > 0) {
		now := "DNS is off"
		if cfg.DNSAddr != "" {
			now = "DNS is at dns_addr"
		}
		n.log.Warn().Int("tcp", len(streams)).Int("udp", len(packets)).
			Msg("inherited DNS socket closed, " + now + ": pass both, by TCP (FileDescriptorName=" + socketDNS + ") and by UDP (" + socketDNSUDP + ")")
	}
	inherited.close()
	if cfg.DNSAddr == "" {
		return nil
	}
	ln, packet, err := bindNames(ctx, cfg.DNSAddr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s %s: the address is in use, by UDP or TCP: stop what listens there (ss -lntup shows it; systemd-resolved has 127.0.0.53:53) or choose another port", cfg.Origin("dns_addr"), cfg.DNSAddr)
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%s %s: %w: a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE", cfg.Origin("dns_addr"), cfg.DNSAddr, syscall.EACCES)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", cfg.Origin("dns_addr"), cfg.DNSAddr, err)
	}
	n.names = &names{n: n, packets: []net.PacketConn{packet}, streams: []net.Listener{ln}}
	return nil
}

// freePorts is how many ports are tried where any will do: one may be free for
// TCP and not for UDP.
const freePorts = 16

// bindNames opens one address by TCP and by UDP.
func bindNames(ctx context.Context, addr string) (ln net.Listener, packet net.PacketConn, err error) {
	var lc net.ListenConfig
	for range freePorts {
		if ln, err = lc.Listen(ctx, "tcp", addr); err != nil {
			return nil, nil, err
		}
		if packet, err = lc.ListenPacket(ctx, "udp", ln.Addr().String()); err == nil {
			return ln, packet, nil
		}
		ln.Close()
		if _, port, _ := net.SplitHostPort(addr); port != "0" {
			break
		}
	}
	return nil, nil, err
}

// addr is where the server is asked; empty where there is none.
func (x *names) addr() string {
	if x == nil {
		return ""
	}
	return x.streams[0].Addr().String()
}

// serve answers until the POP has ended. In an upgrade that is when the next
// generation answers from the same sockets: up to then this one does, with what
// it knew last.
func (x *names) serve(ctx context.Context, support <-chan struct{}) error {
	answering, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	served, ending := make(chan struct{}), sync.WaitGroup{}
	ending.Go(func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-served:
		}
		if !x.n.retired.Load() { // what drains is still found by its name
			select {
			case <-support:
			case <-served:
			}
		}
	})
	err := x.Serve(answering, x.packets, x.streams...)
	close(served)
	ending.Wait()
	return err
}

// files are copies of the sockets for the next generation.
func (x *names) files() (streams, packets []*os.File, err error) {
	if x == nil {
		return nil, nil, nil
	}
	for _, ln := range x.streams {
		f, err := descriptor.Copy(ln.(*net.TCPListener))
		if err != nil {
			return streams, packets, err
		}
		streams = append(streams, f)
	}
	for _, c := range x.packets {
		f, err := descriptor.Copy(c.(*net.UDPConn))
		if err != nil {
			return streams, packets, err
		}
		packets = append(packets, f)
	}
	return streams, packets, nil
}

// close closes the sockets. After an orderly end they are.
func (x *names) close() {
	if x == nil {
		return
	}
	for _, c := range x.packets {
		_ = c.Close()
	}
	for _, ln := range x.streams {
		_ = ln.Close()
	}
}

// watch looks who has names, until ctx ends.
func (x *names) watch(ctx context.Context) {
	ticker := time.NewTicker(rosterEvery)
	defer ticker.Stop()
	for {
		x.look()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look takes over who is there now, where that has changed.
func (x *names) look() {
	next := x.n.named()
	if old := x.roster.Load(); old == nil || !reflect.DeepEqual(*old, *next) {
		x.roster.Store(next)
	}
}

// named are the POPs and plain devices by what membership and the overlay say.
func (n *Node) named() *dns.Roster {
	var members []membership.Member
	if m := n.mesh(); m != nil && m.ring != nil {
		members = m.ring.Members()
	}
	overlay := n.overlay.settled()
	if n.overlay.off() {
		rows := n.overlay.rows.Load()
		overlay, _ = wg.Settle(rows.pops, rows.devices, n.overlay.networks, wg.Roster{})
	}
	inside := map[string][]netip.Addr{}
	for _, p := range overlay.POPs {
		inside[p.Name] = addrs(p.Four, p.Six)
	}
	r := &dns.Roster{}
	self := false
	for _, m := range members {
		if !m.Self && (m.Tags[tagRole] != roleOurs || m.Status == membership.StatusLeft) {
			continue
		}
		self = self || m.Self
		p := dns.POP{Node: m.Name, Region: geo.Region(m.Tags[tagRegion]), Alive: m.Self || m.Status == membership.StatusAlive, Overlay: inside[m.Name]}
		if p.Addrs = p.Overlay; len(p.Addrs) == 0 {
			p.Addrs = addrs(m.Addr.Addr().Unmap())
		}
		r.POPs = append(r.POPs, p)
	}
	if !self { // without a mesh
		r.POPs = append(r.POPs, dns.POP{Node: n.here.Node, Region: n.here.Region, Alive: true, Addrs: addrs(n.cfg.AdvertiseAddr)})
	}
	for _, d := range overlay.Devices {
		r.Devices = append(r.Devices, dns.Device{Name: d.Name, Addrs: addrs(d.Four, d.Six)})
	}
	return r
}

// addrs are those that there are.
func addrs(all ...netip.Addr) (list []netip.Addr) {
	for _, a := range all {
		if a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

// Picture implements dns.Mesh.
func (x *names) Picture() (*mesh.Snapshot, *dns.Roster) {
	return x.n.router.Snapshot(), x.roster.Load()
}

// Rank implements dns.Mesh.
func (x *names) Rank(q route.Query, only geo.Region, most int) []route.Ranked {
	return x.n.router.Rank(q, only, most, time.Now(), rand.Uint64())
}

// Standing implements dns.Mesh.
func (x *names) Standing(app string, only geo.Region) uint64 {
	return x.n.router.Standing(app, only, time.Now())
}

// Place implements dns.Mesh.
func (x *names) Place(a netip.Addr) geo.Place { return x.n.geo.Lookup(a) }

var (
	descDNS        = desc("dns_queries_total", "DNS queries answered, by protocol and rcode.", "proto", "rcode")
	descDNSDropped = desc("dns_dropped_total", "Packets to the DNS server that were no query.")
	descDNSLimited = desc("dns_limited_total", "DNS queries by UDP that were answered with TC alone, as their network outside asked too much.")
	descDNSFell    = desc("dns_panics_total", "DNS queries that made the server panic, and were dropped.")
	descDNSTook    = desc("dns_answer_seconds", "Time from a DNS query to its answer, those included that other servers answered.")
	descDNSConns   = desc("dns_connections", "TCP connections of DNS clients open now.")
	descDNSForward = desc("dns_forwarded_total", "DNS queries for other names, by whether a server answered.", "result")
)

// names counts what the DNS server does.
func (c *collector) names(gauge, counter func(*prometheus.Desc, float64, ...string), out chan<- prometheus.Metric) {
	if c.n.names == nil {
		return
	}
	st := c.n.names.Stats()
	for _, a := range st.Answers {
		counter(descDNS, float64(a.N), a.Protocol, a.Rcode)
	}
	counter(descDNSDropped, float64(st.Dropped))
	counter(descDNSLimited, float64(st.Limited))
	counter(descDNSFell, float64(st.Fell))
	gauge(descDNSConns, float64(st.Connections))
	if len(c.n.cfg.DNSForward) > 0 {
		counter(descDNSForward, float64(st.Forwarded[0]), "answered")
		counter(descDNSForward, float64(st.Forwarded[1]), "failed")
	}
	out <- histogram(descDNSTook, dns.Bounds[:], st.Took[:], st.TookSum)
}
