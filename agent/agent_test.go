package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakePOP answers as the test wants and keeps what it was asked.
type fakePOP struct {
	*httptest.Server

	mu     sync.Mutex
	asked  []string
	bodies []string
	code   int // of every answer; 0: registers whoever asks
	known  bool
	ttl    int // s
}

func newPOP(t *testing.T) *fakePOP {
	p := &fakePOP{ttl: 60} // which allows for ten seconds a request
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *fakePOP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body strings.Builder
	_ = json.NewEncoder(&body).Encode(readAll(r))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked, p.bodies = append(p.asked, r.Method+" "+r.URL.RequestURI()), append(p.bodies, body.String())
	code, answer := p.code, fmt.Sprintf(`{"ttl_secs":%d}`, p.ttl)
	switch {
	case code != 0:
		answer = `{"error":"so it is"}`
	case r.Method == "DELETE":
		code, p.known = 204, false
	case strings.HasSuffix(r.URL.Path, "/register"):
		code, p.known = 201, true
	case !p.known:
		code, answer = 404, `{"error":"who?"}`
	default:
		code = 200
	}
	w.WriteHeader(code)
	if code != 204 {
		_, _ = w.Write([]byte(answer))
	}
}

func readAll(r *http.Request) (v map[string]any) {
	_ = json.NewDecoder(r.Body).Decode(&v)
	return v
}

// become changes what the POP says from now on, and counts what it was asked of this kind.
func (p *fakePOP) become(code int, forget bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.code = code
	p.known = p.known && !forget
}

