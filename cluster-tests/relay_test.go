package clustertests

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// both is a POP with one backend, and the two ends of a connection through it.
func both(t testing.TB, env ...string) (p *pop, client, server *net.TCPConn) {
	t.Helper()
	accepted, over := make(chan *net.TCPConn), make(chan struct{})
	addr := startHandler(t, func(c *net.TCPConn) {
		select {
		case accepted <- c:
			<-over
		case <-over:
		}
	})
	t.Cleanup(func() { close(over) }) // before startHandler's, which waits
	// A check would be the connection that came.
	p = startPOP(t, []row{at("a", "sa", addr)}, append([]string{unchecked}, env...)...)
	client = p.connect(t, nil)
	select {
	case server = <-accepted:
	case <-time.After(soon):
		t.Fatal("no connection at the backend")
	}
	if err := server.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	return p, client, server
}

func send(t testing.TB, c *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Errorf("send %q: %v", text, err)
	}
}

func expect(t testing.TB, c *net.TCPConn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Errorf("got %q, %v, want %q", got, err, text)
	}
}

func expectEnd(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if text, err := readAll(c); err != nil || text != "" {
		t.Errorf("got %q, %v, want the end", text, err)
	}
}

// TestHalfClose: the end of one direction is passed on and leaves the other open.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	for name, clientFirst := range map[string]bool{"client first": true, "backend first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := both(t)
			first, second := client, server
			if !clientFirst {
				first, second = server, client
			}
			send(t, first, "last words")
			if err := first.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expect(t, second, "last words")
			expectEnd(t, second)
			for range 3 {
				send(t, second, "and yet")
				expect(t, first, "and yet")
			}
			if err := second.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			expectEnd(t, first)
			p.expectLog(t, `"end":"closed"`)
			p.settled(t)
		})
	}
}

// TestHalfClosedLingers: a half-closed connection in which nothing moves ends sooner than an idle one.
func TestHalfClosedLingers(t *testing.T) {
	t.Parallel()
	p, client, server := both(t, "EDGEPROXY_LINGER_TIMEOUT_SECS=0.3")
	if err := client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	expectEnd(t, server)
	expectEnd(t, client)
	p.expectLog(t, `"end":"linger_timeout"`)
}

// TestReset is passed on, both ways.
func TestReset(t *testing.T) {
	t.Parallel()
	for name, byClient := range map[string]bool{"by the client": true, "by the backend": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, client, server := both(t)
			by, other, end := server, client, "backend_reset"
			if byClient {
				by, other, end = client, server, "client_reset"
			}
			send(t, client, "x")
			expect(t, server, "x")
			reset(by)
			if _, err := readAll(other); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the other side read %v, want a reset", err)
			}
			p.expectLog(t, `"end":"`+end+`"`)
			p.settled(t)
		})
	}
}

// TestLargeTransfers: 100 MB each way at the same time arrive as they were sent.
func TestLargeTransfers(t *testing.T) {
	t.Parallel()
	const size = 100 << 20
	p, client, server := both(t)
	var all sync.WaitGroup
	transfer := func(seed uint64, from, to *net.TCPConn) {
		sent, arrived := sha256.New(), sha256.New()
		all.Go(func() {
			if err := sendNoise(from, sent, seed, size); err != nil {
				t.Errorf("send: %v", err)
			}
		})
		all.Go(func() {
			n, err := io.Copy(arrived, to)
			if err != nil || n != size {
				t.Errorf("%d bytes arrived, %v, want %d", n, err, size)
			}
		})
		t.Cleanup(func() {
			if a, b := sent.Sum(nil), arrived.Sum(nil); string(a) != string(b) {
				t.Errorf("sent %x, arrived %x", a, b)
			}
		})
	}
	for _, c := range []*net.TCPConn{client, server} {
		if err := c.SetDeadline(time.Now().Add(3 * soon)); err != nil {
			t.Fatal(err)
		}
	}
	transfer(1, client, server)
	transfer(2, server, client)
	all.Wait()
	p.expectLog(t, `"end":"closed"`, fmt.Sprintf(`"bytes_in":%d,"bytes_out":%d,`, size, size))
	for _, direction := range []string{"in", "out"} {
		if n := p.metric(t, "edgeproxy_backend_bytes_total", `direction="`+direction+`"`); n != size {
			t.Errorf("the metric counts %g bytes %s, want %d", n, direction, size)
		}
	}
}

func sendNoise(to *net.TCPConn, sum hash.Hash, seed uint64, size int64) error {
	source := rand.NewChaCha8([32]byte{byte(seed)})
	w := bufio.NewWriterSize(io.MultiWriter(to, sum), 64<<10)
	if _, err := io.CopyN(w, source, size); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return to.CloseWrite()
}

// TestSlowReader: who does not read stops the sender, at no cost to the POP.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	_, client, server := both(t)
	chunk := make([]byte, 1<<20)
	var stuck net.Error
	total := 0
	for total < 64<<20 {
		if err := server.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := server.Write(chunk)
		total += n
		if errors.As(err, &stuck) && stuck.Timeout() {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if stuck == nil {
		t.Fatalf("a sender whose reader sleeps got rid of %d MiB", total>>20)
	}
	if err := server.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, client); err != nil || n != int64(total) {
		t.Errorf("of %d bytes sent %d arrived, %v", total, n, err)
	}
}
