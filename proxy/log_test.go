package proxy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
)

// Every connection leaves one line with everything that is known about it, at
// level info where that was asked for, else at debug.
func caseAccessLog(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{places: places, Config: trusting, targets: []target{{id: "b", addr: b.addr, rank: 1}}})
	visit := func() {
		client := dial(t, r.addr)
		send(t, client, goodHeaders[0].header)
		roundTrip(t, client)
		client.Close()
	}
	visit()
	r.ends(t, 1, endClosed)
	set := trusting.Settings
	set.AccessLog = false
	r.Configure(set)
	visit()
	r.ends(t, 2, endClosed)

	var texts []string
	for text := range strings.Lines(r.log.String()) {
		texts = append(texts, text)
	}
	if len(texts) != 2 {
		t.Errorf("%d lines for 2 connections:\n%s", len(texts), r.log)
	}
	for i, level := range []string{"info", "debug"} {
		var fields map[string]any
		if err := json.Unmarshal([]byte(texts[i]), &fields); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"connect_ms", "took_ms"} {
			if ms, ok := fields[name].(float64); !ok || ms <= 0 || ms > float64(patience.Milliseconds()) {
				t.Errorf("%s = %v, want a time in ms", name, fields[name])
			}
			delete(fields, name)
		}
		want := map[string]any{
			"level": level, "message": "connection", "client": "203.0.113.7:4000", "country": "BR", "region": "bb",
			"backend": "b", "reason": "client_region", "attempts": 1.0, "bytes_in": 4.0, "bytes_out": 4.0, "end": "closed",
		}
		if !maps.Equal(fields, want) {
			t.Errorf("line %d: %v\nwant %v", i+1, fields, want)
		}
	}
}

// TestEndNames: every way to end has a name of its own, in metrics too.
func TestEndNames(t *testing.T) {
	want := []string{"open", "closed", "client_reset", "backend_reset", "idle_timeout", "linger_timeout", "drained",
		"no_backend", "connect_failed", "bad_proxy_header",
		"denied", "too_many_connections", "too_many_new_connections",
		"bad_client_hello", "unknown_name", "tls_handshake_failed", "service_full"}
	if !slices.Equal(endNames[:], want) {
		t.Errorf("names %v, want %v: they are in users' log filters and alerts", endNames, want)
	}
	var m Metrics
	m.ended[endIdle].Add(3)
	st := m.Stats()
	if len(st.Ended) != int(ends)-1 || st.Ended["idle_timeout"] != 3 {
		t.Errorf("Stats().Ended = %v, want each way to end but open, 3 idle timeouts", st.Ended)
	}
}

// TestObserveConnect: a bucket holds what took at most its bound.
func TestObserveConnect(t *testing.T) {
	var m Metrics
	for _, bound := range ConnectBounds {
		m.observeConnect(bound)
	}
	m.observeConnect(ConnectBounds[len(ConnectBounds)-1] + 1)
	for i, n := range m.Stats().Connects {
		if n != 1 {
			t.Errorf("bucket %d holds %d connects, want 1", i, n)
		}
	}
}