func (p *fakePOP) count(what string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.asked {
		if strings.HasPrefix(a, what) {
			n++
		}
	}
	return n
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); <-time.After(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func configOf(pops ...*fakePOP) Config {
	c := Config{Backend: api.Registration{ID: new("a"), Region: new("sa"), Addr: new("10.0.0.1:80")}, Interval: 10 * time.Millisecond}
	for _, p := range pops {
		c.POPs = append(c.POPs, p.URL)
	}
	return c
}

// run runs an agent until stop is called, which returns what Run did.
func run(t *testing.T, c Config) (stop func() error) {
	t.Helper()
	a, err := New(c, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return func() error { cancel(); return <-ended }
}

func TestLife(t *testing.T) {
	first, second := newPOP(t), newPOP(t)
	stop := run(t, configOf(first, second))
	eventually(t, "heartbeats", func() bool { return first.count("POST /api/v1/heartbeat/a") > 2 })
	if n := second.count(""); n > 0 {
		t.Errorf("the other POP was asked %d times while the first one answers", n)
	}
	first.become(0, true)
	eventually(t, "it registers anew", func() bool { return first.count("POST /api/v1/register") == 2 })
	first.become(503, false)
	eventually(t, "it goes to the other", func() bool { return second.count("POST /api/v1/heartbeat/a") > 2 })
	if second.count("POST /api/v1/register") != 1 {
		t.Error("the other did not know it, and was not told")
	}
	second.become(401, false)
	<-time.After(50 * time.Millisecond) // who was in once does not give up
	second.become(0, false)
	before := second.count("POST /api/v1/heartbeat")
	eventually(t, "heartbeats go on", func() bool { return second.count("POST /api/v1/heartbeat") > before })
	if err := stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	if first.count("DELETE")+second.count("DELETE /api/v1/backends/a") != 1 {
		t.Errorf("at the end they were asked %q and %q", first.asked, second.asked)
	}
}

// An interval that would have the backend expire is said to be too long, once,
// and heartbeats come in time all the same.
func TestIntervalBeyondTTL(t *testing.T) {
	p := newPOP(t)
	p.ttl = 1
	c := configOf(p)
	c.Interval = time.Hour
	var log bytes.Buffer
	a, err := New(c, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	eventually(t, "heartbeats", func() bool { return p.count("POST /api/v1/heartbeat/a") > 1 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Count(text, `"interval_ms":3600000`) != 1 || !strings.Contains(text, `"interval_ms":3600000,"ttl_ms":1000,`) {
		t.Errorf("it said %s", text)
	}
}

// What the first answer refuses for good ends the agent, and nothing is deleted
// that is not its own.
func TestRefused(t *testing.T) {
	for _, code := range []int{401, 409} {
		p := newPOP(t)
		p.become(code, false)
		a, err := New(configOf(p), zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "a is refused") {
			t.Errorf("%d: %v", code, err)
		}
		if p.count("DELETE") > 0 {
			t.Errorf("%d: it deleted what is not its own", code)
		}
	}
	p := newPOP(t)
	p.become(500, false)
	stop := run(t, configOf(p))
	eventually(t, "it tries again", func() bool { return p.count("POST /api/v1/register") > 1 })
	if err := stop(); err != nil || p.count("DELETE") > 0 {
		t.Errorf("run: %v, %q", err, p.asked)
	}
}

// An operator's row in the place of its own is not deleted, and what it deletes
// is bound to its own address.
func TestFarewell(t *testing.T) {
	p := newPOP(t)
	stop := run(t, configOf(p))
	eventually(t, "heartbeats", func() bool { return p.count("POST /api/v1/heartbeat/a") > 1 })
	if err := stop(); err != nil || p.count("DELETE /api/v1/backends/a?addr=10.0.0.1%3A80&registered=true") != 1 {
		t.Errorf("run: %v, asked %q", err, p.asked)
	}

	p = newPOP(t)
	stop = run(t, configOf(p))
	eventually(t, "heartbeats", func() bool { return p.count("POST /api/v1/heartbeat/a") > 1 })
	p.become(404, true)
	eventually(t, "it registers anew", func() bool { return p.count("POST /api/v1/register") > 1 })
	p.become(409, false)
	again := p.count("POST /api/v1/register")
	eventually(t, "it tries on", func() bool { return p.count("POST /api/v1/register") > again+1 })
	if err := stop(); err != nil || p.count("DELETE") > 0 {
		t.Errorf("run: %v, asked %q", err, p.asked)
	}
}

// The preferred POP is asked again once it has had time to come back.
func TestPreferred(t *testing.T) {
	first, second := newPOP(t), newPOP(t)
	pops, err := dial([]string{first.URL, second.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	defer pops.close()
	ask := func() (at string) {
		err := pops.ask(t.Context(), time.Minute, func(ctx context.Context, c *api.Client) error {
			at = c.Addr()
			_, err := c.Register(ctx, api.Registration{})
			return err
		})
		if err != nil {
			at = err.Error()
		}
		return at
	}
	is := func(when, got string, want *fakePOP) {
		t.Helper()
		if got != strings.TrimPrefix(want.URL, "http://") {
			t.Errorf("%s: %s, want %s", when, got, want.URL)
		}
	}
	is("at first", ask(), first)
	first.become(500, false)
	is("the first one failed", ask(), second)
	first.become(0, false)
	is("soon after", ask(), second)
	pops.failed[0] = time.Now().Add(-2 * returnAfter)
	is("later", ask(), first)
	first.become(404, false) // that is an answer
	_ = ask()
	if pops.current != 0 {
		t.Error("an answer that is no success sent it away")
	}
}

func TestWaits(t *testing.T) {
	a := &Agent{ttl: time.Minute}
	for range 100 {
		if d := a.interval(); d > 20*time.Second || d < 18*time.Second {
			t.Fatalf("heartbeats each %s", d)
		}
		for failed, most := range []time.Duration{leastWait, 2 * leastWait, 4 * leastWait} {
			if d := a.pause(failed); d < most/2 || d > most {
				t.Fatalf("pause %s after %d failures", d, failed)
			}
		}
		if d := a.pause(1000); d > mostWait || d < mostWait/2 {
			t.Fatalf("pause %s after very many failures", d)
		}
	}
	a.cfg.Interval = 50 * time.Second // between which the backend would expire now and then
	if d := a.interval(); d > 30*time.Second || d < 27*time.Second {
		t.Errorf("heartbeats each %s, half the TTL is 30s", d)
	}
	a.ttl = time.Second
	if d := a.pause(1000); d > leastWait {
		t.Errorf("pause %s with a TTL of a second", d)
	}
}

func TestConfig(t *testing.T) {
	good := configOf(&fakePOP{Server: &httptest.Server{URL: "10.0.0.1:8180"}})
	for what, spoil := range map[string]func(*Config){
		"no id": func(c *Config) { c.Backend.ID = nil }, "no region": func(c *Config) { c.Backend.Region = nil }, "no address": func(c *Config) { c.Backend.Addr = nil },
		"no ip": func(c *Config) { c.Backend.Addr = new("web:80") }, "no POP": func(c *Config) { c.POPs = nil }, "a POP that is none": func(c *Config) { c.POPs = []string{"x"} },
		"a token that is none": func(c *Config) { c.Token = "\n" },
	} {
		c := good
		spoil(&c)
		if _, err := New(c, zerolog.Nop()); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
	if _, err := New(good, zerolog.Nop()); err != nil {
		t.Error(err)
	}
	for _, err := range []error{api.ErrExists, api.ErrToken, &mesh.FieldError{}} {
		if !final(err) || !answered(err) {
			t.Errorf("%v is not final", err)
		}
	}
	if final(errors.New("x")) || final(api.ErrNotFound) || !answered(api.ErrNotFound) || answered(api.ErrUnavailable) {
		t.Error("what is final, and what is an answer")
	}
}
