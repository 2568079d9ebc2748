package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

const (
	clientTimeout  = 10 * time.Second // for a whole request, from dial to last byte
	upgradeTimeout = 40 * time.Second // the POP gives the new process 30 s
	// maxAnswer bounds what a server can make us hold: some 200,000 backends.
	maxAnswer = 64 << 20
)

// ErrUnreachable is what every error wraps that got no answer from the POP.
var ErrUnreachable = errors.New("no answer")

// Client is a POP elsewhere, asked through its admin API. Safe for concurrent
// use. Its errors are sentences that name the address; they wrap the sentinels
// of POP, ErrUnreachable, or a *mesh.FieldError.
type Client struct {
	base      *url.URL // without a slash at the end
	token     string
	http      http.Client
	maxAnswer int64 // bytes
}

// Dial makes a client of the admin API at addr: host:port, or a URL with http
// or https. Nothing is sent before the first call. An empty or unspecified
// host, as in an address to listen on, is this machine.
func Dial(addr, token string) (*Client, error) {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("the API token holds characters that no HTTP header can carry; use visible ASCII ones")
	}
	base, err := baseURL(addr)
	if err != nil {
		return nil, fmt.Errorf("API address %q: %w", addr, err)
	}
	return &Client{base: base, token: token, maxAnswer: maxAnswer, http: http.Client{
		Timeout: clientTimeout,
		// No proxy from the environment: a POP is inside the operator's
		// network, and the token is nobody else's business.
		Transport: &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
		// The token must not follow where some other server points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func baseURL(addr string) (*url.URL, error) {
	const want = "want host:port, such as 127.0.0.1:8180, or a URL with http:// or https://"
	text := strings.TrimSpace(addr)
	if !strings.Contains(text, "://") {
		if _, port, err := net.SplitHostPort(text); err != nil || port == "" {
			return nil, errors.New(want)
		}
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Opaque != "":
		return nil, errors.New(want)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("has more than a host, a port and a path; the token is given apart")
	}
	host := u.Hostname()
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		// Who listens on [::] hears IPv4, too, and not every machine has ::1.
		u.Host = net.JoinHostPort("127.0.0.1", u.Port())
		if u.Port() == "" {
			return nil, errors.New(want)
		}
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

// Close drops idle connections; the client stays usable.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Addr is where the client sends its requests, for messages.
func (c *Client) Addr() string { return c.base.Host }

// Backends implements POP.
func (c *Client) Backends(ctx context.Context) (BackendList, error) {
	l, err := call[BackendList](ctx, c, http.MethodGet, "/api/v1/backends", nil, nil)
	l.Backends = orEmpty(l.Backends)
	return l, err
}

// Backend implements POP.
func (c *Client) Backend(ctx context.Context, id string) (Backend, error) {
	path, err := namedPath("backends", "id", id)
	if err != nil {
		return Backend{}, err
	}
	return call[Backend](ctx, c, http.MethodGet, path, nil, nil)
}

// CreateBackend implements POP.
func (c *Client) CreateBackend(ctx context.Context, set Patch) (Backend, error) {
	return call[Backend](ctx, c, http.MethodPost, "/api/v1/backends", nil, set)
}

// UpdateBackend implements POP.
func (c *Client) UpdateBackend(ctx context.Context, id string, set Patch) (Backend, error) {
	path, err := namedPath("backends", "id", id)
	if err != nil {
		return Backend{}, err
	}
	return call[Backend](ctx, c, http.MethodPatch, path, nil, set)
}

// DeleteBackend implements POP.
func (c *Client) DeleteBackend(ctx context.Context, id string) error {
	path, err := namedPath("backends", "id", id)
	if err != nil {
		return err
	}
	_, err = call[struct{}](ctx, c, http.MethodDelete, path, nil, nil)
	return err
}

// Explain implements POP.
func (c *Client) Explain(ctx context.Context, client netip.Addr, app string) (route.Explanation, error) {
	q := url.Values{"client": {client.String()}}
	if app != "" {
		q.Set("app", app)
	}
	e, err := call[route.Explanation](ctx, c, http.MethodGet, "/api/v1/explain", q, nil)
	e.Candidates = orEmpty(e.Candidates)
	return e, err
}

// Status implements POP.
func (c *Client) Status(ctx context.Context) (Status, error) {
	st, err := call[Status](ctx, c, http.MethodGet, "/api/v1/status", nil, nil)
	st.Reasons, st.Problems, st.Faults = orEmpty(st.Reasons), orEmpty(st.Problems), orEmpty(st.Faults)
	return st, err
}

// Health is nil where the POP's process is alive. It needs no token.
func (c *Client) Health(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, http.MethodGet, "/health", nil, nil)
	return err
}

// Ready says whether the POP takes traffic, and if not, why. It needs no token.
func (c *Client) Ready(ctx context.Context) (ready bool, reasons []string, err error) {
	code, body, err := c.send(ctx, http.MethodGet, "/ready", nil, nil)
	if err != nil {
		return false, nil, err
	}
	var r struct {
		Ready   *bool    `json:"ready"`
		Reasons []string `json:"reasons"`
	}
	if json.Unmarshal(body, &r) != nil || r.Ready == nil || code != http.StatusOK && code != http.StatusServiceUnavailable {
		return false, nil, c.refused(code, body)
	}
	return *r.Ready, orEmpty(r.Reasons), nil
}

// orEmpty keeps null out of JSON that is made from an answer.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// call sends a request and decodes the answer into T.
func call[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var v T
	code, answer, err := c.send(ctx, method, path, query, body)
	if err != nil {
		return v, err
	}
	if code < 200 || code > 299 {
		return v, c.refused(code, answer)
	}
	if len(answer) == 0 && code == http.StatusNoContent {
		return v, nil
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("%s does not answer as edgeproxy's admin API does (%w): is this its api_addr?", c.Addr(), err)
	}
	return v, nil
}

func (c *Client) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(b)
	}
	target := c.base.String() + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// send makes one request and reads its answer whole.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, body any) (code int, answer []byte, err error) {
	req, err := c.request(ctx, method, path, query, body)
	if err != nil {
		return 0, nil, err
	}
	return c.sent(ctx, req)
}

