package api

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

// answer is what a server of pop answers to one request.
func answer(t *testing.T, pop POP, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	cfg := Config{Ready: func() []string { return nil }, Metrics: http.NotFoundHandler(), Queries: fixedQueries("[]")}
	rec := httptest.NewRecorder()
	New(cfg, pop, zerolog.Nop()).handler().ServeHTTP(rec, httptest.NewRequest(method, target, strings.NewReader(body)))
	return rec
}

// TestService: one service is what the list has of it.
func TestService(t *testing.T) {
	pop := &tablePOP{services: map[string]Service{"web/1": {App: "web/1", HardLimit: 7}, "b": {App: "b"}}}
	rec := answer(t, pop, http.MethodGet, "/api/v1/services/web%2F1", "")
	var s Service
	if err := json.Unmarshal(rec.Body.Bytes(), &s); rec.Code != http.StatusOK || err != nil || s.App != "web/1" || s.HardLimit != 7 {
		t.Errorf("%d %s, %v", rec.Code, rec.Body, err)
	}
	rec = answer(t, pop, http.MethodGet, "/api/v1/services/none", "")
	if rec.Code != http.StatusNotFound || !strings.Contains(rec.Body.String(), "no such service: none") {
		t.Errorf("%d %s, want 404 and its name", rec.Code, rec.Body)
	}
}

// TestLongHeartbeat: the refusal says how long one may be.
func TestLongHeartbeat(t *testing.T) {
	rec := answer(t, &tablePOP{}, http.MethodPost, "/api/v1/heartbeat/a", strings.Repeat(" ", 5000))
	if rec.Code != http.StatusRequestEntityTooLarge || !strings.Contains(rec.Body.String(), "longer than 4096 bytes") {
		t.Errorf("%d %s, want 413 and the bound", rec.Code, rec.Body)
	}
}

// TestParameters: those of a URL are obeyed or refused by name, never ignored.
func TestParameters(t *testing.T) {
	pop := &tablePOP{backends: map[string]Backend{
		"a": {ID: "a", App: "shop", Region: "sa"}, "b": {ID: "b", App: "shop", Region: "us"}, "c": {ID: "c", App: "web", Region: "us"},
	}}
	for query, want := range map[string]string{
		"": "a b c", "?app=shop": "a b", "?region=US": "b c", "?app=shop&region=us": "b", "?app=none": "", "?app=&region=": "a b c",
	} {
		rec := answer(t, pop, http.MethodGet, "/api/v1/backends"+query, "")
		var l BackendList
		err := json.Unmarshal(rec.Body.Bytes(), &l)
		var ids []string
		for _, b := range l.Backends {
			ids = append(ids, b.ID)
		}
		slices.Sort(ids)
		if got := strings.Join(ids, " "); err != nil || got != want || l.Total != len(ids) || l.Backends == nil {
			t.Errorf("%q: %q of %d, %v; want %q", query, got, l.Total, err, want)
		}
	}
	for _, c := range []struct{ method, target, field string }{
		{"GET", "/api/v1/backends?apps=shop", "apps"},
		{"GET", "/api/v1/backends?app=a;b", ""},
		{"GET", "/api/v1/explain?client=192.0.2.1&region=us", "region"},
		{"GET", "/api/v1/query?sql=x&limit=5", "limit"},
		{"POST", "/api/v1/query?sql=x", "sql"},
		{"GET", "/api/v1/watch?kinds=backend", "kinds"},
	} {
		rec := answer(t, pop, c.method, c.target, "x")
		var e Error
		if err := json.Unmarshal(rec.Body.Bytes(), &e); rec.Code != http.StatusBadRequest || err != nil || e.Field != c.field || e.Error == "" {
			t.Errorf("%s %s: %d %s, want 400 and field %q", c.method, c.target, rec.Code, rec.Body, c.field)
		}
	}
	for _, target := range []string{"/api/v1/explain?client=192.0.2.1&app=shop", "/api/v1/query?sql=x"} {
		if rec := answer(t, pop, http.MethodGet, target, ""); rec.Code != http.StatusOK {
			t.Errorf("%s: %d %s", target, rec.Code, rec.Body)
		}
	}
}
