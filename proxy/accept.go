package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// acceptFrom serves who comes to a listener until ctx ends, and closes it.
func (s *Server) acceptFrom(ctx context.Context, ln *net.TCPListener, f *front) error {
	defer ln.Close()
	woken := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() { _ = ln.SetDeadline(longAgo); close(woken) })
	err := s.acceptAll(ctx, ln, f)
	if !unwatch() {
		<-woken // acceptRest sets another deadline
	}
	if err == nil && !s.serving.isGiven(f.first) {
		s.acceptRest(ln, f)
	}
	return err
}

// acceptAll serves every connection until ctx ends.
func (s *Server) acceptAll(ctx context.Context, ln *net.TCPListener, f *front) error {
	pause := pauser{log: s.log}
	for ctx.Err() == nil {
		if s.full() {
			s.Metrics.acceptPauses.Add(1)
			pause.wait(ctx, errTooMany)
			continue
		}
		conn, err := ln.AcceptTCP()
		switch {
		case err == nil:
			pause.reset()
			s.serve(f, conn)
		case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil:
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		default:
			// EMFILE, ENFILE, ENOBUFS, ECONNABORTED …: whatever it is, the
			// next moment may be better, and open connections go on.
			s.Metrics.acceptErrors.Add(1)
			pause.wait(ctx, err)
		}
	}
	return nil
}

// acceptRest serves the connections that clients see as established already,
// or will when the answer to their SYN arrives: closing the listener would
// reset them. It returns when nobody has come for backlogGrace, or on Kill.
func (s *Server) acceptRest(ln *net.TCPListener, f *front) {
	if err := noNewConnections(ln); err != nil {
		s.log.Debug().Err(err).Msg("connections that arrive as the listener closes may be reset")
	}
	const step = backlogGrace / 20
	end := time.Now().Add(backlogMost)
	for quiet := time.Duration(0); quiet < backlogGrace && time.Now().Before(end) && !s.full(); quiet += step {
		select {
		case <-s.killed:
			return
		default:
		}
		_ = ln.SetDeadline(time.Now().Add(step))
		conn, err := ln.AcceptTCP()
		switch {
		case err == nil:
			s.serve(f, conn)
			quiet = 0
		case !errors.Is(err, os.ErrDeadlineExceeded):
			<-time.After(step) // EMFILE and the like: perhaps the next time
		}
	}
}

func (s *Server) full() bool {
	most := s.settings.Load().MaxConnections
	return most > 0 && s.Active() >= int64(most)
}

// serve hands a connection to a worker.
func (s *Server) serve(f *front, conn *net.TCPConn) {
	s.Metrics.begin()
	select {
	case f.jobs <- conn:
	default:
		f.serving.Go(func() { s.work(f, conn) })
	}
}

// work handles a connection, then others. A dial needs a deep stack, and
// growing one anew for every connection costs as much as the dial's own code.
func (s *Server) work(f *front, conn *net.TCPConn) {
	for ok := true; ok; {
		s.handle(f, conn)
		if f.idle.Add(1) > idleWorkers {
			f.idle.Add(-1)
			return
		}
		conn, ok = <-f.jobs
		f.idle.Add(-1)
	}
}

// pauser waits between failed accepts, longer each time, and says so once a second.
type pauser struct {
	log   zerolog.Logger
	delay time.Duration
	said  time.Time
}

func (p *pauser) reset() { p.delay = 0 }

func (p *pauser) wait(ctx context.Context, err error) {
	if errors.Is(err, syscall.ECONNABORTED) {
		return // the client has gone; nothing is short
	}
	select {
	case <-ctx.Done():
	case <-time.After(p.next(err)):
	}
}

// next is how long to wait after an error.
func (p *pauser) next(err error) time.Duration {
	p.delay = min(max(2*p.delay, 5*time.Millisecond), 500*time.Millisecond)
	if now := time.Now(); now.Sub(p.said) >= time.Second {
		p.said = now
		p.log.Warn().Err(err).Dur("pause_ms", p.delay).Msg("accepting paused")
	}
	return p.delay
}

const (
	backlogGrace = 200 * time.Millisecond // longer than most handshakes take
	backlogMost  = 5 * time.Second        // where new ones cannot be kept out and never pause
)

// idleWorkers is how many workers of a listener wait for another connection.
const idleWorkers = 64

var errTooMany = errors.New("maximum number of open connections reached")
