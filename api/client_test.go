package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
)

// tablePOP is a POP whose backends are a map.
type tablePOP struct {
	mu       sync.Mutex
	backends map[string]Backend
	services map[string]Service
}

func (p *tablePOP) Backends(context.Context) (BackendList, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var l BackendList // with a nil slice, as a careless POP may have it
	for _, b := range p.backends {
		l.Backends = append(l.Backends, b)
	}
	l.Total = len(l.Backends)
	return l, nil
}

func (p *tablePOP) Services(context.Context) ([]Service, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []Service
	for _, s := range p.services {
		all = append(all, s)
	}
	return all, nil
}

func (p *tablePOP) SetService(_ context.Context, app string, set ServicePatch) (Service, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if set.HealthCheck != nil && *set.HealthCheck == "icmp" {
		return Service{}, &mesh.FieldError{Field: "health_check", Message: "icmp is no check"}
	}
	s := p.services[app]
	s.App = app
	if set.HealthCheck != nil {
		s.HealthCheck = *set.HealthCheck
	}
	p.services[app] = s
	return s, nil
}

func (p *tablePOP) DeleteService(_ context.Context, app string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.services[app]; !ok {
		return NotFound("service", app)
	}
	delete(p.services, app)
	return nil
}

func (p *tablePOP) Backend(_ context.Context, id string) (Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.backends[id]
	if !ok {
		return b, fmt.Errorf("%w: %q; backend list shows what there is", ErrNotFound, id)
	}
	return b, nil
}

func (p *tablePOP) CreateBackend(_ context.Context, set Patch) (Backend, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case set.Weight != nil && *set.Weight < 0:
		return Backend{}, &mesh.FieldError{Field: "weight", Message: "-1 is out of range"}
	case p.backends[*set.ID].ID != "":
		return Backend{}, fmt.Errorf("%w: %q", ErrExists, *set.ID)
	}
	p.backends[*set.ID] = Backend{ID: *set.ID, State: "up"}
	return p.backends[*set.ID], nil
}

func (p *tablePOP) UpdateBackend(ctx context.Context, id string, set Patch) (Backend, error) {
	b, err := p.Backend(ctx, id)
	if err == nil && set.Weight != nil {
		b.Weight = *set.Weight
	}
	return b, err
}

func (p *tablePOP) DeleteBackend(ctx context.Context, id string) error {
	if _, err := p.Backend(ctx, id); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.backends, id)
	return nil
}

func (p *tablePOP) Explain(_ context.Context, client netip.Addr, app string) (route.Explanation, error) {
	return route.Explanation{Client: client.String(), App: app, Reason: route.ReasonNone}, nil
}

func (p *tablePOP) Status(context.Context) (Status, error) {
	return Status{}, fmt.Errorf("%w: gone", ErrUnavailable)
}

// startAPI serves pop until the test ends, and returns the address.
func startAPI(t *testing.T, cfg Config, pop POP) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Ready == nil {
		cfg.Ready = func() []string { return nil }
	}
	cfg.Metrics = http.NotFoundHandler()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- New(cfg, pop, zerolog.Nop()).Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

