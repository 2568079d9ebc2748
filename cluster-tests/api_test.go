package clustertests

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestToken: with one, /health and /ready are open and nothing else is.
func TestToken(t *testing.T) {
	t.Parallel()
	const token = "correct-horse-battery-staple"
	p := startPOP(t, startBackends(t, "sa"), "EDGEPROXY_API_ADDR=0.0.0.0:0", "EDGEPROXY_API_TOKEN="+token)
	closed := []string{"/metrics", "/api/v1/backends", "/api/v1/backends/sa-1", "/api/v1/status", "/api/v1/explain?client=8.8.8.8",
		"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/cmdline", "/", "/nothing", "/health/x", "/api/v1/../v1/status"}
	wrong := []string{"Authorization: Bearer wrong", "Authorization: Basic " + token, "Authorization: " + token,
		"Authorization: Bearer " + token + "x", "Authorization: Bearer ", "X-Token: " + token}
	for _, path := range []string{"/health", "/ready"} {
		if a := p.ask(t, "GET", path, ""); a.code != 200 {
			t.Errorf("%s without a token: %+v", path, a)
		}
	}
	for _, path := range closed {
		a := p.ask(t, "GET", path, "")
		var e api.Error
		if a.code != 401 || json.Unmarshal([]byte(a.body), &e) != nil || e.Error == "" {
			t.Errorf("%s without a token: %+v, want 401 and why", path, a)
		}
	}
	for _, h := range wrong {
		for _, path := range closed[:4] {
			if a := p.ask(t, "GET", path, "", h); a.code != 401 {
				t.Errorf("%s with %q: %d, want 401", path, h, a.code)
			}
		}
	}
	for method, path := range map[string]string{"POST": "/api/v1/backends", "PATCH": "/api/v1/backends/sa-1", "DELETE": "/api/v1/backends/sa-1", "PUT": "/ready"} {
		if a := p.ask(t, method, path, `{}`); a.code != 401 {
			t.Errorf("%s %s without a token: %+v, want 401", method, path, a)
		}
	}
	right := "Authorization: Bearer " + token
	for _, path := range closed[:8] {
		if a := p.ask(t, "GET", path, "", right); a.code != 200 {
			t.Errorf("%s with the token: %+v", path, a)
		}
	}
	if a := p.ask(t, "GET", "/nothing", "", right); a.code != 404 {
		t.Errorf("/nothing with the token: %+v", a)
	}
	if strings.Contains(p.log.String(), token) {
		t.Error("the token stands in the log")
	}
	p.env = append(p.env, "EDGEPROXY_API_TOKEN=")
	if code, _, errs := p.run(t, "status"); code != 1 || !strings.Contains(errs, "wants a token") {
		t.Errorf("status without the token: %d %q", code, errs)
	}
	p.env = append(p.env, "EDGEPROXY_API_TOKEN="+token)
	if code, out, errs := p.run(t, "status"); code != 0 || !strings.Contains(out, "sa") {
		t.Errorf("status with the token: %d %q %q", code, out, errs)
	}
}

// TestHostAndOrigin: a web page cannot use the browser of somebody on this machine.
func TestHostAndOrigin(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	_, port, _ := strings.Cut(p.API, ":")
	for _, host := range []string{"evil.example", "evil.example:" + port, "localhost.evil.example", "10.0.0.1:" + port, "127.0.0.1.evil.example"} {
		for _, path := range []string{"/api/v1/status", "/metrics", "/health"} {
			if a := p.ask(t, "GET", path, "", "Host: "+host); a.code != 403 {
				t.Errorf("%s with Host %s: %d, want 403", path, host, a.code)
			}
		}
	}
	for _, host := range []string{"localhost", "localhost:" + port, "127.0.0.1", "[::1]:" + port, "LOCALHOST:" + port} {
		if a := p.ask(t, "GET", "/api/v1/status", "", "Host: "+host); a.code != 200 {
			t.Errorf("Host %s: %+v, want 200", host, a)
		}
	}
	for _, h := range []string{"Origin: http://evil.example", "Sec-Fetch-Site: cross-site", "Origin: null"} {
		if a := p.ask(t, "PATCH", "/api/v1/backends/sa-1", `{"weight":9}`, h); a.code != 403 {
			t.Errorf("PATCH with %s: %+v, want 403", h, a)
		}
	}
	if w := p.backends(t)["sa-1"].Weight; w != 1 {
		t.Errorf("weight %d after requests that were refused", w)
	}
	if a := p.ask(t, "GET", "/debug/pprof/heap", ""); a.code != 403 {
		t.Errorf("pprof without a token: %d, want 403", a.code)
	}
}

