package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// scripted streams are lists of events; after them nothing comes.
type scripted struct {
	mu     sync.Mutex
	from   string
	filter WatchFilter
	events []Event
	closed bool
}

func (s *scripted) Watch(from string, f WatchFilter) (Stream, error) {
	switch from {
	case "bad":
		return nil, &mesh.FieldError{Field: "from", Message: "is no id"}
	case "full":
		return nil, Unavailable("100 watchers are here already")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from, s.filter = from, f
	return s, nil
}

func (s *scripted) Next(ctx context.Context) ([]Event, error) {
	if events := s.script(nil); len(events) > 0 {
		return events, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// script changes the events that are still to come.
func (s *scripted) script(events []Event) (before []Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, s.events = s.events, events
	return before
}

// asked is what was asked for last, and whether that stream is closed.
func (s *scripted) asked() (from string, f WatchFilter, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from, s.filter, s.closed
}

func (s *scripted) At() string { return "sa/1/7" }

func (s *scripted) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// slowWriter is a connection on which deadlines can be set.
type slowWriter struct {
	*httptest.ResponseRecorder
	write []time.Duration // from when it was set
	read  bool            // the deadline for reading was lifted
}

func (w *slowWriter) SetWriteDeadline(t time.Time) error {
	w.write = append(w.write, time.Until(t))
	return nil
}

func (w *slowWriter) SetReadDeadline(t time.Time) error {
	w.read = t.IsZero()
	return nil
}

// TestHeartbeat: where nothing changes a stream says so now and then, each write
// with a deadline of its own, and it ends with the API, in order.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		feed := &scripted{events: []Event{{ID: "sa/1/7", Type: "change", Kind: "backend", Key: "a", State: json.RawMessage(`{"id":"a"}`)}}}
		s := New(Config{Watches: feed, Metrics: http.NotFoundHandler()}, &tablePOP{}, zerolog.Nop())
		w := &slowWriter{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequest("GET", "/api/v1/watch?kind=backend,health&kind=member&app=shop&from=sa/1/6", nil)
		done := make(chan struct{})
		go func() { defer close(done); s.watch(w, r) }()
		time.Sleep(2*heartbeatEvery + time.Second)
		s.end()
		<-done
		var types []string
		for line := range strings.Lines(w.Body.String()) {
			var e Event
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.ID != "sa/1/7" {
				t.Errorf("line %q: %v", line, err)
			}
			types = append(types, e.Type)
		}
		if want := []string{"change", "heartbeat", "heartbeat", "end"}; !slices.Equal(types, want) {
			t.Errorf("events %q, want %q", types, want)
		}
		if want := []time.Duration{writeWithin, writeWithin, writeWithin, endWithin}; !slices.Equal(w.write, want) || !w.read {
			t.Errorf("write deadlines %v, want %v; that for reading lifted: %v", w.write, want, w.read)
		}
		if from, f, closed := feed.asked(); from != "sa/1/6" || !slices.Equal(f.Kinds, []string{"backend", "health", "member"}) || f.App != "shop" || !closed {
			t.Errorf("asked for %q, %+v, closed %v", from, f, closed)
		}
	})
}

func TestClientWatch(t *testing.T) {
	all := []Event{{ID: "a/1/0", Type: "reset", Reason: "why"}, {ID: "a/1/2", Type: "change", Kind: "backend", Key: "x", State: json.RawMessage(`{"weight":1}`)},
		{ID: "a/1/2", Type: "ready"}, {ID: "a/1/9", Type: "lag", Missed: 3}, {ID: "a/1/9", Type: "end", Reason: "drains"}}
	feed := &scripted{events: all}
	c := dialTest(t, startAPI(t, Config{Watches: feed}, &tablePOP{}), "")
	var got []Event
	err := c.Watch(t.Context(), "a/1/1", WatchFilter{Kinds: []string{"backend", "member"}, App: "x y"}, func(e Event) error { got = append(got, e); return nil })
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", all) {
		t.Errorf("got %+v, %v, want %+v", got, err, all)
	}
	if from, f, _ := feed.asked(); from != "a/1/1" || len(f.Kinds) != 2 || f.App != "x y" {
		t.Errorf("asked for %q, %+v", from, f)
	}
	nothing := func(Event) error { return nil }
	if err := c.Watch(t.Context(), "full", WatchFilter{}, nothing); !errors.Is(err, ErrUnavailable) || err.Error() != "100 watchers are here already" {
		t.Errorf("where it is full: %v", err)
	}
	if err := c.Watch(t.Context(), "bad", WatchFilter{}, nothing); !errors.As(err, new(*mesh.FieldError)) {
		t.Errorf("from nonsense: %v", err)
	}
	feed.script(all[:2])
	wish := errors.New("enough")
	if err := c.Watch(t.Context(), "", WatchFilter{}, func(Event) error { return wish }); !errors.Is(err, wish) {
		t.Errorf("a caller who has enough: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	feed.script(all[:2])
	if err := c.Watch(ctx, "", WatchFilter{}, func(Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who goes: %v", err)
	}
}

// TestClientWatchBroken: what is no stream of a POP, or breaks off, is an error
// that says so.
func TestClientWatchBroken(t *testing.T) {
	for body, want := range map[string]error{
		`{"id":"a/1/1","type":"ready"}` + "\n": ErrUnreachable, `{"id":`: nil, "<html>\n": nil, "{}\n": nil, "": ErrUnreachable,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) }))
		c := dialTest(t, srv.Listener.Addr().String(), "")
		err := c.Watch(t.Context(), "", WatchFilter{}, func(Event) error { return nil })
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", body, err, want)
		}
		srv.Close()
	}
}

// TestRowsAsJSON: values come back as they were.
func TestRowsAsJSON(t *testing.T) {
	rows := [][]any{{nil, int64(9223372036854775807), 1.5, "a<b", []byte{0, 255}, []byte{}}, {int64(-1)}}
	text, err := EncodeRows(rows)
	if err != nil {
		t.Fatal(err)
	}
	back, err := QueryAnswer{Rows: text}.Values()
	if got, want := fmt.Sprint(back), "[[<nil> 9223372036854775807 1.5 a<b [0 255] []] [-1]]"; err != nil || got != want {
		t.Errorf("%s became %s, %v, want %s", text, got, err, want)
	}
	if text, err := EncodeRows(nil); err != nil || string(text) != "[]" {
		t.Errorf("no rows are %s, %v", text, err)
	}
}