func dialTest(t *testing.T, addr, token string) *Client {
	t.Helper()
	c, err := Dial(addr, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestClientIsPOP walks a backend through its life over HTTP.
func TestClientIsPOP(t *testing.T) {
	const id = "eu/frankfurt 1?#%2F"
	var pop POP = dialTest(t, startAPI(t, Config{Token: "s3cret"}, &tablePOP{backends: map[string]Backend{}}), "s3cret")
	ctx := t.Context()

	l, err := pop.Backends(ctx)
	if err != nil || l.Backends == nil || len(l.Backends) != 0 {
		t.Fatalf("no backends: got %#v, %v", l, err)
	}
	b, err := pop.CreateBackend(ctx, Patch{ID: new(id)})
	if err != nil || b.ID != id {
		t.Fatalf("create: got %+v, %v", b, err)
	}
	if b, err = pop.UpdateBackend(ctx, id, Patch{Weight: new(int64(7))}); err != nil || b.Weight != 7 {
		t.Errorf("update: got %+v, %v", b, err)
	}
	if b, err = pop.Backend(ctx, id); err != nil || b.ID != id {
		t.Errorf("get: got %+v, %v", b, err)
	}
	e, err := pop.Explain(ctx, netip.MustParseAddr("2001:db8::1"), "my app&x")
	if err != nil || e.Client != "2001:db8::1" || e.App != "my app&x" || e.Candidates == nil {
		t.Errorf("explain: got %#v, %v", e, err)
	}
	if err := pop.DeleteBackend(ctx, id); err != nil {
		t.Error(err)
	}

	if _, err := pop.Backend(ctx, id); !errors.Is(err, ErrNotFound) || strings.Count(err.Error(), "not found") != 1 {
		t.Errorf("removed: got %v, want ErrNotFound, said once", err)
	}
	if err := pop.DeleteBackend(ctx, id); !errors.Is(err, ErrNotFound) {
		t.Errorf("remove twice: got %v", err)
	}
	if _, err := pop.Status(ctx); !errors.Is(err, ErrUnavailable) {
		t.Errorf("status: got %v, want ErrUnavailable", err)
	}
	_, _ = pop.CreateBackend(ctx, Patch{ID: new("a")})
	if _, err := pop.CreateBackend(ctx, Patch{ID: new("a")}); !errors.Is(err, ErrExists) {
		t.Errorf("create twice: got %v, want ErrExists", err)
	}
	_, err = pop.CreateBackend(ctx, Patch{ID: new("b"), Weight: new(int64(-1))})
	if fe, ok := errors.AsType[*mesh.FieldError](err); !ok || fe.Field != "weight" || fe.Message != "-1 is out of range" {
		t.Errorf("bad weight: got %#v", err)
	}
	for _, id := range []string{"", ".", ".."} {
		if _, err := pop.Backend(ctx, id); errors.As(err, new(*mesh.FieldError)) == false {
			t.Errorf("id %q: got %v", id, err)
		}
	}
}

func TestClientHealthAndReady(t *testing.T) {
	reasons := []string{"draining"}
	addr := startAPI(t, Config{Token: "s3cret", Ready: func() []string { return reasons }}, &tablePOP{})
	c := dialTest(t, addr, "") // both are open
	if err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	ready, got, err := c.Ready(t.Context())
	if ready || !reflect.DeepEqual(got, reasons) || err != nil {
		t.Errorf("not ready: got %v %v %v", ready, got, err)
	}
	reasons = nil
	ready, got, err = c.Ready(t.Context())
	if !ready || got == nil || len(got) != 0 || err != nil {
		t.Errorf("ready: got %v %#v %v", ready, got, err)
	}
}

// TestClientMessages holds what somebody reads who talks to the wrong place or in the wrong way.
func TestClientMessages(t *testing.T) {
	pop := startAPI(t, Config{Token: "s3cret"}, &tablePOP{})
	closed := "127.77.0.1:9" // where no test listens
	answers := func(code int, body string) string {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://192.0.2.1/")
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	for _, tc := range []struct {
		name, addr, token string
		is                error
		want              []string
	}{
		{"no token", pop, "", nil, []string{pop, "wants a token", "EDGEPROXY_API_TOKEN"}},
		{"wrong token", pop, "guess", nil, []string{pop, "refuses the token", "EDGEPROXY_API_TOKEN"}},
		{"nobody there", closed, "", ErrUnreachable, []string{closed, "is edgeproxy running?"}},
		{"another server", answers(404, "404 page not found\n"), "", nil, []string{"404 not found", "is this its api_addr?"}},
		{"a web page", answers(200, "<html>"), "", nil, []string{"does not answer as edgeproxy's admin API does"}},
		{"a redirect", answers(302, ""), "s3cret", nil, []string{"302 found"}},
		{"no content", answers(200, ""), "", nil, []string{"is this its api_addr?"}},
		{"other error", answers(500, `{"error":"disk is full"}`), "", nil, []string{"disk is full"}},
		{"unavailable", answers(503, `{"error":"the file is gone"}`), "", ErrUnavailable, []string{"the file is gone"}},
		{"bad request", answers(400, `{"error":"request body is not JSON"}`), "", nil, []string{"request body is not JSON"}},
		{"TLS where there is none", "https://" + pop, "", ErrUnreachable, []string{"server gave HTTP response to HTTPS client"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := dialTest(t, tc.addr, tc.token).Backends(t.Context())
			if err == nil || tc.is != nil && !errors.Is(err, tc.is) {
				t.Fatalf("got %v, want %v", err, tc.is)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %q, want it to say %q", err, w)
				}
			}
			if strings.Contains(err.Error(), "\n") || tc.token != "" && strings.Contains(err.Error(), tc.token) {
				t.Errorf("%q has several lines or tells the token", err)
			}
		})
	}
}

// TestClientGivesUp: the caller's context ends a request, and an answer without end is cut.
func TestClientGivesUp(t *testing.T) {
	var began sync.WaitGroup
	began.Add(1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			began.Done()
			<-r.Context().Done()
			return
		}
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	c := dialTest(t, srv.URL, "")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		began.Wait()
		cancel()
	}()
	if _, err := c.Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	if c.maxAnswer != maxAnswer {
		t.Errorf("answers are limited to %d bytes", c.maxAnswer)
	}
	c.maxAnswer = 3 << 20 // the whole would take seconds under the race detector
	if _, err := c.Backends(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than 3 MiB") {
		t.Errorf("endless: got %v", err)
	}
}

func TestDial(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1:8180":                 "127.0.0.1:8180",
		" localhost:8180 ":               "localhost:8180",
		":8180":                          "127.0.0.1:8180",
		"0.0.0.0:8180":                   "127.0.0.1:8180",
		"[::]:8180":                      "127.0.0.1:8180",
		"[2001:db8::1]:8180":             "[2001:db8::1]:8180",
		"http://pop.example:80":          "pop.example:80",
		"https://pop.example/edgeproxy/": "pop.example",
	} {
		c, err := Dial(addr, "")
		if err != nil || c.Addr() != want {
			t.Errorf("Dial(%q): got %v, %v, want %s", addr, c, err, want)
		}
	}
	for _, addr := range []string{"", "8180", "pop.example", "pop.example:", "http://", "http://0.0.0.0", "ftp://pop.example:1", "unix:///run/x", "http://user:pass@pop.example", "pop.example:80?x=y", "pop.example:http x"} {
		if _, err := Dial(addr, ""); err == nil {
			t.Errorf("Dial(%q): no error", addr)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("Dial(%q): %v", addr, err)
		}
	}
	if _, err := Dial("127.0.0.1:8180", "two\nlines"); err == nil || strings.Contains(err.Error(), "two") {
		t.Errorf("token with a line break: got %v", err)
	}
}