// TestBadBodies: JSON errors that name the field, and nothing is changed.
func TestBadBodies(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	before := p.sql(t, "SELECT * FROM backends")
	const post, patch = "POST /api/v1/backends", "PATCH /api/v1/backends/sa-1"
	for _, c := range []struct {
		name, to, body string
		code           int
		field          string
	}{
		{"too long", post, `{"id":"` + strings.Repeat("x", 1<<20) + `"}`, 413, ""},
		{"too long in white space", post, strings.Repeat(" ", 1<<20) + `{}`, 413, ""},
		{"unknown field", patch, `{"wieght":5}`, 400, "wieght"},
		{"wrong type", patch, `{"weight":"five"}`, 400, "weight"},
		{"wrong type of a truth", patch, `{"healthy":1}`, 400, "healthy"},
		{"fraction", patch, `{"weight":1.5}`, 400, "weight"},
		{"huge number", patch, `{"weight":1e99}`, 400, "weight"},
		{"port 0", patch, `{"port":0}`, 400, "port"},
		{"port 70000", patch, `{"port":70000}`, 400, "port"},
		{"weight -1", patch, `{"weight":-1}`, 400, "weight"},
		{"no IP", patch, `{"ip":"not-an-ip"}`, 400, "ip"},
		{"no address", patch, `{"addr":"nowhere"}`, 400, "addr"},
		{"id changes", patch, `{"id":"other"}`, 400, "id"},
		{"no id", post, `{"region":"sa","addr":"10.0.0.1:80"}`, 400, "id"},
		{"no region", post, `{"id":"x","addr":"10.0.0.1:80"}`, 400, "region"},
		{"no address given", post, `{"id":"x","region":"sa"}`, 400, "addr"},
		{"long id", post, `{"id":"` + strings.Repeat("x", 300) + `","region":"sa","addr":"10.0.0.1:80"}`, 400, "id"},
		{"control characters", post, `{"id":"x\u001b[2J","region":"sa","addr":"10.0.0.1:80"}`, 400, "id"},
		{"empty", post, ``, 400, ""},
		{"no JSON", post, `id=x`, 400, ""},
		{"a list", post, `[]`, 400, ""},
		{"two objects", patch, `{"weight":5}{"weight":6}`, 400, ""},
		{"cut short", patch, `{"weight":5`, 400, ""},
		{"it exists", post, `{"id":"sa-1","region":"sa","addr":"10.0.0.1:80"}`, 409, ""},
		{"it does not exist", "PATCH /api/v1/backends/nobody", `{"weight":5}`, 404, ""},
		{"nothing to delete", "DELETE /api/v1/backends/nobody", ``, 404, ""},
		{"no client", "GET /api/v1/explain", ``, 400, "client"},
		{"client is no address", "GET /api/v1/explain?client=somewhere", ``, 400, "client"},
		{"wrong method", "PUT /api/v1/backends", `{}`, 405, ""},
		{"no such path", "GET /api/v2/backends", ``, 404, ""},
	} {
		method, path, _ := strings.Cut(c.to, " ")
		a, err := p.request(method, path, c.body)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var e api.Error
		if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Error == "" || a.code != c.code || e.Field != c.field {
			t.Errorf("%s: %d %.300s, want %d, field %q and why", c.name, a.code, a.body, c.code, c.field)
		}
	}
	if after := p.sql(t, "SELECT * FROM backends"); after != before {
		t.Errorf("the table was\n%sand is\n%s", before, after)
	}
	if err := p.isReady(); err != nil {
		t.Error(err)
	}
}
