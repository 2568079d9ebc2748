package clustertests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestFailover: backends of the client's own region that refuse or give no
// answer; the next region's answers, and no client notices.
func TestFailover(t *testing.T) {
	t.Parallel()
	const clients = 40
	live := startBackend(t, "live", "eu")
	for name, dead := range map[string]func(testing.TB) netip.AddrPort{"refuses": refusing, "gives no answer": blackhole} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The timeout is the live one's too, with all clients at once.
			p := startPOP(t, []row{at("dead-1", "sa", dead(t)), at("dead-2", "sa", dead(t)), live.row()},
				append(trusting, "EDGEPROXY_REGION=us", "EDGEPROXY_CONNECT_TIMEOUT_MS=4000", unchecked)...)
			var all sync.WaitGroup
			for i := range clients {
				all.Go(func() {
					from := netip.AddrFrom4([4]byte{200, 160, 2, byte(i + 1)}).String()
					v, err := p.call(from)
					if err != nil {
						t.Errorf("client %d noticed: %v", i, err)
						return
					}
					defer v.Close()
					if err := v.echo("hello"); err != nil || v.backend != "live" {
						t.Errorf("client %d at %s: %v", i, v.backend, err)
					}
				})
			}
			all.Wait()
			// Three in a row eject one of the two, at most half of the region; those
			// who were on their way to it by then fail there all the same.
			failed := p.metric(t, "edgeproxy_backend_connect_failures_total")
			if failed < clients+3 || failed > 2*clients {
				t.Errorf("%g failed connects, want %d to one of the two and at least 3 to the other", failed, clients)
			}
			if n := p.metric(t, "edgeproxy_backend_ejections_total"); n != 1 {
				t.Errorf("%g backends ejected, want one of the two", n)
			}
			p.expectLog(t, `"level":"warn"`, "connect to backend failed", `"backend":"dead-`)

			// The binding is with who answered: nobody tries the dead ones again.
			began := time.Now()
			if got := p.goes(t, "200.160.2.7"); got != "live" {
				t.Errorf("the second time a client went to %s", got)
			}
			if n := p.metric(t, "edgeproxy_backend_connect_failures_total"); n != failed {
				t.Errorf("a bound client made it %g failed connects after %s, from %g", n, time.Since(began), failed)
			}
			p.settled(t)
			for id, b := range p.backends(t) {
				if b.Connections != 0 {
					t.Errorf("%s still counts %d connections", id, b.Connections)
				}
			}
		})
	}
}

// TestDeadBackendDoesNotKeepItsPlaces: a failed connect gives its place back, also at a hard limit of one.
func TestDeadBackendDoesNotKeepItsPlaces(t *testing.T) {
	t.Parallel()
	fd := boundSocket(t)
	r := at("a", "sa", socketAddr(t, fd))
	r.hard = 1
	p := startPOP(t, []row{r}, noAffinity)
	for range 10 {
		if err := closedSoon(p.connect(t, nil), soon); err != nil {
			t.Fatal(err)
		}
	}
	p.expectLog(t, `"end":"connect_failed"`)
	// It comes alive: the next client has the one place.
	if err := syscall.Listen(fd, 8); err != nil {
		t.Fatal(err)
	}
	c := p.connect(t, nil)
	eventually(t, soon, func() error { return p.has("a", 1) })
	reset(c)
	eventually(t, soon, func() error { return p.has("a", 0) })
}

// TestNoBackendLeft: the client is closed promptly, and the log says why.
func TestNoBackendLeft(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		rows []row
		word string
	}{
		"empty":       {nil, "no_backend"},
		"unhealthy":   {[]row{{id: "a", app: "x", region: "sa", addr: refusing(t), weight: 1}}, "no_backend"},
		"all refuse":  {[]row{at("a", "sa", refusing(t)), at("b", "eu", refusing(t))}, "connect_failed"},
		"all silent":  {[]row{at("a", "sa", blackhole(t))}, "connect_failed"},
		"another app": {[]row{at("a", "sa", refusing(t))}, "no_backend"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			env := []string{"EDGEPROXY_CONNECT_TIMEOUT_MS=200"}
			if name == "another app" {
				env = append(env, "EDGEPROXY_APP=shop")
			}
			p := startPOP(t, c.rows, env...)
			for _, first := range []string{"", "GET / HTTP/1.0\r\n\r\n"} {
				if err := closedSoon(p.connect(t, []byte(first)), soon); err != nil {
					t.Error(err)
				}
			}
			p.expectLog(t, `"end":"`+c.word+`"`)
			p.expectLog(t, `"level":"warn"`, "backend")
			if err := p.isReady(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBackendResetsAtOnce: what a backend does after it accepted is between it
// and the client; the POP passes it on and goes on. Where the reset came before
// the POP's connect was over, the connect failed, and the client is closed.
func TestBackendResetsAtOnce(t *testing.T) {
	t.Parallel()
	p := startPOP(t, []row{at("a", "sa", startHandler(t, reset))}, noAffinity, unchecked)
	closed := 0
	for range 50 {
		c, err := p.dial([]byte("hello\n"))
		if err == nil { // else it was reset even sooner
			_, err = readAll(c)
			c.Close()
		}
		switch {
		case err == nil:
			closed++
		case !errors.Is(err, syscall.ECONNRESET):
			t.Errorf("the client read %v, want a reset", err)
		}
	}
	p.settled(t)
	eventually(t, soon, func() error {
		passed, failed := len(p.log.lines(`"end":"backend_reset"`)), len(p.log.lines(`"end":"connect_failed"`))
		if passed+failed != 50 || closed > failed {
			return fmt.Errorf("%d resets passed on and %d failed connects of 50, but %d clients saw an end", passed, failed, closed)
		}
		return nil
	})
}

// TestSilentBackend: one that accepts and never answers keeps its client until
// the idle timeout, and nobody else.
func TestSilentBackend(t *testing.T) {
	t.Parallel()
	gone := make(chan error, 1)
	silent := startHandler(t, func(c *net.TCPConn) {
		_, err := readAll(c)
		gone <- err
	})
	p := startPOP(t, []row{at("silent", "sa", silent), startBackend(t, "live", "eu").row()},
		append(trusting, noAffinity, unchecked, "EDGEPROXY_REGION=us", "EDGEPROXY_IDLE_TIMEOUT_SECS=4")...)
	began := time.Now()
	c := p.connect(t, append(header(2, "200.160.2.3"), "hello"...))
	if got := p.goes(t, "193.99.144.80"); got != "live" {
		t.Errorf("meanwhile a German went to %s", got)
	}
	if err := closedSoon(c, soon); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("cut after %s, want 4 s of silence", took)
	}
	if err := <-gone; err != nil {
		t.Errorf("the backend saw %v, want the end", err)
	}
	p.expectLog(t, `"end":"idle_timeout"`)
}
