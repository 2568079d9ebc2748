package proxy

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// A backend that refuses is counted, the next one serves, and the client,
// which notices nothing, is bound to that one.
func caseConnectRefused(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{ttl: time.Hour, targets: []target{{id: "down", addr: refusing()}, {id: "up", addr: b.addr, rank: 1}}})
	failsOver(t, r, "down", "up")
}

// So is one that does not answer, once the timeout has passed.
func caseConnectTimeout(t *testing.T, start starter) {
	const timeout = 2 * time.Second // for who answers too
	b := newBackend(t, echo)
	r := start(t, setup{
		Config: Config{Settings: Settings{ConnectTimeout: timeout}},
		ttl:    time.Hour, targets: []target{{id: "down", addr: silent(t)}, {id: "up", addr: b.addr, rank: 1}},
	})
	m := watchStalls(t)
	began := time.Now()
	failsOver(t, r, "down", "up")
	took := time.Since(began)
	if took < timeout {
		t.Errorf("served after %v, want no earlier than after the timeout of %v", took, timeout)
	}
	m.soon(t, took, 2*timeout)
}

func failsOver(t *testing.T, r *relay, down, up string) {
	t.Helper()
	for i, want := range []struct {
		attempts int
		reason   route.Reason
	}{{2, route.ReasonOtherRegion}, {1, route.ReasonAffinity}} {
		client := dial(t, r.addr)
		roundTrip(t, client)
		client.Close()
		if got := r.ends(t, i+1, endClosed); got.Backend != up || got.Attempts != want.attempts || got.Reason != string(want.reason) {
			t.Errorf("connection %d: backend %q for %q at attempt %d; want %q for %q at %d",
				i+1, got.Backend, got.Reason, got.Attempts, up, want.reason, want.attempts)
		}
	}
	if d, u := r.slot(t, down), r.slot(t, up); d.Failures != 1 || d.Connects != 0 || u.Failures != 0 || u.Connects != 2 {
		t.Errorf("%s: %d failures, %d connects, want 1, 0; %s: %d, %d, want 0, 2", down, d.Failures, d.Connects, up, u.Failures, u.Connects)
	}
	if got := r.log.lines(t, "connect to backend failed"); len(got) != 1 || got[0].Backend != down || got[0].Level != "warn" {
		t.Errorf("log lines of failed connects: %+v; want one warning about %s", got, down)
	}
}

// When nobody answers the client is told at once, by the end of its connection.
func caseConnectFailsEverywhere(t *testing.T, start starter) {
	r := start(t, setup{targets: []target{{id: "one", addr: refusing()}, {id: "two", addr: refusing(), rank: 1}}})
	client := dial(t, r.addr)
	m := watchStalls(t)
	began := time.Now()
	expectClosed(t, client)
	m.soon(t, time.Since(began), 500*time.Millisecond)
	if got := r.ends(t, 1, endConnectFailed); got.Attempts != 2 || got.BytesIn|got.BytesOut != 0 {
		t.Errorf("access log: %d attempts, %d bytes in, %d out; want 2, 0, 0", got.Attempts, got.BytesIn, got.BytesOut)
	}
}

// With backends that do not answer, that takes a timeout for each attempt and no longer.
func caseConnectTimeoutEverywhere(t *testing.T, start starter) {
	const timeout = 100 * time.Millisecond
	r := start(t, setup{
		Config:  Config{Settings: Settings{ConnectTimeout: timeout}},
		targets: []target{{id: "one", addr: silent(t)}, {id: "two", addr: silent(t), rank: 1}},
	})
	m := watchStalls(t)
	began := time.Now()
	client := dial(t, r.addr)
	expectClosed(t, client)
	took := time.Since(began)
	if took < 2*timeout {
		t.Errorf("closed after %v, want two timeouts of %v", took, timeout)
	}
	m.soon(t, took, 4*timeout)
	r.ends(t, 1, endConnectFailed)
	if one, two := r.slot(t, "one"), r.slot(t, "two"); one.Failures != 1 || two.Failures != 1 {
		t.Errorf("%d and %d failures counted, want 1 each", one.Failures, two.Failures)
	}
}

// A client costs at most so many attempts, each at another backend.
func caseAttempts(t *testing.T, start starter) {
	for _, attempts := range []int{0, 1, 2, 5} {
		want := attempts
		if want == 0 {
			want = 3 // the default
		}
		var targets []target
		for i := range 6 {
			targets = append(targets, target{id: fmt.Sprint("b", i), addr: refusing(), rank: i})
		}
		r := start(t, setup{Config: Config{Settings: Settings{Attempts: attempts}}, targets: targets})
		expectClosed(t, dial(t, r.addr))
		if got := r.ends(t, 1, endConnectFailed); got.Attempts != want {
			t.Errorf("Attempts %d: %d attempts, want %d", attempts, got.Attempts, want)
		}
		for i := range targets {
			if got, want := r.slot(t, targets[i].id).Failures, min(1, max(0, want-i)); got != uint64(want) {
				t.Errorf("Attempts %d: %d failures of the backend of rank %d, want %d", attempts, got, i, want)
			}
		}
	}
}

