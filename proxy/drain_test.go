package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

func draining(d time.Duration) Config { return Config{Settings: Settings{Drain: d}} }

// refusesNew waits until nobody listens any more. It knocks seldom: while
// somebody comes, the listener stays to serve him.
func refusesNew(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	knock := time.NewTicker(3 * backlogGrace / 2)
	defer knock.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); {
		<-knock.C
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	t.Fatalf("new connections are not refused after %v", patience)
}

// When Serve's context ends nothing new is accepted, what is open goes on,
// and when that has ended Serve returns.
func caseDrain(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{Config: draining(time.Hour), targets: b.one()})
	client := dial(t, r.addr)
	roundTrip(t, client)
	r.end()
	refusesNew(t, r.addr)
	roundTrip(t, client)
	select {
	case <-r.served:
		t.Error("Serve has returned while a connection is open")
	default:
	}
	client.Close()
	r.waitServed(t)
}

// Connections that a client sees as established when the drain begins, but
// that nobody has accepted, are served like the others.
func caseDrainBacklog(t *testing.T, start starter) {
	const waiting = 200
	ln := listen(t)
	var clients []*net.TCPConn
	for range waiting {
		clients = append(clients, dial(t, ln.Addr().(*net.TCPAddr).AddrPort()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b := newBackend(t, echo)
	r := start(t, setup{Config: draining(time.Hour), targets: b.one(), ln: ln, ctx: ctx})
	refusesNew(t, r.addr)
	for _, c := range clients {
		roundTrip(t, c)
		closeWrite(t, c)
		expectEOF(t, c)
	}
	r.waitServed(t)
	if st := r.Stats(); st.Ended[endClosed.String()] < waiting {
		t.Errorf("ended %v, want %d closed", st.Ended, waiting)
	}
}

// The same in the middle of a rush: who got through is served, who comes too
// late is refused, nobody is accepted and then reset.
func caseDrainBurst(t *testing.T, start starter) {
	const clients, before = 200, 80
	b := newBackend(t, echo)
	r := start(t, setup{Config: draining(time.Hour), targets: b.one()})
	var work sync.WaitGroup
	dialed := make(chan struct{}, clients)
	for range clients {
		work.Go(func() {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.addr))
			dialed <- struct{}{}
			if err != nil {
				if !errors.Is(err, syscall.ECONNREFUSED) {
					t.Error(err)
				}
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			got := make([]byte, 4)
			if _, err := c.Write([]byte("ping")); err != nil {
				t.Errorf("write: %v", err)
			} else if _, err := io.ReadFull(c, got); err != nil || string(got) != "ping" {
				t.Errorf("read %q, %v; want the answer", got, err)
			}
		})
	}
	for range before {
		<-dialed
	}
	r.end()
	work.Wait()
	r.waitServed(t)
}

// What is open when the deadline comes is cut.
func caseDrainDeadline(t *testing.T, start starter) {
	const drain = 300 * time.Millisecond
	b := newBackend(t, echo)
	r := start(t, setup{Config: draining(drain), targets: b.one()})
	client := dial(t, r.addr)
	roundTrip(t, client)
	began := time.Now()
	r.end()
	expectClosed(t, client)
	if took := time.Since(began); took < drain {
		t.Errorf("cut after %v, want no earlier than the deadline of %v", took, drain)
	}
	r.ends(t, 1, endDrained)
	r.waitServed(t)
}

// Also where bytes are on their way and nobody takes them.
func caseDrainDeadlineBlocked(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{Config: draining(100 * time.Millisecond), targets: b.one()})
	for range 4 {
		client, server := pair(t, r, b)
		mustFill(t, client, newStream(1))
		mustFill(t, server, newStream(2))
	}
	client, _ := pair(t, r, b)
	mustFill(t, client, newStream(1))
	r.end()
	r.waitServed(t)
	for i := range 5 {
		if got := r.accessLog(t, 5)[i]; got.End != endDrained.String() {
			t.Errorf("connection ended %q, want %q", got.End, endDrained)
		}
	}
}

// Also where bytes move without a pause, and nobody ever waits for anything.
func caseDrainDeadlineBusy(t *testing.T, start starter) {
	b := newBackend(t, func(c *net.TCPConn) { _, _ = io.Copy(struct{ io.Writer }{io.Discard}, c) })
	r := start(t, setup{Config: draining(100 * time.Millisecond), targets: b.one()})
	var work sync.WaitGroup
	for range 4 {
		client := dial(t, r.addr)
		work.Go(func() {
			for chunk := make([]byte, 1<<20); ; {
				if _, err := client.Write(chunk); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("nobody has cut it")
					}
					return
				}
			}
		})
	}
	eventually(t, "bytes move", func() bool { return r.slot(t, "b").Connections == 4 })
	r.end()
	r.waitServed(t)
	work.Wait()
	if n := r.Stats().Ended[endDrained.String()]; n != 4 {
		t.Errorf("ended %v, want 4 drained", r.Stats().Ended)
	}
}

