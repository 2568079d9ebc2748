package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

func pictureOf(rows mesh.Rows) *mesh.Snapshot {
	return mesh.NewSnapshot(mesh.POP{Node: "sa-1", Region: "sa"}, rows, nil)
}

func backendRow(id, app string, weight int) []any {
	return []any{id, app, "sa", "10.0.0.1", int64(80), int64(1), int64(weight), int64(1), int64(0), int64(0)}
}

// read is what a stream has now, in short.
func read(t *testing.T, s api.Stream) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var all []string
	for {
		events, err := s.Next(ctx)
		if err != nil {
			return strings.Join(all, " ")
		}
		for _, e := range events {
			all = append(all, strings.TrimSpace(e.Type+" "+e.Key))
		}
	}
}

func TestWatchesSayWhatChanged(t *testing.T) {
	w := newWatches("sa-1", 7)
	s, err := w.Watch("", api.WatchFilter{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	service := make([]any, len(mesh.ServiceColumns))
	service[0] = "shop"
	if moved := w.picture(pictureOf(mesh.Rows{Backends: [][]any{backendRow("a", "shop", 1), backendRow("b", "shop", 1)}, Services: [][]any{service}}), now); !slices.Equal(moved, []string{"a", "b"}) {
		t.Errorf("new are %q", moved)
	}
	if got, want := read(t, s), "reset ready change a change b change shop"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.health([]api.HealthState{{ID: "a", App: "shop", Down: true, Checks: []api.Verdict{{POP: "sa-1"}}}, {ID: "b"}}, now)
	w.members([]api.Member{{Name: "sa-1", Status: "alive", RTT: new(1.5)}, {Name: "us-1"}}, now)
	w.members([]api.Member{{Name: "sa-1", Status: "alive", RTT: new(2.5)}}, now) // a round trip is no news
	if got, want := read(t, s), "lag change a change sa-1 delete us-1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// Of the same picture, read anew, nothing; a heartbeat is nothing to see.
	again := pictureOf(mesh.Rows{Backends: [][]any{backendRow("a", "shop", 1), backendRow("b", "blog", 2)}, Services: [][]any{service}})
	again.Backends[0].Registration = &mesh.Registration{POP: "us-1", Heartbeat: now}
	if moved := w.picture(again, now); !slices.Equal(moved, []string{"b"}) {
		t.Errorf("of another app are %q", moved)
	}
	if got, want := read(t, s), "change b"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.picture(pictureOf(mesh.Rows{Backends: [][]any{backendRow("aa", "shop", 1)}}), now)
	if got, want := read(t, s), "change aa delete a delete b delete shop"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	w.end("over and out")
	if got := read(t, s); got != "end" {
		t.Errorf("got %s, want the end", got)
	}
	s.Close()
	if _, err := w.Watch("", api.WatchFilter{}); !errors.Is(err, api.ErrUnavailable) || !strings.Contains(err.Error(), "over and out") || w.watchers() != 0 {
		t.Errorf("after the end: %v, %d watchers", err, w.watchers())
	}
}

// TestWatchersSeeTheStateOfTheAPI: where more than one thing keeps a backend out
// of routing, GET /api/v1/backends and a watcher name the same one.
func TestWatchersSeeTheStateOfTheAPI(t *testing.T) {
	b := pictureOf(mesh.Rows{Backends: [][]any{backendRow("a", "shop", 1)}}).Backends[0]
	if got := backendState(&b).State; got != "up" {
		t.Errorf("state %s, want up", got)
	}
	b.Registration = &mesh.Registration{Failing: "no disk"}
	for _, also := range []struct {
		set  func()
		want string
	}{
		{func() {}, "failing"},
		{func() { b.Expired = true }, "expired"},
		{func() { b.Draining = true }, "draining"},
		{func() { b.Healthy = false }, "unhealthy"},
		{func() { b.Deleted = true }, "deleted"},
	} {
		also.set()
		_, _, why := new(route.Router).Load(&b, time.Now())
		if got := backendState(&b).State; got != also.want || got != string(why) {
			t.Errorf("state %s, the API's %s; want %s", got, why, also.want)
		}
	}
}

func TestWatchersAreBounded(t *testing.T) {
	w := newWatches("sa-1", 7)
	for i := range mostWatchers {
		if _, err := w.Watch("now", api.WatchFilter{}); err != nil {
			t.Fatalf("watcher %d: %v", i, err)
		}
	}
	if _, err := w.Watch("now", api.WatchFilter{}); !errors.Is(err, api.ErrUnavailable) {
		t.Errorf("one more: %v", err)
	}
}

// BenchmarkPicture: one of 10,000 backends changes.
func BenchmarkPicture(b *testing.B) {
	const n = 10_000
	var pictures [2]*mesh.Snapshot
	for i := range pictures {
		var rows mesh.Rows
		for id := range n {
			rows.Backends = append(rows.Backends, backendRow(fmt.Sprintf("b-%05d", id), "shop", 1))
		}
		rows.Backends[n/2] = backendRow(fmt.Sprintf("b-%05d", n/2), "shop", 2+i)
		pictures[i] = pictureOf(rows)
	}
	w := newWatches("sa-1", 7)
	for i := 0; b.Loop(); i++ {
		w.picture(pictures[i%2], time.Now())
	}
}
