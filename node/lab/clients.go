package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	proxyproto "github.com/pires/go-proxyproto"
)

// sources are addresses of well-known public services, a few for each
// continent. Which country they are in is asked of the database, not written here.
var sources = []string{
	"200.160.2.3", "200.45.191.35", "146.83.100.1", "181.48.0.1", "200.62.191.1", // South America
	"8.8.8.8", "142.103.1.1", "132.248.10.1", "17.0.0.1", // North America
	"193.99.144.80", "212.27.48.10", "212.58.244.1", "193.206.158.1", "130.206.1.2", "2001:67c:2e8:22::c100:68b", // Europe
	"203.178.141.194", "165.21.83.88", "168.126.63.1", "14.139.34.1", "203.50.2.71", // Asia and Oceania
	"197.248.0.1", "196.4.160.2", "41.67.128.1", "163.121.128.134", // Africa
}

// client is where some of the traffic comes from.
type client struct {
	addr  netip.Addr
	place geo.Place
}

// clients looks the sources up in the database that the POP uses.
func clients(r *mmdb.Resolver) ([]client, error) {
	list := make([]client, len(sources))
	for i, s := range sources {
		addr := netip.MustParseAddr(s)
		list[i] = client{addr, r.Lookup(addr)}
		if list[i].place.Country == "" {
			return nil, fmt.Errorf("the country database does not know %s", addr)
		}
	}
	return list, nil
}

// neighbour is another address of the same network, so that the traffic of a
// country is more than one client; its own where the neighbour is elsewhere.
func (c client) neighbour(r *mmdb.Resolver, n byte) netip.Addr {
	b := c.addr.AsSlice()
	b[len(b)-1] = n
	if c.addr.Is6() {
		b[7] = n // the /64 is the client, for affinity
	}
	addr, _ := netip.AddrFromSlice(b)
	if r.Lookup(addr).Country != c.place.Country {
		return c.addr
	}
	return addr
}

// visit is one connection's outcome.
type visit struct {
	country string
	region  geo.Region // where the client is
	backend string     // who answered
	served  geo.Region // where that is
	first   time.Duration
	err     error
}

var greeting = regexp.MustCompile(`^Backend: (\S+) \| Region: (\S+) \| Your IP: `)

// call connects to the POP as if from addr, reads who answers, has a line
// echoed, and stays for a while, as a user would.
func (c client) call(ctx context.Context, pop string, addr netip.Addr, stay time.Duration) visit {
	v := visit{country: c.place.Country, region: c.place.Region}
	began := time.Now()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", pop)
	if err != nil {
		v.err = err
		return v
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	v.err = v.talk(conn, addr, began)
	if v.err == nil {
		select {
		case <-ctx.Done():
		case <-time.After(stay):
		}
	}
	return v
}

func (v *visit) talk(conn net.Conn, addr netip.Addr, began time.Time) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 40000))
	to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} // documentation addresses: the POP ignores it
	if addr.Is6() {
		to.IP = net.ParseIP("2001:db8::1")
	}
	if _, err := proxyproto.HeaderProxyFromAddrs(2, from, to).WriteTo(conn); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	line, err := r.ReadString('\n')
	if err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	v.first = time.Since(began)
	m := greeting.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("unexpected greeting %q", line)
	}
	v.backend, v.served = m[1], geo.Region(m[2])
	if _, err := fmt.Fprintf(conn, "hello from %s\n", v.country); err != nil {
		return err
	}
	if line, err = r.ReadString('\n'); err != nil {
		return fmt.Errorf("no echo: %w", err)
	}
	if want := fmt.Sprintf("[%s] Echo: hello from %s\n", v.backend, v.country); line != want {
		return fmt.Errorf("echo came back as %q, want %q", line, want)
	}
	return nil
}
