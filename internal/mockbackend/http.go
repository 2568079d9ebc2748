package mockbackend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// HTTP is the backend of the seed's integration tests:
//
//	GET /             text about the backend
//	GET /health       OK - {id} ({region})
//	GET /api/info     JSON with everything it knows about itself and the caller
//	GET /api/latency  the least JSON that still says who answered
type HTTP struct{ identity }

// New returns an HTTP backend. It starts nothing.
func New(cfg Config) (*HTTP, error) {
	b := new(HTTP)
	if err := b.fill(cfg); err != nil {
		return nil, err
	}
	return b, nil
}

// Serve answers requests on ln until ctx ends, then closes ln and every connection and returns nil. Any other end of the
// listener is an error.
func (b *HTTP) Serve(ctx context.Context, ln net.Listener) error {
	var conns sync.WaitGroup
	srv := &http.Server{
		Handler:           b.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // called before the connection's goroutine starts, so Add never races with Wait
				conns.Add(1)
				b.accepted.Add(1)
				b.open.Add(1)
			case http.StateClosed:
				b.open.Add(-1)
				conns.Done()
			}
		},
	}
	release := closeAtEnd(ctx, srv)
	err := srv.Serve(ln)
	release()
	_ = srv.Close()
	conns.Wait()
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve mock backend %s on %s: %w", b.cfg.ID, ln.Addr(), err)
}

func (b *HTTP) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", b.root)
	mux.HandleFunc("GET /health", b.health)
	mux.HandleFunc("GET /api/info", b.info)
	mux.HandleFunc("GET /api/latency", b.latency)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		mux.ServeHTTP(w, r)
	})
}

func (b *HTTP) root(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Backend: %s\nRegion: %s\nHost: %s\nPort: %d\nYour IP: %s\n",
		b.cfg.ID, b.cfg.Region, b.cfg.Hostname, b.cfg.Port, r.RemoteAddr)
}

func (b *HTTP) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "OK - %s (%s)\n", b.cfg.ID, b.cfg.Region)
}

// info is the body of /api/info.
type info struct {
	ID         string  `json:"id"`
	Region     string  `json:"region"`
	Port       int     `json:"port"`
	Hostname   string  `json:"hostname"`
	UptimeSecs float64 `json:"uptime_secs"`
	Requests   int64   `json:"requests"` // this one included
	Accepted   int64   `json:"accepted"` // connections
	Open       int64   `json:"open"`     // connections
	ClientAddr string  `json:"client_addr"`
	Time       string  `json:"time"` // RFC 3339, UTC
}

func (b *HTTP) info(w http.ResponseWriter, r *http.Request) {
	now := b.cfg.Now()
	writeJSON(w, info{
		ID:         b.cfg.ID,
		Region:     b.cfg.Region,
		Port:       b.cfg.Port,
		Hostname:   b.cfg.Hostname,
		UptimeSecs: now.Sub(b.started).Seconds(),
		Requests:   b.Requests(),
		Accepted:   b.Accepted(),
		Open:       b.Open(),
		ClientAddr: r.RemoteAddr,
		Time:       now.UTC().Format(time.RFC3339Nano),
	})
}

// latency is the body of /api/latency.
type latency struct {
	ID     string `json:"id"`
	Region string `json:"region"`
	UnixNS int64  `json:"unix_ns"` // the backend's clock
}

func (b *HTTP) latency(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, latency{ID: b.cfg.ID, Region: b.cfg.Region, UnixNS: b.cfg.Now().UnixNano()})
}

// writeJSON drops the error of a client that has gone: the connection reports it by itself.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
