package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/geo/mmdb"
	proxyproto "github.com/pires/go-proxyproto"
)

// sources are addresses of universities, exchanges and other well-known
// networks in some thirty countries on all continents. Which country one is in
// is asked of the database, not written here.
var sources = []string{
	"200.160.2.3", "200.45.191.35", "146.83.100.1", "181.48.0.1", "200.62.191.1", "179.27.169.1", // South America
	"8.8.8.8", "142.103.1.1", "132.248.10.1", "163.178.1.1", "136.145.1.1", "168.234.1.1", "168.77.1.1", // North and Central America
	"193.99.144.80", "212.27.48.10", "212.58.244.1", "193.206.158.1", "130.206.1.2", "2001:67c:2e8:22::c100:68b", "194.204.159.1", "130.242.0.1", // Europe
	"203.178.141.194", "165.21.83.88", "168.126.63.1", "14.139.34.1", "202.96.209.5", "203.162.4.191", "202.134.0.155", "213.42.20.20", // Asia
	"203.50.2.71", "202.27.184.3", // Oceania
	"197.248.0.1", "196.4.160.2", "41.67.128.1", "163.121.128.134", "212.217.0.1", // Africa
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
	client  client
	pop     *pop
	scene   int // when it began
	began   time.Time
	backend string     // who answered
	served  geo.Region // where that is
	first   time.Duration
	err     error
	broke   bool // it failed because its backend died
	astray  bool // it should have gone elsewhere
	crowd   bool // it came to see a share
}

var greeting = regexp.MustCompile(`^Backend: (\S+) \| Region: (\S+) \| Your IP: `)

// call connects to the POP as if from addr, reads who answers, has a line
// echoed, stays for a while, as a user would, and has another one echoed: what
// happens meanwhile must not cut it.
func (v *visit) call(ctx context.Context, addr netip.Addr, stay time.Duration) {
	v.began = time.Now()
	conn, err := dial(ctx, v.pop.listen)
	if err != nil {
		v.err = err
		return
	}
	defer conn.Close()
	if v.err = sayWho(conn, addr); v.err != nil {
		return
	}
	if v.err = v.listen(conn); v.err != nil {
		return
	}
	v.first = time.Since(v.began)
	if v.err = conn.echo(v.backend, "hello from "+v.client.place.Country); v.err != nil || stay == 0 {
		return
	}
	if pause(ctx, stay) {
		v.err = conn.echo(v.backend, "still here")
	}
}

// talk is a connection whose lines are read.
type talk struct {
	net.Conn
	in      *bufio.Reader
	release func() bool
}

const (
	dialTimeout = 10 * time.Second
	talkTimeout = 20 * time.Second
)

// dial opens a connection that breaks with ctx.
func dial(ctx context.Context, addr string) (*talk, error) {
	conn, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(talkTimeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	release := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &talk{Conn: conn, in: bufio.NewReader(conn), release: release}, nil
}

func (t *talk) Close() error {
	t.release()
	return t.Conn.Close()
}

// sayWho writes the PROXY header.
func sayWho(conn net.Conn, addr netip.Addr) error {
	from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 40000))
	to := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} // documentation addresses: the POP ignores it
	if addr.Is6() {
		to.IP = net.ParseIP("2001:db8::1")
	}
	_, err := proxyproto.HeaderProxyFromAddrs(2, from, to).WriteTo(conn)
	return err
}

// listen reads who answers.
func (v *visit) listen(conn *talk) error {
	line, err := conn.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	m := greeting.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("unexpected greeting %q", line)
	}
	v.backend, v.served = m[1], geo.Region(m[2])
	return nil
}

// echo sends a line and wants it back.
func (t *talk) echo(backend, text string) error {
	if _, err := fmt.Fprintf(t, "%s\n", text); err != nil {
		return err
	}
	line, err := t.in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("no echo: %w", err)
	}
	if want := fmt.Sprintf("[%s] Echo: %s\n", backend, text); line != want {
		return fmt.Errorf("echo came back as %q, want %q", line, want)
	}
	return nil
}
