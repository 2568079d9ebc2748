// Package mockbackend is a backend that says who it is, so that a test or a lab can see where a connection ended up.
//
//	b, err := mockbackend.New(mockbackend.Config{Region: "eu", Port: 9001}) // HTTP; NewTCP for lines of text
//	if err != nil {
//		return err
//	}
//	ln, err := net.Listen("tcp", "127.0.0.1:9001")
//	if err != nil {
//		return err
//	}
//	err = b.Serve(ctx, ln) // nil when ctx ends; b.Accepted(), b.Open() tell what arrived
//
// Invariants: Serve owns its listener, its connections and their goroutines, and none of them outlives it. Counters may be
// read at any time. One value may serve several listeners; they share its counters.
//
// It does not speak TLS, check health or register itself anywhere.
package mockbackend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
)

// DefaultRegion is the region of a backend that was given none.
const DefaultRegion = "eu"

// Config says who the backend claims to be. It does not choose the socket: that is an argument of Serve.
type Config struct {
	ID       string           // default mock-{region}-{port}
	Region   string           // default DefaultRegion
	Port     int              // reported only, 0–65535
	Hostname string           // reported only; default this machine's name
	Now      func() time.Time // default time.Now
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d: want 0 to 65535", c.Port))
	}
	for _, f := range []struct{ key, value string }{{"id", c.ID}, {"region", c.Region}} {
		// Both stand in the one-line greeting, which a line break would tear apart.
		if strings.ContainsFunc(f.value, unicode.IsControl) {
			errs = append(errs, fmt.Errorf("%s %q: control characters are not allowed", f.key, f.value))
		}
	}
	return errors.Join(errs...)
}

// identity is what both kinds of backend have in common: who they are and what they have seen.
type identity struct {
	cfg     Config
	started time.Time

	accepted, open, requests atomic.Int64
}

// fill validates cfg and puts the defaults in.
func (b *identity) fill(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("mock backend: %w", err)
	}
	if cfg.Region == "" {
		cfg.Region = DefaultRegion
	}
	if cfg.ID == "" {
		cfg.ID = fmt.Sprintf("mock-%s-%d", cfg.Region, cfg.Port)
	}
	if cfg.Hostname == "" {
		cfg.Hostname, _ = os.Hostname() // decoration: a machine without a name serves as well
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b.cfg, b.started = cfg, cfg.Now()
	return nil
}

// ID is the name that the backend answers with.
func (b *identity) ID() string { return b.cfg.ID }

// Region is the region that the backend answers with.
func (b *identity) Region() string { return b.cfg.Region }

// Accepted counts the connections accepted so far.
func (b *identity) Accepted() int64 { return b.accepted.Load() }

// Open counts the connections open now.
func (b *identity) Open() int64 { return b.open.Load() }

// Requests counts the HTTP requests, or lines, answered so far.
func (b *identity) Requests() int64 { return b.requests.Load() }

// closeAtEnd closes c when ctx ends. The caller calls release when it is done with c: from then on no goroutine of ours
// touches it any more.
func closeAtEnd(ctx context.Context, c io.Closer) (release func()) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = c.Close() // it is being thrown away; there is nobody to tell
	})
	return func() {
		if !stop() {
			<-closed
		}
	}
}
