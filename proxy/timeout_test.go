package proxy

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stalls knows for how long this process has not been given a processor: a
// machine with other work must not fail tests of how soon things happen.
type stalls struct{ worst atomic.Int64 } // ns

func watchStalls(t testing.TB) *stalls {
	s := &stalls{}
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		const every = 5 * time.Millisecond
		tick := time.NewTicker(every)
		defer tick.Stop()
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			now := time.Now()
			s.worst.Store(max(s.worst.Load(), int64(now.Sub(last)-every)))
			last = now
		}
	})
	t.Cleanup(func() { close(stop); watching.Wait() })
	return s
}

// soon checks that something took no longer than most, and what the machine
// may have added.
func (s *stalls) soon(t testing.TB, took, most time.Duration) {
	t.Helper()
	if worst := time.Duration(s.worst.Load()); took > most+10*worst {
		t.Errorf("took %v, want at most %v; the machine has stalled for %v", took, most, worst)
	}
}

// within checks that something ended no earlier than the timeout after the
// earliest moment at which it can have begun, and at most half as late again
// after the latest.
func (s *stalls) within(t testing.TB, timeout time.Duration, earliest, latest time.Time) {
	t.Helper()
	now := time.Now()
	if took := now.Sub(earliest); took < timeout {
		t.Errorf("ended after %v, want no earlier than %v", took, timeout)
	}
	s.soon(t, now.Sub(latest), timeout*3/2+100*time.Millisecond)
}

// trickle writes a byte now and then for so long, and reads it at the other end.
func (s *stalls) trickle(t testing.TB, from, to *net.TCPConn, every, length time.Duration) (last time.Time) {
	t.Helper()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		last = time.Now()
		var got [1]byte
		_, err := from.Write([]byte("x"))
		if err == nil {
			_, err = to.Read(got[:])
		}
		switch worst := time.Duration(s.worst.Load()); {
		case err == nil:
		case worst > every:
			t.Skipf("bytes could not be sent every %v: the machine has stalled for %v", every, worst)
		default:
			t.Fatalf("read %q, %v; want a byte every %v to keep the connection", got, err, every)
		}
	}
	return last
}

// A connection on which nothing moves is ended in order, on both sides.
func caseIdleTimeout(t *testing.T, start starter) {
	m := watchStalls(t)
	const timeout = 2 * time.Second // in which the question has to get through
	b := newBackend(t, nil)
	r := start(t, setup{Config: Config{Settings: Settings{IdleTimeout: timeout}}, targets: b.one()})
	client, server := pair(t, r, b)
	earliest := time.Now()
	send(t, client, "question")
	expect(t, server, "question")
	latest := time.Now()
	expectEOF(t, client)
	m.within(t, timeout, earliest, latest)
	expectEOF(t, server)
	r.ends(t, 1, endIdle)
}

// Also one that cannot move, because neither side reads.
func caseIdleTimeoutBlocked(t *testing.T, start starter) {
	const timeout = 800 * time.Millisecond
	b := newBackend(t, nil)
	r := start(t, setup{Config: Config{Settings: Settings{IdleTimeout: timeout}}, targets: b.one()})
	client, server := pair(t, r, b)
	// They fail where filling the buffers takes until the timeout.
	_, _ = fill(client, newStream(1))
	_, _ = fill(server, newStream(2))
	r.ends(t, 1, endIdle)
	r.idle(t)
}

// A byte in either direction is enough to keep a connection.
func caseIdleActivity(t *testing.T, start starter) {
	m := watchStalls(t)
	const timeout = 300 * time.Millisecond
	b := newBackend(t, nil)
	r := start(t, setup{Config: Config{Settings: Settings{IdleTimeout: timeout}}, targets: b.one()})
	client, server := pair(t, r, b)
	m.trickle(t, client, server, timeout/3, 3*timeout)
	earliest := m.trickle(t, server, client, timeout/3, 3*timeout)
	latest := time.Now()
	expectEOF(t, client)
	m.within(t, timeout, earliest, latest)
	r.ends(t, 1, endIdle)
}

// A connection of which one half has ended may be silent for the linger
// timeout only; one that is whole, for longer.
func caseLingerTimeout(t *testing.T, start starter) {
	m := watchStalls(t)
	const timeout = 400 * time.Millisecond
	b := newBackend(t, nil)
	r := start(t, setup{Config: Config{Settings: Settings{LingerTimeout: timeout}}, targets: b.one()})
	whole, wholeServer := pair(t, r, b)
	for i, clientFirst := range []bool{true, false} {
		first, second := pair(t, r, b)
		if !clientFirst {
			first, second = second, first
		}
		earliest := time.Now()
		closeWrite(t, first)
		expectEOF(t, second)
		latest := time.Now()
		expectEOF(t, first)
		m.within(t, timeout, earliest, latest)
		r.ends(t, i+1, endLinger)
	}
	send(t, whole, "still there?")
	expect(t, wholeServer, "still there?")
}

// The half that goes on may take its time, as long as something moves.
func caseLingerActivity(t *testing.T, start starter) {
	m := watchStalls(t)
	const timeout = 300 * time.Millisecond
	b := newBackend(t, nil)
	r := start(t, setup{Config: Config{Settings: Settings{LingerTimeout: timeout}}, targets: b.one()})
	client, server := pair(t, r, b)
	closeWrite(t, client)
	expectEOF(t, server)
	earliest := m.trickle(t, server, client, timeout/3, 4*timeout)
	latest := time.Now()
	expectEOF(t, client)
	m.within(t, timeout, earliest, latest)
	r.ends(t, 1, endLinger)
}

// A timeout set while connections are open is theirs too, and counts from
// their last byte, not from whenever the relay last looked.
func caseIdleConfigure(t *testing.T, start starter) {
	m := watchStalls(t)
	const timeout = 300 * time.Millisecond
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	m.trickle(t, client, server, timeout/6, timeout)
	r.Configure(Settings{IdleTimeout: timeout, AccessLog: true})
	m.trickle(t, client, server, timeout/6, 5*timeout) // longer than the relay takes to look
	earliest := m.trickle(t, server, client, timeout/6, timeout)
	latest := time.Now()
	expectEOF(t, client)
	m.within(t, timeout, earliest, latest)
	r.ends(t, 1, endIdle)
}

// So many connections are served and no more; the next one waits until there is room.
func caseMaxConnections(t *testing.T, start starter) {
	const most = 4
	b := newBackend(t, echo)
	r := start(t, setup{Config: Config{Settings: Settings{MaxConnections: most}}, targets: b.one()})
	var served []*net.TCPConn
	for range most {
		c := dial(t, r.addr)
		roundTrip(t, c)
		served = append(served, c)
	}
	waiting := dial(t, r.addr)
	send(t, waiting, "ping")
	eventually(t, "accepting pauses", func() bool { return r.Stats().AcceptPauses > 2 })
	if n := b.accepted(); n != most || r.Active() != most {
		t.Errorf("%d connections at the backend, %d active; want %d", n, r.Active(), most)
	}
	for _, c := range served {
		roundTrip(t, c)
	}
	served[0].Close()
	expect(t, waiting, "ping")
	if n := r.Active(); n > most {
		t.Errorf("%d connections active, want at most %d", n, most)
	}
	if got := r.log.lines(t, "accepting paused"); len(got) == 0 || got[0].Level != "warn" {
		t.Errorf("log lines about the pause: %+v; want a warning", got)
	}
}
