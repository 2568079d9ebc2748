// Package checker asks backends whether they are well: TCP and HTTP checks, at
// their intervals, with the verdicts of package health.
//
//	c := checker.New(checker.Config{}, log)
//	c.Assign(targets)        // declarative: who is not among them is not checked any more
//	go c.Run(ctx)            // until ctx ends
//	c.Suspect([]string{id})  // a connect to it failed: look now
//	<-c.Changed(); states := c.States()
//
// A check is bounded in time and in what it reads: redirects are not followed,
// bodies not read. What fails for a lack of this machine's own (descriptors,
// ports) says nothing of the backend. Checks run side by side, so many at once
// at most, and those of backends that are ill hold up none of the others; none
// begins while the one before it runs.
package checker

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edgeproxy/edgeproxy/health"
	"github.com/edgeproxy/edgeproxy/internal/exhausted"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

const (
	// atOnce is how many checks run at a time of backends that are well, and as
	// many of others: those that hang hold up nobody who does not.
	atOnce = 128
	// apart is the least time between two checks of a backend, whoever suspects it.
	apart = 200 * time.Millisecond
	// spread is how long the first checks of many backends take to begin.
	spread = time.Second
)

// Config of a Checker. The zero value is ready for use.
type Config struct {
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net.Dialer
}

// Target is a backend to check.
type Target struct {
	ID    string
	Addr  netip.AddrPort
	Check mesh.Check        // not off
	Proxy mesh.ProxyVersion // what it is sent first, where its own port is asked
	Start health.State
}

// Checker checks backends. Its methods may be called by any goroutine.
type Checker struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	client *http.Client
	log    zerolog.Logger

	// OK and Failed count the checks.
	OK, Failed atomic.Uint64

	changed chan struct{} // size 1
	wake    chan struct{} // size 1
	checks  sync.WaitGroup

	mu       sync.Mutex
	backends map[string]*backend
	well     lane // up, or not known yet
	ill      lane // down, or about to be
}

// lane is backends that wait for their turn.
type lane struct {
	queue   queue
	running int
}

// backend is one that is checked.
type backend struct {
	Target
	state health.State
	due   time.Time
	began time.Time // of the last check
	lane  *lane
	place int  // in its queue; -1: its check runs
	gone  bool // not to be checked any more
}

// New makes a Checker that does nothing until Run.
func New(cfg Config, log zerolog.Logger) *Checker {
	c := &Checker{dial: cfg.Dial, log: log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), backends: map[string]*backend{}}
	if c.dial == nil {
		c.dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	c.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:       c.greet,
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return c
}

// Changed tells that States differs from what it last was.
func (c *Checker) Changed() <-chan struct{} { return c.changed }

// States are the backends of which something is known.
func (c *Checker) States() map[string]health.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := make(map[string]health.State, len(c.backends))
	for id, b := range c.backends {
		if b.state.Known {
			m[id] = b.state
		}
	}
	return m
}

// Assign sets which backends are checked, and how. One whose address and check
// are as before goes on as it was. Start is what a new one begins with.
func (c *Checker) Assign(targets []Target) {
	now := time.Now()
	c.mu.Lock()
	stay := make(map[string]bool, len(targets))
	for _, t := range targets {
		stay[t.ID] = true
		old := c.backends[t.ID]
		if old != nil && old.Addr == t.Addr && old.Check == t.Check && old.Proxy == t.Proxy {
			continue
		}
		if old != nil {
			c.dropLocked(old)
		}
		b := &backend{Target: t, state: t.Start, due: now.Add(rand.N(min(t.Check.Interval, spread)))}
		c.backends[t.ID] = b
		c.waitLocked(b)
	}
	for id, b := range c.backends {
		if !stay[id] {
			c.dropLocked(b)
			delete(c.backends, id)
		}
	}
	c.mu.Unlock()
	notify(c.wake)
	notify(c.changed)
}

func (c *Checker) dropLocked(b *backend) {
	b.gone = true
	if b.place >= 0 {
		heap.Remove(&b.lane.queue, b.place)
	}
}

// waitLocked puts the backend where it waits for its next check.
func (c *Checker) waitLocked(b *backend) {
	b.lane = &c.well
	if b.state.Against > 0 && b.state.Up || b.state.Known && !b.state.Up {
		b.lane = &c.ill
	}
	heap.Push(&b.lane.queue, b)
}

// Suspect has backends that are not known to be down checked at once.
func (c *Checker) Suspect(ids []string) {
	c.mu.Lock()
	for _, id := range ids {
		b := c.backends[id]
		if b == nil || b.state.Known && !b.state.Up {
			continue
		}
		if at := b.began.Add(apart); b.place >= 0 && at.Before(b.due) {
			b.due = at
			heap.Fix(&b.lane.queue, b.place)
		}
	}
	c.mu.Unlock()
	notify(c.wake)
}

// Run checks until ctx ends, and returns when no check runs any more.
func (c *Checker) Run(ctx context.Context) error {
	defer c.checks.Wait()
	defer c.client.CloseIdleConnections()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(c.begin(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// begin starts the checks that are due and returns the time until the next is.
func (c *Checker) begin(ctx context.Context) time.Duration {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return min(c.beginLocked(ctx, &c.well, now), c.beginLocked(ctx, &c.ill, now))
}

func (c *Checker) beginLocked(ctx context.Context, l *lane, now time.Time) time.Duration {
	for len(l.queue) > 0 && l.running < atOnce {
		b := l.queue[0]
		if wait := b.due.Sub(now); wait > 0 {
			return wait
		}
		heap.Pop(&l.queue)
		b.began = now
		l.running++
		c.checks.Go(func() {
			err := c.ask(ctx, b.Target)
			c.done(b, err, ctx.Err() != nil || exhausted.Is(err))
		})
	}
	return time.Hour // whoever ends or is assigned wakes us
}

// done takes over a check's result, unless it says nothing of the backend.
func (c *Checker) done(b *backend, err error, void bool) {
	now := time.Now()
	c.mu.Lock()
	b.lane.running--
	was := b.state
	if !void {
		r := health.Result{OK: err == nil, At: now}
		counter := &c.OK
		if err != nil {
			r.Why, counter = why(err), &c.Failed
		}
		counter.Add(1)
		b.state = was.Next(b.Check, r)
	}
	if !b.gone {
		b.due = b.began.Add(max(apart, b.state.Pause(b.Check)))
		if b.due.Before(now) {
			b.due = now
		}
		c.waitLocked(b)
	}
	state, gone := b.state, b.gone
	c.mu.Unlock()
	notify(c.wake)
	if gone || was.Known == state.Known && was.Up == state.Up && was.Why == state.Why {
		return
	}
	notify(c.changed)
	if was.Known && was.Up == state.Up {
		return
	}
	e := c.log.Info()
	if !state.Up {
		e = c.log.Warn().Str("why", state.Why)
	}
	e.Str("backend", b.ID).Stringer("addr", b.Addr).Bool("up", state.Up).Msg("health check")
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// queue is the backends by when they are due.
type queue []*backend

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *queue) Push(x any) {
	b := x.(*backend)
	b.place = len(*q)
	*q = append(*q, b)
}

func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	last.place = -1
	return last
}