// Without a backend the client is told at once, and the log says why.
func caseNoBackend(t *testing.T, start starter) {
	r := start(t, setup{})
	expectClosed(t, dial(t, r.addr))
	if got := r.ends(t, 1, endNoBackend); got.Attempts != 0 || got.Backend != "" || got.Reason != string(route.ReasonNone) {
		t.Errorf("access log: backend %q for %q at attempt %d; want none, no_backend, 0", got.Backend, got.Reason, got.Attempts)
	}
	if got := r.log.lines(t, "no backend: none is healthy, not draining and below its hard limit"); len(got) != 1 {
		t.Errorf("the log has no reason:\n%s", r.log)
	}
}

// A service's clients reach backends of its own app only.
func caseOtherApp(t *testing.T, start starter) {
	other, own := newBackend(t, nil), newBackend(t, echo)
	r := start(t, setup{app: "web", targets: []target{
		{id: "near", app: "mail", addr: other.addr}, {id: "far", app: "web", addr: own.addr, rank: 3},
	}})
	roundTrip(t, dial(t, r.addr))
	if n := other.accepted(); n != 0 {
		t.Errorf("%d connections to another app's backend", n)
	}
}

// A limit of 1 holds under 50 clients at once: one is served, the others are
// told at once, and when it has gone there is room for exactly one again.
func caseHardLimit(t *testing.T, start starter) {
	const clients = 50
	b := newBackend(t, echo)
	r := start(t, setup{targets: []target{{id: "b", addr: b.addr, hard: 1}}})
	for round := 1; round <= 5; round++ {
		served := make(chan *net.TCPConn, clients)
		var work sync.WaitGroup
		for range clients {
			c := dial(t, r.addr)
			work.Go(func() {
				_, _ = c.Write([]byte("ping")) // fails where the end has come already
				if _, err := io.ReadFull(c, make([]byte, 4)); err == nil {
					served <- c
				}
			})
		}
		work.Wait() // nobody has closed: whoever was served has the place still
		if len(served) != 1 {
			t.Errorf("round %d: %d of %d clients served at the same time, want 1", round, len(served), clients)
		}
		if n := b.accepted(); n != round {
			t.Errorf("round %d: the backend has accepted %d connections, want %d", round, n, round)
		}
		for range len(served) {
			(<-served).Close()
		}
		r.idle(t)
	}
}

// Whatever happens to connections, at any number at once, each place is given
// back exactly once. (Every case checks that at its end; this one mixes.)
func casePlaces(t *testing.T, start starter) {
	const clients, atOnce = 400, 16
	rnd := random(t)
	b := newBackend(t, func(c *net.TCPConn) {
		var how [1]byte
		if _, err := io.ReadFull(c, how[:]); err != nil {
			return
		}
		switch how[0] % 4 {
		case 0:
			echo(c)
		case 1:
			_ = c.SetLinger(0)
		case 2:
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}
	})
	r := start(t, setup{targets: []target{{id: "b", addr: b.addr, hard: 5}, {id: "down", addr: refusing(), rank: 1}}})
	var work sync.WaitGroup
	next := make(chan byte)
	for range atOnce {
		work.Go(func() {
			for how := range next {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.addr))
				if err != nil {
					t.Error(err)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(patience))
				spoke := how%8 < 7
				if spoke {
					_, _ = c.Write([]byte{how, how, how})
				}
				switch how % 5 {
				case 0:
					_ = c.SetLinger(0)
				case 1:
					_ = c.CloseWrite()
					_, _ = io.Copy(io.Discard, c)
				case 2:
					if spoke { // or both sides would wait
						_, _ = c.Read(make([]byte, 1))
					}
				}
				c.Close()
			}
		})
	}
	for range clients {
		next <- byte(rnd.Uint32())
	}
	close(next)
	work.Wait()
	r.idle(t)
	for _, s := range r.router.Slots.Stats() {
		if s.Connections != 0 {
			t.Errorf("backend %s: %d places taken and nothing open", s.ID, s.Connections)
		}
	}
	if st := r.Stats(); st.Accepted != clients {
		t.Errorf("%d connections accepted, want %d", st.Accepted, clients)
	}
}
