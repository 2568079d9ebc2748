package mockbackend

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Call is a client of TCP backends, directly or through a proxy: it opens some connections, has each carry a line there
// and back while all of them are open, and closes them.
type Call struct {
	Addr    string        // host:port
	From    netip.Prefix  // where it is valid, PROXY v1 headers say that each connection is from the next address in it
	N       int           // connections
	Timeout time.Duration // of each connection
}

// Do writes the greeting of each connection, a line each, and returns the first error; the connections before it have
// been written.
func (c Call) Do(ctx context.Context, out io.Writer) error {
	d := net.Dialer{Timeout: c.Timeout}
	for i := range c.N {
		conn, err := d.DialContext(ctx, "tcp", c.Addr)
		if err != nil {
			return err
		}
		defer conn.Close() // after the last: they are open at the same time
		greeting, err := c.talk(conn, i)
		if err != nil {
			return fmt.Errorf("connection %d to %s: %w", i+1, c.Addr, err)
		}
		if _, err := io.WriteString(out, greeting); err != nil {
			return err
		}
	}
	return nil
}

func (c Call) talk(conn net.Conn, n int) (greeting string, err error) {
	if err := conn.SetDeadline(time.Now().Add(c.Timeout)); err != nil {
		return "", err
	}
	if c.From.IsValid() {
		if _, err := io.WriteString(conn, proxyHeader(nth(c.From, n))); err != nil {
			return "", err
		}
	}
	r := bufio.NewReader(conn)
	if greeting, err = r.ReadString('\n'); err != nil {
		return "", fmt.Errorf("no greeting: %w", err)
	}
	line := fmt.Sprintf("line %d", n)
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return "", err
	}
	echo, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("no echo: %w", err)
	}
	if !strings.HasSuffix(echo, "Echo: "+line+"\n") {
		return "", fmt.Errorf("%q came back as %q", line, echo)
	}
	return greeting, nil
}

// nth is the n-th address of a network, counted from the one that it was written with; after the last comes the first.
func nth(network netip.Prefix, n int) netip.Addr {
	a := network.Addr()
	for range n {
		if a = a.Next(); !network.Contains(a) {
			a = network.Masked().Addr()
		}
	}
	return a
}

// proxyHeader is of version 1 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, 2.1). The destination is
// nobody's: backends do not look at it.
func proxyHeader(from netip.Addr) string {
	if from = from.Unmap(); from.Is4() {
		return fmt.Sprintf("PROXY TCP4 %s 192.0.2.1 40000 443\r\n", from)
	}
	return fmt.Sprintf("PROXY TCP6 %s 2001:db8::1 40000 443\r\n", from)
}
