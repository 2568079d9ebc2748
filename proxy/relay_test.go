package proxy

import (
	"io"
	"net"
	"testing"
)

// cases are what every implementation of the relay promises. Those that
// mostly wait run side by side.
var cases = []struct {
	name  string
	waits bool
	run   func(t *testing.T, start starter)
}{
	{"echo", false, caseEcho},
	{"half-close by the client", false, caseHalfCloseClient},
	{"half-close by the backend", false, caseHalfCloseBackend},
	{"request and FIN in one segment", false, caseRequestAndFIN},
	{"backend accepts and closes at once", false, caseBackendClosesAtOnce},
	{"backend listens and never answers", false, caseBackendNeverAnswers},
	{"100 MB each way at once", false, caseBulk},
	{"10 MB each way at once in small chunks", false, caseSmallChunks},
	{"random transfers", false, caseRandomTransfers},
	{"slow reader", true, caseSlowReader},
	{"nothing of one connection in another", false, caseNoMixing},
	{"urgent data", false, caseUrgent},

	{"reset by the client", false, caseResetByClient},
	{"reset by the backend", false, caseResetByBackend},
	{"reset by the client after its half-close", true, caseResetAfterHalfClose},
	{"reset by the client while the backend does not read", true, caseResetUnreadByBackend},
	{"reset by the backend while the client does not read", true, caseResetUnreadByClient},
	{"a reset never looks like an end", true, caseResetNoEOF},
	{"reset while dialing", true, caseResetWhileDialing},

	{"connect refused", false, caseConnectRefused},
	{"connect timeout", true, caseConnectTimeout},
	{"connect fails everywhere", false, caseConnectFailsEverywhere},
	{"connect timeout everywhere", true, caseConnectTimeoutEverywhere},
	{"attempts are bounded", false, caseAttempts},
	{"no backend", false, caseNoBackend},
	{"another app's backend", false, caseOtherApp},
	{"hard limit of 1 and 50 clients", false, caseHardLimit},
	{"places after everything", false, casePlaces},

	{"PROXY header", false, caseHeader},
	{"PROXY header refused", false, caseHeaderRefused},
	{"PROXY header in pieces", false, caseHeaderInPieces},
	{"PROXY header and data in one segment", false, caseHeaderAndData},
	{"PROXY header that never comes", true, caseHeaderTimeout},
	{"PROXY header from anybody else is data", false, caseHeaderUntrusted},

	{"idle timeout", true, caseIdleTimeout},
	{"idle timeout while nobody reads", true, caseIdleTimeoutBlocked},
	{"activity puts the idle timeout off", true, caseIdleActivity},
	{"linger timeout", true, caseLingerTimeout},
	{"activity puts the linger timeout off", true, caseLingerActivity},
	{"a shorter idle timeout set live", true, caseIdleConfigure},

	{"at most so many connections", false, caseMaxConnections},
	{"who may connect", false, caseAccessLists},
	{"so many connections of one client", false, caseClientConnections},
	{"so many new connections of one client", false, caseClientRate},

	{"drain finishes what is open", true, caseDrain},
	{"drain serves the backlog", false, caseDrainBacklog},
	{"connections at the moment of the drain", true, caseDrainBurst},
	{"drain deadline", true, caseDrainDeadline},
	{"drain deadline while nobody reads", true, caseDrainDeadlineBlocked},
	{"drain deadline while bytes move", true, caseDrainDeadlineBusy},
	{"drain deadline while dialing", true, caseDrainDeadlineDialing},
	{"drain deadline while waiting for a header", true, caseDrainDeadlineHeader},
	{"kill", true, caseKill},
	{"the deadline of one listener", true, caseTwoListeners},
	{"settings changed live", false, caseConfigure},
	{"the listener breaks", false, caseListenerBreaks},

	{"access log", true, caseAccessLog},
}

func TestRelay(t *testing.T) {
	for _, impl := range everyPath() {
		t.Run(impl.name, func(t *testing.T) {
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					if c.waits {
						t.Parallel()
					}
					c.run(t, func(t testing.TB, s setup) *relay { t.Helper(); return start(t, impl.make, s) })
				})
			}
		})
	}
}

// Bytes go both ways, are counted, and the end of one side is the end of the other.
func caseEcho(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, client, "question")
	expect(t, server, "question")
	send(t, server, "answer")
	expect(t, client, "answer")
	client.Close()
	expectEOF(t, server)
	server.Close()

	got := r.ends(t, 1, endClosed)
	if got.BytesIn != 8 || got.BytesOut != 6 {
		t.Errorf("access log: %d bytes in, %d out; want 8, 6", got.BytesIn, got.BytesOut)
	}
	if s := r.slot(t, "b"); s.BytesIn != 8 || s.BytesOut != 6 || s.Connects != 1 || s.Failures != 0 || s.RTTSum <= 0 {
		t.Errorf("backend's figures %+v; want 8 bytes in, 6 out, 1 connect in more than no time", s)
	}
}

// A client may end its half and still get the answer.
func caseHalfCloseClient(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, client, "question")
	closeWrite(t, client)
	expect(t, server, "question")
	expectEOF(t, server)
	send(t, server, "answer after the end")
	closeWrite(t, server)
	expect(t, client, "answer after the end")
	expectEOF(t, client)
	r.ends(t, 1, endClosed)
}

// A backend may end its half and still get what the client sends.
func caseHalfCloseBackend(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, server, "greeting")
	closeWrite(t, server)
	expect(t, client, "greeting")
	expectEOF(t, client)
	send(t, client, "late")
	expect(t, server, "late")
	closeWrite(t, client)
	expectEOF(t, server)
	r.ends(t, 1, endClosed)
}

// Data whose segment carries the FIN too is neither lost nor kept waiting.
func caseRequestAndFIN(t *testing.T, start starter) {
	b := newBackend(t, func(c *net.TCPConn) {
		request, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(append(request, '!'))
		}
	})
	r := start(t, setup{targets: b.one()})
	for range 20 {
		client := dial(t, r.addr)
		cork(t, client) // holds the bytes back until the FIN
		send(t, client, "question")
		closeWrite(t, client)
		expect(t, client, "question!")
		expectEOF(t, client)
	}
}

// A backend that closes at once closes the client's connection, at once.
func caseBackendClosesAtOnce(t *testing.T, start starter) {
	b := newBackend(t, func(*net.TCPConn) {})
	r := start(t, setup{targets: b.one(), ttl: 0})
	client := dial(t, r.addr)
	expectEOF(t, client)
	client.Close()
	r.ends(t, 1, endClosed)
}

// A connection that the backend's kernel has taken is established, whether or
// not the backend ever looks at it; the client may go when it likes.
func caseBackendNeverAnswers(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	client, server := pair(t, r, b)
	send(t, client, "anybody?")
	eventually(t, "the place is taken", func() bool { return r.slot(t, "b").Connections == 1 })
	client.Close()
	expect(t, server, "anybody?")
	expectEOF(t, server)
	server.Close()
	r.ends(t, 1, endClosed)
}
