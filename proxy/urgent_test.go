package proxy

import (
	"net"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Urgent data (RFC 6093) are not passed on, but nothing else is lost with
// them, kept waiting behind them or cut off: also where they come in bulk,
// which a pipe carries up to them and no further.
func caseUrgent(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{targets: b.one()})
	for _, size := range []int{3, 3 * bufferSize, 1 << 20} {
		for _, fin := range []bool{false, true} {
			for range 10 { // how much arrives at once is chance
				client := dial(t, r.addr)
				before := strings.Repeat("b", size)
				send(t, client, before)
				sendUrgent(t, client)
				send(t, client, "after")
				if fin {
					closeWrite(t, client)
				}
				server := b.next(t)
				expect(t, server, before)
				expect(t, server, "after")
				if fin {
					expectEOF(t, server)
				}
				send(t, server, "answer")
				expect(t, client, "answer")
				client.Close()
				server.Close()
				r.idle(t)
			}
		}
	}
	eventually(t, "all ended closed", func() bool { return r.Stats().Ended[endClosed.String()] == r.Stats().Accepted })
}

func sendUrgent(t testing.TB, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	waited := raw.Write(func(fd uintptr) bool {
		err = unix.Send(int(fd), []byte("!"), unix.MSG_OOB)
		return err != unix.EAGAIN
	})
	if waited != nil || err != nil {
		t.Fatalf("send urgent data: %v, %v", waited, err)
	}
}
