package checker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/mesh"
)

var errStatus = errors.New("status")

// ask makes one check; nil: the backend is well.
func (c *Checker) ask(ctx context.Context, t Target) error {
	ctx, cancel := context.WithTimeout(ctx, t.Check.Timeout)
	defer cancel()
	addr := t.Addr
	if t.Check.Port != 0 {
		addr = netip.AddrPortFrom(addr.Addr(), t.Check.Port)
	}
	if t.Check.Port == 0 || t.Check.Port == t.Addr.Port() {
		ctx = context.WithValue(ctx, proxyKey{}, t.Proxy)
	}
	var err error
	if t.Check.Kind == mesh.CheckHTTP {
		err = c.askHTTP(ctx, addr, t.Check)
	} else {
		err = c.askTCP(ctx, addr)
	}
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("no answer within %s", t.Check.Timeout)
	}
	return err
}

// proxyKey is the key of a check's mesh.ProxyVersion.
type proxyKey struct{}

// greet connects, and sends the PROXY header first that the backend expects.
func (c *Checker) greet(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := c.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if v, _ := ctx.Value(proxyKey{}).(mesh.ProxyVersion); v != mesh.ProxyOff {
		if _, err := conn.Write(v.Local()); err != nil { // so few bytes always have room
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

func (c *Checker) askTCP(ctx context.Context, addr netip.AddrPort) error {
	conn, err := c.greet(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset: it leaves no TIME_WAIT behind, 5 s after 5 s
	}
	return conn.Close()
}

func (c *Checker) askHTTP(ctx context.Context, addr netip.AddrPort, check mesh.Check) error {
	u, err := url.ParseRequestURI(check.Path)
	if err != nil {
		return err
	}
	u.Scheme, u.Host = "http", addr.String()
	req := &http.Request{Method: http.MethodGet, URL: u, Host: check.Host, Header: http.Header{"User-Agent": {"edgeproxy-health"}}}
	resp, err := c.client.Do(req.WithContext(ctx))
	if err != nil {
		return err
	}
	// Without keep-alive this closes the connection, whatever the body still holds.
	_ = resp.Body.Close()
	if resp.StatusCode < check.From || resp.StatusCode >= check.Below {
		return fmt.Errorf("%w %d", errStatus, resp.StatusCode)
	}
	return nil
}

// why is the error in a few words, without the address, which whoever reads it knows.
func why(err error) string {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e.Error()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "closed without an answer"
	}
	var cause error = err
	for next := errors.Unwrap(cause); next != nil && !errors.Is(cause, errStatus); next = errors.Unwrap(cause) {
		cause = next
	}
	text := strings.ToValidUTF8(cause.Error(), "?")
	if len(text) > health.MaxWhy {
		text = strings.ToValidUTF8(text[:health.MaxWhy], "")
	}
	return text
}
