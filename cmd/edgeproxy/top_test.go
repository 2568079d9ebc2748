package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/api"
)

// busy is a mesh of so many POPs and backends.
func busy(pops, backends int) api.Load {
	l := api.Load{Node: "sa-1", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	for i := range pops {
		lag := float64(i) * 2000
		l.POPs = append(l.POPs, api.POPLoad{Node: fmt.Sprintf("pop-%d", i), Region: "sa", Status: "alive", Lag: &lag, Connections: int64(i), Rate: 0.5})
	}
	for i := range backends {
		l.Backends = append(l.Backends, api.BackendLoad{
			Backend: api.Backend{ID: fmt.Sprintf("b-%02d", i), App: "a", Region: "sa", State: "up", Connections: int64(i), HardLimit: 100},
			ByPOP:   map[string]int64{"sa-1": int64(i), "us-1": 0}, Headroom: new(100 - int64(i)),
		})
	}
	return l
}

// TestScreenful: nothing is wider or higher than the terminal, and what does
// not fit is counted.
func TestScreenful(t *testing.T) {
	for _, size := range [][2]int{{80, 24}, {20, 10}, {1, 1}, {200, 100}} {
		for _, failed := range []error{nil, errors.New("refused: ünreachable\x1b[2J")} {
			lines := screenful(busy(20, 50), "connections", failed, false, size[0], size[1])
			for _, line := range lines {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > size[0] || strings.Contains(line, "\x1b") {
					t.Errorf("%v: line of %d characters: %q", size, n, line)
				}
			}
			if size[1] >= 10 && len(lines) > size[1] {
				t.Errorf("%v: %d lines", size, len(lines))
			}
		}
	}
	lines := screenful(busy(20, 50), "connections", nil, false, 80, 24)
	if got := strings.Join(lines, ""); !strings.Contains(got, "… 14 more POPs\n") || !strings.HasSuffix(got, "… 39 more backends\n") {
		t.Errorf("got\n%s", got)
	}
}

// TestTopStates: how old a report is says how much it is worth.
func TestTopStates(t *testing.T) {
	at := func(ms float64) *float64 { return &ms }
	for _, tc := range []struct {
		pop  api.POPLoad
		want cell
	}{
		{api.POPLoad{Status: "alive", Lag: at(100)}, cell{"alive", green}},
		{api.POPLoad{Status: "alive", Lag: at(3001)}, cell{"stale", yellow}},
		{api.POPLoad{Status: "alive"}, cell{"silent", red}},
		{api.POPLoad{Status: "failed", Lag: at(9000)}, cell{"failed", red}},
		{api.POPLoad{Status: "left"}, cell{"left", yellow}},
	} {
		if got := popState(tc.pop); got != tc.want {
			t.Errorf("%+v: %v, want %v", tc.pop, got, tc.want)
		}
	}
}

// TestTopOrders: every order is total, the same at every look.
func TestTopOrders(t *testing.T) {
	l := busy(1, 3)
	l.Backends[0].Headroom, l.Backends[0].Rate = nil, 7
	l.Backends[1].Region = "ap"
	l.Backends[2].State, l.Backends[2].Own = "down", 1
	for order, want := range map[string]string{
		"id": "b-00 b-01 b-02", "app": "b-00 b-01 b-02", "region": "b-01 b-00 b-02", "state": "b-02 b-00 b-01",
		"connections": "b-02 b-01 b-00", "own": "b-02 b-00 b-01", "new/s": "b-00 b-01 b-02", "room": "b-02 b-01 b-00",
	} {
		_, rows := backendTable(l, order)
		var ids []string
		for _, row := range rows {
			ids = append(ids, row[0].text)
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("by %s: %s, want %s", order, got, want)
		}
	}
	if len(orders) != 8 {
		t.Errorf("%d orders", len(orders))
	}
}