// sent is send of a request that is made already.
func (c *Client) sent(ctx context.Context, req *http.Request) (code int, answer []byte, err error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, c.maxAnswer+1))
	if err != nil {
		return 0, nil, c.unreachable(ctx, err)
	}
	if int64(len(answer)) > c.maxAnswer {
		return 0, nil, fmt.Errorf("the answer of %s is longer than %d MiB: is this edgeproxy's api_addr?", c.Addr(), c.maxAnswer>>20)
	}
	return resp.StatusCode, answer, nil
}

// unreachable is the sentence for a request without an answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case ctx.Err() != nil:
		return ctx.Err() // the caller's own wish
	case errors.Is(err, syscall.ECONNREFUSED):
		return remoteError{ErrUnreachable, fmt.Sprintf("nothing listens on %s: is edgeproxy running? its log says which api address it uses", c.Addr())}
	case errors.As(err, &timeout) && timeout.Timeout():
		return remoteError{ErrUnreachable, fmt.Sprintf("%s did not answer within %s: is this edgeproxy's api_addr, and can this machine reach it?", c.Addr(), clientTimeout)}
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // without the method and the URL, which only repeat
	}
	return remoteError{ErrUnreachable, fmt.Sprintf("ask %s: %v", c.Addr(), err)}
}

// refused makes an error of an answer that is no success.
func (c *Client) refused(code int, body []byte) error {
	var e Error
	if json.Unmarshal(body, &e) != nil || e.Error == "" {
		return fmt.Errorf("%s answers %d %s, and not as edgeproxy's admin API does: is this its api_addr?", c.Addr(), code, strings.ToLower(http.StatusText(code)))
	}
	switch {
	case code == http.StatusBadRequest && e.Field != "":
		return &mesh.FieldError{Field: e.Field, Message: e.Error}
	case code == http.StatusUnauthorized && c.token == "":
		return remoteError{ErrToken, fmt.Sprintf("%s wants a token: set EDGEPROXY_API_TOKEN to the one that its edgeproxy was started with", c.Addr())}
	case code == http.StatusUnauthorized:
		return remoteError{ErrToken, fmt.Sprintf("%s refuses the token: EDGEPROXY_API_TOKEN must be the one that its edgeproxy was started with", c.Addr())}
	case code == http.StatusNotFound:
		return remoteError{ErrNotFound, e.Error}
	case code == http.StatusConflict:
		return remoteError{ErrExists, e.Error}
	case code == http.StatusServiceUnavailable:
		return remoteError{ErrUnavailable, e.Error}
	}
	return fmt.Errorf("%s: %s", c.Addr(), e.Error)
}

// remoteError is a sentence, often the other side's, that a caller can branch
// on; the sentence says what the sentinel would, so it is not repeated.
type remoteError struct {
	is   error
	text string
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.is }
