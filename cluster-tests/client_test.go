package clustertests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	proxyproto "github.com/pires/go-proxyproto"
)

// trusting makes a POP believe the PROXY headers of this machine.
var trusting = []string{"EDGEPROXY_PROXY_PROTOCOL=on", "EDGEPROXY_TRUSTED_PROXIES=127.0.0.1"}

// visit is a client's connection through a POP to a backend that greeted.
type visit struct {
	*net.TCPConn
	r       *bufio.Reader
	backend string // who answered
	region  string // where that is
}

var greeting = regexp.MustCompile(`^Backend: (\S+) \| Region: (\S+) \| Your IP: `)

// header is a PROXY header that says the client is at from.
func header(version byte, from string) []byte {
	addr := netip.MustParseAddr(from)
	to := net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	if addr.Is6() && !addr.Is4In6() {
		to.IP = net.ParseIP("2001:db8::1")
	}
	if version == 1 && addr.Is4In6() { // which the library would write as IPv4
		return fmt.Appendf(nil, "PROXY TCP6 %s ::ffff:192.0.2.1 40000 443\r\n", addr)
	}
	var b bytes.Buffer
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 40000)), &to)
	if _, err := h.WriteTo(&b); err != nil {
		panic(err) // an address that the test made up wrongly
	}
	return b.Bytes()
}

// dial connects to the POP and writes something at once.
func (p *pop) dial(first []byte) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", local(p.listenAddr()), soon)
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn)
	if err := tcp.SetDeadline(time.Now().Add(soon)); err != nil {
		return nil, err
	}
	if _, err := tcp.Write(first); err != nil {
		tcp.Close()
		return nil, err
	}
	return tcp, nil
}

// connect is dial that must succeed. The end of the test closes it.
func (p *pop) connect(t testing.TB, first []byte) *net.TCPConn {
	t.Helper()
	c, err := p.dial(first)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// call connects, with a PROXY header where from is not empty, and reads who answers.
func (p *pop) call(from string) (*visit, error) {
	var first []byte
	if from != "" {
		first = header(2, from)
	}
	return p.callWith(first)
}

func (p *pop) callWith(first []byte) (*visit, error) {
	c, err := p.dial(first)
	if err != nil {
		return nil, err
	}
	v := &visit{TCPConn: c, r: bufio.NewReader(c)}
	line, err := v.r.ReadString('\n')
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	m := greeting.FindStringSubmatch(line)
	if m == nil {
		c.Close()
		return nil, fmt.Errorf("strange greeting %q", line)
	}
	v.backend, v.region = m[1], m[2]
	return v, nil
}

// visit is call that must succeed, for as long as the test lasts.
func (p *pop) visit(t testing.TB, from string) *visit {
	t.Helper()
	v, err := p.call(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// goes says which backend a client gets; the connection is closed again.
func (p *pop) goes(t testing.TB, from string) string {
	t.Helper()
	v, err := p.call(from)
	if err != nil {
		t.Fatal(err)
	}
	v.Close()
	return v.backend
}

// goesTo is nil where a client gets this backend.
func (p *pop) goesTo(from, backend string) error {
	v, err := p.call(from)
	if err != nil {
		return err
	}
	v.Close()
	if v.backend != backend {
		return fmt.Errorf("a client got %s, want %s", v.backend, backend)
	}
	return nil
}

// echo sends a line and checks that it comes back.
func (v *visit) echo(line string) error {
	if err := v.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	if _, err := io.WriteString(v, line+"\n"); err != nil {
		return err
	}
	got, err := v.r.ReadString('\n')
	if want := fmt.Sprintf("[%s] Echo: %s\n", v.backend, line); err == nil && got != want {
		err = fmt.Errorf("echo %q, want %q", got, want)
	}
	return err
}

// alive fails the test where the connection does not carry a line there and back.
func (v *visit) alive(t testing.TB) {
	t.Helper()
	if err := v.echo("still there?"); err != nil {
		t.Errorf("an open connection to %s broke: %v", v.backend, err)
	}
}

// closedSoon expects that the POP closes the connection without a word.
func closedSoon(c net.Conn, within time.Duration) error {
	began := time.Now()
	if err := c.SetReadDeadline(began.Add(soon)); err != nil {
		return err
	}
	text, err := readAll(c)
	took := time.Since(began)
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("still open after %s", took)
	case strings.TrimSpace(text) != "":
		return fmt.Errorf("got %q, want a close", text)
	case took > within:
		return fmt.Errorf("closed after %s, want at most %s", took, within)
	}
	return nil // by FIN, or by RST where it had sent what nobody read
}

// unchecked is for tests of what a POP does where no check tells it anything.
const unchecked = "EDGEPROXY_HEALTH_CHECK=off"

// openMany opens n connections, some at a time, and has each carry a line.
func (p *pop) openMany(n int) ([]*visit, error) {
	visits, errs := make([]*visit, n), make([]error, n)
	var all sync.WaitGroup
	next := make(chan int)
	for range 32 {
		all.Go(func() {
			for i := range next {
				if visits[i], errs[i] = p.call(""); errs[i] == nil {
					errs[i] = visits[i].echo("hello")
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
	return visits, errors.Join(errs...)
}

func closeAll(visits []*visit) {
	for _, v := range visits {
		if v != nil {
			v.Close()
		}
	}
}
