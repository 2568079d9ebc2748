package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// registry holds every relaying session, for what has to look at all of them:
// timeouts, byte counts, the end of a drain. One pass every so often replaces
// two timers a connection, and reading a clock for every byte.
type registry struct {
	turn   atomic.Uint32
	shards [16]struct {
		mu    sync.Mutex
		first *session
		_     [48]byte // a shard to a cache line of its own
	}
}

func (r *registry) add(c *session) {
	c.shard = r.turn.Add(1) % uint32(len(r.shards))
	s := &r.shards[c.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.next = s.first; c.next != nil {
		c.next.prev = c
	}
	s.first = c
}

func (r *registry) remove(c *session) {
	s := &r.shards[c.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		s.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

// each calls fn for every session. fn runs under a shard's lock: it must not
// add or remove sessions.
func (r *registry) each(fn func(*session)) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for c := s.first; c != nil; c = c.next {
			fn(c)
		}
		s.mu.Unlock()
	}
}

// sweeper is the one goroutine that sweeps while any listener is served.
type sweeper struct {
	mu    sync.Mutex
	users int
	stop  chan struct{}
	ended chan struct{}
}

// sweep has every session looked at now and then until done is called.
func (s *Server) sweep() (done func()) {
	w := &s.sweeping
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.users++; w.users == 1 {
		stop, ended := make(chan struct{}), make(chan struct{})
		w.stop, w.ended = stop, ended
		go func() {
			defer close(ended)
			s.sweepUntil(stop)
		}()
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.users--; w.users == 0 {
			close(w.stop)
			<-w.ended
		}
	}
}

func (s *Server) sweepUntil(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case now := <-time.After(s.settings.Load().sweepEvery()):
			set := s.settings.Load()
			s.sessions.each(func(c *session) { c.check(now, set) })
		}
	}
}

// sweepEvery is how long a pass waits for the next. A timeout is late by twice
// that at most, a change of Settings and a count of bytes by once.
func (s *Settings) sweepEvery() time.Duration {
	return min(max(min(s.IdleTimeout, s.LingerTimeout)/8, 10*time.Millisecond), time.Second)
}

// check reports the bytes of a session and ends it where it has been quiet for
// too long or its client is gone. Quiet counts from after the last byte was
// seen to have moved, which is not before it moved: no timeout is early. The
// clock is the monotonic one: setting the machine's time ends nothing.
func (c *session) check(now time.Time, set *Settings) {
	half := c.open.Load() < 2
	if moved := c.reportBytes(); moved || half != c.half || c.quiet.IsZero() {
		c.half, c.quiet = half, time.Now()
	}
	quiet := now.Sub(c.quiet)
	switch {
	case c.up.lost():
		c.end(endClientReset, true)
	case half && quiet > set.LingerTimeout:
		c.end(endLinger, false)
	case quiet > c.service.idleTimeout(set):
		c.end(endIdle, false)
	}
}
