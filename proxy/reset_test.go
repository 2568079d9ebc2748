package proxy

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"
)

// quickSweep makes the relay look after its connections every 25 ms without
// ending any of them.
var quickSweep = Config{Settings: Settings{IdleTimeout: time.Hour, LingerTimeout: 200 * time.Millisecond}}

// A client that aborts aborts the backend's connection.
func caseResetByClient(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, client, "question")
	expect(t, server, "question")
	reset(t, client)
	expectReset(t, server)
	r.ends(t, 1, endClientReset)
}

// A backend that aborts aborts the client's connection.
func caseResetByBackend(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, server, "answer")
	expect(t, client, "answer")
	reset(t, server)
	expectReset(t, client)
	r.ends(t, 1, endBackendReset)
}

// Also one that had ended its half, whose socket nobody reads any more.
func caseResetAfterHalfClose(t *testing.T, start starter) {
	cfg := quickSweep
	cfg.LingerTimeout = 4 * time.Second // sweeps every half
	b := newBackend(t, nil)
	r := start(t, setup{Config: cfg, targets: b.one()})
	client, server := pair(t, r, b)
	send(t, client, "question")
	closeWrite(t, client)
	expect(t, server, "question")
	expectEOF(t, server)
	reset(t, client)
	// Its half has ended already, so what tells the backend is writing.
	r.ends(t, 1, endClientReset)
	eventually(t, "writing fails", func() bool {
		_, err := server.Write([]byte("answer"))
		return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	})
}

// An abort is noticed in the middle of a transfer that waits for the other
// side, with bytes on their way in this process, and before that side reads.
func caseResetUnreadByBackend(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{Config: quickSweep, targets: b.one()})
	client, server := pair(t, r, b)
	mustFill(t, client, newStream(1))
	reset(t, client)
	r.ends(t, 1, endClientReset)
	expectReset(t, server)
}

// A backend's abort is passed on behind what it had sent before, for that may
// still be wanted: the client reads it, or at least the better part, and then
// meets the reset.
func caseResetUnreadByClient(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{Config: quickSweep, targets: b.one()})
	client, server := pair(t, r, b)
	mustFill(t, server, newStream(1))
	reset(t, server)
	expectReset(t, client)
	r.ends(t, 1, endBackendReset)
}

// What a reset cuts off must not look complete. Both directions of the relay
// meet the reset at the same moment here: one writes to the socket, the other
// reads it, and the kernel tells only one of them.
func caseResetNoEOF(t *testing.T, start starter) {
	const rounds, atOnce = 60, 6
	b := newBackend(t, nil)
	if err := setReceiveBuffer(b.ln, 4096); err != nil { // inherited: soon full
		t.Fatal(err)
	}
	r := start(t, setup{targets: b.one()})
	for range rounds / atOnce {
		var filling, reading sync.WaitGroup
		for range atOnce {
			client, server := pair(t, r, b)
			filling.Go(func() {
				if _, err := fill(client, newStream(1)); err != nil {
					t.Errorf("fill: %v", err)
				}
				_ = server.SetLinger(0)
			})
			reading.Go(func() {
				if n, err := io.Copy(io.Discard, client); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("client read %d bytes, then %v; want a reset", n, err)
				}
			})
		}
		filling.Wait()
		b.mu.Lock()
		for _, server := range b.conns {
			server.Close()
		}
		b.mu.Unlock()
		reading.Wait()
	}
	r.idle(t)
}

// A client that gives up while its backend is still being dialed is noticed
// once one has answered, and its place is given back.
func caseResetWhileDialing(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{
		Config:  Config{Settings: Settings{ConnectTimeout: 2 * time.Second}},
		targets: []target{{id: "silent", addr: silent(t)}, {id: "b", addr: b.addr, rank: 1}},
	})
	client := dial(t, r.addr)
	send(t, client, "question")
	eventually(t, "the silent backend is being dialed", func() bool { return r.slot(t, "silent").Connections == 1 })
	reset(t, client)
	expectReset(t, b.next(t))
	if got := r.ends(t, 1, endClientReset); got.Attempts != 2 || got.Backend != "b" {
		t.Errorf("access log: backend %q at attempt %d; want b at 2", got.Backend, got.Attempts)
	}
}