// Also where a backend is being dialed, against which that is no evidence.
func caseDrainDeadlineDialing(t *testing.T, start starter) {
	cfg := draining(100 * time.Millisecond)
	cfg.ConnectTimeout = time.Hour
	r := start(t, setup{Config: cfg, targets: []target{{id: "silent", addr: silent(t)}, {id: "other", addr: silent(t), rank: 1}}})
	client := dial(t, r.addr)
	eventually(t, "the backend is being dialed", func() bool { return r.slot(t, "silent").Connections == 1 })
	r.end()
	expectClosed(t, client)
	r.waitServed(t)
	if got := r.ends(t, 1, endDrained); got.Attempts != 1 {
		t.Errorf("%d attempts, want 1", got.Attempts)
	}
	if n := r.slot(t, "silent").Failures; n != 0 {
		t.Errorf("%d failures counted against a backend that was not waited for, want 0", n)
	}
}

// Also where a client owes a header.
func caseDrainDeadlineHeader(t *testing.T, start starter) {
	cfg := draining(100 * time.Millisecond)
	cfg.Trusted, cfg.HeaderTimeout = loopback, time.Hour
	b := newBackend(t, nil)
	r := start(t, setup{Config: cfg, targets: b.one()})
	client := dial(t, r.addr)
	send(t, client, "PROXY ")
	eventually(t, "it is accepted", func() bool { return r.Active() == 1 })
	r.end()
	expectClosed(t, client)
	r.waitServed(t)
	r.ends(t, 1, endDrained)
}

// Kill does not wait for the deadline.
func caseKill(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{Config: draining(time.Hour), targets: b.one()})
	client := dial(t, r.addr)
	roundTrip(t, client)
	r.end()
	refusesNew(t, r.addr)
	roundTrip(t, client)
	r.Kill()
	expectClosed(t, client)
	r.waitServed(t)
	r.Kill() // again is nothing new
}

// The end of one listener is not that of another's connections.
func caseTwoListeners(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{targets: b.one()}) // Drain 0: cut at once
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ln := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := r.Serve(ctx, ln, App("")); err != nil {
			t.Error(err)
		}
	})
	mine, others := dial(t, ln.Addr().(*net.TCPAddr).AddrPort()), dial(t, r.addr)
	roundTrip(t, mine)
	roundTrip(t, others)
	cancel()
	expectClosed(t, mine)
	serving.Wait()
	roundTrip(t, others)
	roundTrip(t, dial(t, r.addr))
}

// Settings changed while the relay runs are those of the next connection.
func caseConfigure(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{targets: b.one()})
	old := dial(t, r.addr)
	roundTrip(t, old)

	r.Configure(Settings{Trusted: loopback, AccessLog: true})
	next := dial(t, r.addr)
	send(t, next, "no header")
	expectClosed(t, next)
	r.ends(t, 1, endBadHeader)
	roundTrip(t, old)

	r.Configure(Settings{AccessLog: true, Drain: time.Hour})
	roundTrip(t, dial(t, r.addr))
	r.end()
	refusesNew(t, r.addr)
	roundTrip(t, old) // with the Drain that it began with it would be gone
}

// A listener that somebody else closes is an error, and what is open ends as in a drain.
func caseListenerBreaks(t *testing.T, start starter) {
	b := newBackend(t, echo)
	ln := listen(t)
	r := start(t, setup{Config: draining(time.Hour), targets: b.one(), ln: ln})
	client := dial(t, r.addr)
	roundTrip(t, client)
	ln.Close()
	roundTrip(t, client)
	client.Close()
	r.waitServed(t)
	if !errors.Is(r.err, net.ErrClosed) {
		t.Errorf("Serve = %v, want %v", r.err, net.ErrClosed)
	}
	r.err = nil // as it should be
}
