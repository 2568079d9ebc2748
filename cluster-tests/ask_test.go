package clustertests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// web asks like curl: one connection a request, so that nothing is left open.
var web = &http.Client{Timeout: soon, Transport: &http.Transport{DisableKeepAlives: true}}

// hasty asks the same and does not wait long for somebody who is paused.
var hasty = &http.Client{Timeout: 5 * time.Second, Transport: web.Transport}

// answer is what came back from a request.
type answer struct {
	code int
	body string
}

// local is how this machine reaches an address on which a POP listens.
func local(addr string) string {
	a, err := netip.ParseAddrPort(addr)
	if err == nil && a.Addr().IsUnspecified() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port()).String()
	}
	return addr
}

// apiAddr may be asked beside a restart, by those who write meanwhile.
func (p *pop) apiAddr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.API
}

// listenAddr is where it takes traffic, also for those who go on while it is
// started again.
func (p *pop) listenAddr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.Listen
}

// request asks the admin API. A header "Host" names another host.
func (p *pop) request(method, path, body string, header ...string) (answer, error) {
	return p.requestBy(web, method, path, body, header...)
}

func (p *pop) requestBy(client *http.Client, method, path, body string, header ...string) (answer, error) {
	req, err := http.NewRequest(method, "http://"+local(p.apiAddr())+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
		if name == "Host" {
			req.Host = value
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, string(b)}, err
}

// ask is request that must be answered.
func (p *pop) ask(t testing.TB, method, path, body string, header ...string) answer {
	t.Helper()
	a, err := p.request(method, path, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ready is what GET /ready says.
func (p *pop) ready() (bool, []string, error) {
	a, err := p.request("GET", "/ready", "")
	if err != nil {
		return false, nil, err
	}
	var r api.Readiness
	if err := json.Unmarshal([]byte(a.body), &r); err != nil {
		return false, nil, fmt.Errorf("/ready: %d %q: %w", a.code, a.body, err)
	}
	if r.Ready != (a.code == http.StatusOK) || !r.Ready && a.code != http.StatusServiceUnavailable {
		return false, nil, fmt.Errorf("/ready: status %d says %s", a.code, a.body)
	}
	return r.Ready, r.Reasons, nil
}

// notReady is nil where /ready is 503 and a reason holds all the words.
func (p *pop) notReady(words ...string) error {
	ready, reasons, err := p.ready()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(reasons, func(r string) bool { return holds(r, words) }) {
		return nil
	}
	return fmt.Errorf("ready %v for %q, want a reason with %q", ready, reasons, words)
}

// isReady is nil where /ready is 200.
func (p *pop) isReady() error {
	ready, reasons, err := p.ready()
	if err == nil && !ready {
		err = fmt.Errorf("not ready: %q", reasons)
	}
	return err
}

// asClient calls do with the project's own client of the admin API.
func asClient[T any](t testing.TB, p *pop, do func(context.Context, *api.Client) (T, error)) T {
	t.Helper()
	c, err := api.Dial(local(p.API), p.token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	v, err := do(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// look is the answer of the API to a GET, for those who must not end a test.
func look[T any](p *pop, path string) (v T, err error) {
	a, err := p.request("GET", "/api/v1/"+path, "")
	if err == nil && a.code != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, a.code, strings.TrimSpace(a.body))
	}
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(a.body), &v)
}

func (p *pop) explain(t testing.TB, client string) route.Explanation {
	t.Helper()
	return asClient(t, p, func(ctx context.Context, c *api.Client) (route.Explanation, error) {
		return c.Explain(ctx, netip.MustParseAddr(client), "")
	})
}

func (p *pop) status(t testing.TB) api.Status {
	t.Helper()
	return asClient(t, p, func(ctx context.Context, c *api.Client) (api.Status, error) { return c.Status(ctx) })
}

// backends is the list of the API by id.
func (p *pop) backends(t testing.TB) map[string]api.Backend {
	t.Helper()
	list := asClient(t, p, func(ctx context.Context, c *api.Client) (api.BackendList, error) { return c.Backends(ctx) })
	byID := map[string]api.Backend{}
	for _, b := range list.Backends {
		byID[b.ID] = b
	}
	return byID
}

// counts waits until the POP has counted so many connections that ended for a
// reason, not one more: a client sees the end before it is counted.
func (p *pop) counts(t testing.TB, why string, want float64) {
	t.Helper()
	eventually(t, soon, func() error {
		if n := p.metric(t, "edgeproxy_connections_ended_total", fmt.Sprintf("end=%q", why)); n != want {
			return fmt.Errorf("%v connections ended for %s, want %v", n, why, want)
		}
		return nil
	})
}

// metric is the sum of the samples that have all the labels, as in
// metric(t, "edgeproxy_rows_left_out", `table="backends"`).
func (p *pop) metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	a := p.ask(t, "GET", "/metrics", "")
	sum, found := 0.0, false
	for line := range strings.Lines(a.body) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest[0] != ' ' && rest[0] != '{' || !holds(rest, labels) {
			continue
		}
		fields := strings.Fields(line)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		t.Fatalf("/metrics has no %s %v", name, labels)
	}
	return sum
}

// settled waits until no connection is open any more.
func (p *pop) settled(t testing.TB) {
	t.Helper()
	eventually(t, soon, func() error {
		if n := p.status(t).Connections; n != 0 {
			return fmt.Errorf("%d connections are open", n)
		}
		return nil
	})
}

// median of durations, for figures that are logged.
func median(d []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(d))[len(d)/2]
}
