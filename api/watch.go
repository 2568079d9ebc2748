package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Watches is where streams of changes come from. Safe for concurrent use.
type Watches interface {
	// Watch begins a stream behind the event with an id, with what comes for
	// "now", or with everything where from is empty or not known any more. It
	// fails with a *mesh.FieldError or ErrUnavailable.
	Watch(from string, f WatchFilter) (Stream, error)
}

// Stream is one watcher's. It is for one goroutine, which closes it.
type Stream interface {
	// Next waits for events until ctx ends, whose error it returns then. After
	// an event of the type "end" there is nothing more.
	Next(ctx context.Context) ([]Event, error)
	At() string // the id to go on from
	Close()
}

// WatchFilter says what is watched; its zero value is everything.
type WatchFilter struct {
	Kinds []string // backend, service, health, member
	App   string
}

// Event is a line of GET /api/v1/watch.
type Event struct {
	ID     string          `json:"id"`   // to go on from, behind this event
	Type   string          `json:"type"` // change, delete, reset, ready, lag, heartbeat, end
	Kind   string          `json:"kind,omitempty"`
	Key    string          `json:"key,omitempty"`
	State  json.RawMessage `json:"state,omitempty"`  // of a change: BackendState, Service without its counts, HealthState or MemberState
	Missed uint64          `json:"missed,omitempty"` // of a lag: how many changes will not be seen
	Reason string          `json:"reason,omitempty"` // of a reset or an end
}

// BackendState is a Backend without what changes with every connection. State
// is what its row says: up, unhealthy, draining, deleted, expired or failing.
type BackendState struct {
	ID            string `json:"id"`
	App           string `json:"app"`
	Region        string `json:"region"`
	Addr          string `json:"addr"`
	Healthy       bool   `json:"healthy"`
	Weight        int64  `json:"weight"`
	SoftLimit     int64  `json:"soft_limit"`
	HardLimit     int64  `json:"hard_limit"`
	State         string `json:"state"`
	Country       string `json:"country,omitempty"`
	HealthCheck   string `json:"health_check,omitempty"`
	ProxyProtocol string `json:"proxy_protocol,omitempty"`
	Failing       string `json:"failing,omitempty"` // why its own agent says that it is down
}

// HealthState is what checks say of a backend.
type HealthState struct {
	ID     string    `json:"id"`
	App    string    `json:"app"`
	Down   bool      `json:"down"` // all who check it say so
	Checks []Verdict `json:"checks"`
}

// MemberState is a Member without its round trip.
type MemberState struct {
	Name   string            `json:"name"`
	Region string            `json:"region"`
	Addr   string            `json:"addr"`
	Status string            `json:"status"`
	Tags   map[string]string `json:"tags"`
}

const (
	heartbeatEvery = 15 * time.Second
	// writeWithin is how long a watcher may not read at all. What it is sent
	// waits in its socket's buffer, which watchBuffer keeps small.
	writeWithin = 30 * time.Second
	watchBuffer = 64 << 10
	endWithin   = time.Second // less than stopTimeout
)

// Unavailable is an error that is ErrUnavailable, for another reason than the database's.
func Unavailable(why string) error { return remoteError{ErrUnavailable, why} }

func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	if elsewhere(w, r) {
		return
	}
	sse := strings.Contains(r.Header.Get("Accept"), "text/event-stream")
	from, filter, err := watchQuery(r, sse)
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	stream, err := s.cfg.Watches.Watch(from, filter)
	if err != nil {
		s.answer(w, 0, nil, err)
		return
	}
	defer stream.Close()
	if conn, ok := r.Context().Value(connKey{}).(interface{ SetWriteBuffer(int) error }); ok {
		_ = conn.SetWriteBuffer(watchBuffer) // of no consequence but memory
	}
	out := eventWriter{w: w, to: http.NewResponseController(w), sse: sse}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if sse {
		w.Header().Set("Content-Type", "text/event-stream")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would wait for more
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	// An error of ours ends what has begun; one of the connection is the client's, who has gone.
	if err := s.stream(r.Context(), stream, out); err != nil {
		s.log.Debug().Err(err).Msg("watcher gone")
	}
}

// watchQuery reads what is to be watched.
func watchQuery(r *http.Request, sse bool) (from string, f WatchFilter, err error) {
	query, err := parameters(r, "from", "kind", "app")
	if err != nil {
		return "", f, err
	}
	from, f.App = query.Get("from"), query.Get("app")
	for _, v := range query["kind"] {
		f.Kinds = append(f.Kinds, strings.Split(v, ",")...)
	}
	if last := r.Header.Get("Last-Event-ID"); sse && last != "" {
		from = last
	}
	return from, f, nil
}

// stream writes until the client goes or the stream ends.
func (s *Server) stream(ctx context.Context, from Stream, to eventWriter) error {
	// The server's own deadlines are for requests that end.
	if err := to.to.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if err := to.begin(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	for {
		patience, stop := context.WithTimeout(ctx, heartbeatEvery)
		events, err := from.Next(patience)
		stop()
		switch {
		case err != nil && s.ending.Err() != nil:
			return to.write(endWithin, Event{ID: from.At(), Type: "end", Reason: "this POP's API ends"})
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			events = []Event{{ID: from.At(), Type: "heartbeat"}}
		case err != nil:
			return err
		}
		within := writeWithin
		over := slices.ContainsFunc(events, func(e Event) bool { return e.Type == "end" })
		if over {
			within = endWithin
		}
		if err := to.write(within, events...); err != nil || over {
			return err
		}
	}
}

// eventWriter writes events in one of the two forms.
type eventWriter struct {
	w   io.Writer
	to  *http.ResponseController
	sse bool
}

// begin sends the header, and tells a browser how soon to come back.
func (e eventWriter) begin() error {
	if e.sse {
		if _, err := io.WriteString(e.w, "retry: 1000\n\n"); err != nil {
			return err
		}
	}
	return e.to.Flush()
}

func (e eventWriter) write(within time.Duration, events ...Event) error {
	var text []byte
	for _, event := range events {
		body, err := json.Marshal(event)
		if err != nil {
			return err
		}
		if e.sse {
			text = fmt.Appendf(text, "id: %s\nevent: %s\ndata: %s\n\n", oneLine(event.ID), event.Type, body)
		} else {
			text = append(append(text, body...), '\n')
		}
	}
	if err := e.to.SetWriteDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.to.Flush()
}

// oneLine keeps a POP's name, which may hold anything, from being read as a field.
func oneLine(s string) string { return strings.NewReplacer("\n", "", "\r", "").Replace(s) }

// elsewhere refuses what a page of another site has somebody's browser ask for,
// and answers it: such a page sees no answer, but each costs this POP something.
func elsewhere(w http.ResponseWriter, r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	if site == "" || site == "same-origin" || site == "none" {
		return false
	}
	fail(w, http.StatusForbidden, "", "refused: a browser sent this for another site")
	return true
}

// connKey is under which a request's context holds its connection.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}
