package proxy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/route"
	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
)

// A child process holds a relay and nothing else, so that what it uses is the
// relay's, and so that its limits are not the test's.
const (
	childRelay   = "EDGEPROXY_TEST_RELAY"   // name of the implementation
	childBackend = "EDGEPROXY_TEST_BACKEND" // address
)

// owesHeader is the address whose connections to a child have to begin with a PROXY header.
var owesHeader = netip.MustParseAddr("127.77.0.2")

// usage is what a child says about itself.
type usage struct {
	Sockets, Pipes, PooledPipes, Goroutines int
	RSS                                     int64 // bytes
	Piped                                   int64 // bytes in pipes
	Stats                                   Stats
	Backend                                 route.SlotStats
}

// TestChild is not a test but the child. A line that it reads is what it has to
// do: say what it uses, or leave itself so many descriptors.
func TestChild(t *testing.T) {
	addr, err := netip.ParseAddrPort(os.Getenv(childBackend))
	if err != nil {
		t.Skip("started by other tests")
	}
	for _, impl := range implementations {
		if impl.name != os.Getenv(childRelay) {
			continue
		}
		owing := Settings{Trusted: []netip.Prefix{netip.PrefixFrom(owesHeader, 32)}, HeaderTimeout: time.Second}
		r := start(t, impl.make, setup{Config: Config{Settings: owing}, targets: []target{{id: "b", addr: addr}}})
		fmt.Printf("\nready %s\n", r.addr)
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			if free, ok := strings.CutPrefix(in.Text(), "leave "); ok {
				leaveDescriptors(t, free)
				fmt.Printf("\nleft %s\n", free)
				continue
			}
			text, err := json.Marshal(use(r))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Printf("\nusage %s\n", text)
		}
	}
}

// leaveDescriptors takes all descriptors below a limit but so many; "all" is
// an end of the limit. No client may come or go meanwhile.
//
// It goes by number, for opening until that fails counts one too many as taken
// now and then: accept4 reserves a descriptor before it looks at its queue and
// gives it back when that is empty, at the moment of the count or after it.
// Such a number is neither open nor to be had (EBUSY), and so waited for.
func leaveDescriptors(t *testing.T, left string) {
	const most = 64
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	free, err := strconv.Atoi(left)
	if limit.Cur = most; err != nil {
		limit.Cur = limit.Max
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur != most {
		return
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	taken := []int{null}
	for fd := 0; fd < most; {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			fd++
			continue
		}
		switch err := unix.Dup3(null, fd, 0); err {
		case nil:
			taken = append(taken, fd)
		case unix.EBUSY, unix.EINTR:
			runtime.Gosched()
		default:
			t.Fatal(err)
		}
	}
	for _, fd := range taken[:free] {
		unix.Close(fd)
	}
}

func use(r *relay) usage {
	debug.FreeOSMemory()
	u := usage{Goroutines: runtime.NumGoroutine(), Stats: r.Stats(), Backend: r.router.Slots.Stats()[0]}
	pipes.mu.Lock()
	u.PooledPipes = len(pipes.idle)
	pipes.mu.Unlock()
	statm, _ := os.ReadFile("/proc/self/statm")
	if f := bytes.Fields(statm); len(f) > 1 {
		pages, _ := strconv.ParseInt(string(f[1]), 10, 64)
		u.RSS = pages * int64(os.Getpagesize())
	}
	fds, _ := os.ReadDir("/proc/self/fd")
	piped := map[string]int{} // by pipe: both ends tell
	for _, fd := range fds {
		switch target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); {
		case strings.HasPrefix(target, "socket:"):
			u.Sockets++
		case strings.HasPrefix(target, "pipe:"):
			u.Pipes++
			n, _ := strconv.Atoi(fd.Name())
			piped[target], _ = unix.IoctlGetInt(n, unix.TIOCINQ) // FIONREAD
		}
	}
	for _, n := range piped {
		u.Piped += int64(n)
	}
	return u
}

// child is a child as its parent sees it.
type child struct {
	addr netip.AddrPort
	in   io.WriteCloser
	out  *bufio.Scanner
}

func startChild(t *testing.T, impl string, backend netip.AddrPort) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childRelay+"="+impl, childBackend+"="+backend.String())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		var rest strings.Builder
		for c.out.Scan() {
			fmt.Fprintln(&rest, c.out.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("child: %v\n%s", err, rest.String())
		}
	})
	if c.addr, err = netip.ParseAddrPort(c.says(t, "ready ")); err != nil {
		t.Fatal(err)
	}
	return c
}

// says returns the rest of the next line that begins with the word.
func (c *child) says(t *testing.T, word string) string {
	t.Helper()
	for c.out.Scan() {
		if rest, ok := strings.CutPrefix(c.out.Text(), word); ok {
			return rest
		}
	}
	t.Fatalf("the child has ended without a word of %q", word)
	return ""
}

// leave returns when the child has no more than so many descriptors to take, or all again.
func (c *child) leave(t *testing.T, free string) {
	t.Helper()
	if _, err := fmt.Fprintf(c.in, "leave %s\n", free); err != nil {
		t.Fatal(err)
	}
	c.says(t, "left "+free)
}

func (c *child) usage(t *testing.T) (u usage) {
	t.Helper()
	if _, err := io.WriteString(c.in, "usage\n"); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(c.says(t, "usage ")), &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// idleCost is what an idle connection may hold: goroutines and bytes of
// resident memory. The reactor's is a quarter of HAProxy's 3.2 KB.
var idleCost = map[string]struct{ goroutines, bytes int }{"goroutines": {2, 12 << 10}, "reactor": {0, 800}}

// TestIdleConnection: two descriptors, no pipe, and no more than idleCost are
// what an idle connection holds, also after it has moved bulk data.
func TestIdleConnection(t *testing.T) {
	const size = 64 << 10
	connections := 4000 // fewer drown in what the process needs now and then
	if raceEnabled {
		connections = 200 // whose memory says nothing anyway
	}
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, nil)
			c := startChild(t, impl.name, b.addr)
			open := func() (client, server *net.TCPConn) { return dial(t, c.addr), b.next(t) }
			exchange := func(client, server *net.TCPConn, size int) {
				data := strings.Repeat("x", size)
				var writing sync.WaitGroup
				for _, way := range [][2]*net.TCPConn{{client, server}, {server, client}} {
					writing.Go(func() {
						if _, err := way[0].Write([]byte(data)); err != nil {
							t.Error(err)
						}
					})
					expect(t, way[1], data)
				}
				writing.Wait()
			}
			client, server := open()
			exchange(client, server, size)
			before := c.usage(t)
			for range connections {
				client, server := open()
				exchange(client, server, size)
			}
			after := c.usage(t)
			if n := after.Sockets - before.Sockets; n != 2*connections {
				t.Errorf("%d sockets for %d idle connections, want 2 for each", n, connections)
			}
			if after.PooledPipes == 0 {
				t.Error("no pipe was ever used: nothing has been spliced")
			}
			held := (after.Pipes - 2*after.PooledPipes) - (before.Pipes - 2*before.PooledPipes)
			if held != 0 {
				t.Errorf("%d descriptors of pipes held by idle connections, want 0", held)
			}
			cost := idleCost[impl.name]
			if n := after.Goroutines - before.Goroutines; n > cost.goroutines*connections+idleWorkers {
				t.Errorf("%d goroutines for %d connections, want at most %d for each and a few workers", n, connections, cost.goroutines)
			}
			each := (after.RSS - before.RSS) / int64(connections)
			t.Logf("%d bytes resident for each idle connection", each)
			if !raceEnabled && each > int64(cost.bytes) {
				t.Errorf("%d bytes resident for each idle connection, want at most %d", each, cost.bytes)
			}
		})
	}
}

// TestDescriptorsUsedUp: without descriptors left accepting pauses, what is
// open goes on, and when there are some again the clients that waited are served.
func TestDescriptorsUsedUp(t *testing.T) {
	const room = 4 // connections
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, echo)
			c := startChild(t, impl.name, b.addr)
			var served []*net.TCPConn
			for range room {
				conn := dial(t, c.addr)
				roundTrip(t, conn)
				served = append(served, conn)
			}
			c.leave(t, "0")
			waiting := dial(t, c.addr)
			send(t, waiting, "ping")
			eventually(t, "accept fails", func() bool { return c.usage(t).Stats.AcceptErrors > 2 })
			for _, conn := range served {
				roundTrip(t, conn)
			}
			if got := c.usage(t).Stats.Accepted; got != room {
				t.Errorf("%d accepted without a descriptor left, want %d", got, room)
			}
			// At once, which closing connections would not be: a client that
			// got what one of them left would find none for its backend.
			c.leave(t, "all")
			expect(t, waiting, "ping")
			for _, conn := range served {
				roundTrip(t, conn)
			}
			roundTrip(t, dial(t, c.addr))
			if got := c.usage(t).Stats; got.Accepted != room+2 || got.Ended[endConnectFailed.String()] != 0 {
				t.Errorf("%d accepted, ended %v; want %d, none", got.Accepted, got.Ended, room+2)
			}
		})
	}
}

// TestNoDescriptorForTheBackend: a client that got the last descriptor is let
// go at once, and that there is none left is not the backend's failure.
func TestNoDescriptorForTheBackend(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			b := newBackend(t, echo)
			c := startChild(t, impl.name, b.addr)
			served := dial(t, c.addr)
			roundTrip(t, served) // so that it has what it needs to serve at all
			c.leave(t, "1")
			expectClosed(t, dial(t, c.addr))
			roundTrip(t, served)
			var got usage
			eventually(t, "the other connection has ended connect_failed", func() bool {
				got = c.usage(t)
				return got.Stats.Ended[endConnectFailed.String()] == 1
			})
			if got.Backend.Failures != 0 || got.Backend.Connections != 1 {
				t.Errorf("the backend has %d failures and %d places taken, want 0 and 1", got.Backend.Failures, got.Backend.Connections)
			}
		})
	}
}

// wantedOptions are what every socket of the relay has.
var wantedOptions = []struct {
	name                string
	level, option, want int
}{
	{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
	{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
}

// TestSocketOptions: both sockets of a connection send at once and notice a
// peer that vanished, and the listener is a plain TCP one.
func TestSocketOptions(t *testing.T) {
	b := newBackend(t, nil)
	ln := listen(t)
	if protocol := option(t, ln, unix.SOL_SOCKET, unix.SO_PROTOCOL); protocol != unix.IPPROTO_TCP {
		t.Errorf("the listener's protocol is %d, want TCP (%d): MPTCP is slower and has no splice", protocol, unix.IPPROTO_TCP)
	}
	var srv *Server
	r := start(t, func(cfg Config, r *route.Router, g Geo, log zerolog.Logger) relayUnderTest {
		cfg.Relay = Goroutines
		srv = New(cfg, r, g, log)
		return counting{srv}
	}, setup{targets: b.one(), ln: ln})
	client, server := pair(t, r, b)
	send(t, client, "x")
	expect(t, server, "x") // so it is relaying
	srv.sessions.each(func(c *session) {
		for side, s := range map[string]*socket{"client": &c.client, "backend": &c.backend} {
			for _, o := range wantedOptions {
				if got := option(t, s.connection.(syscall.Conn), o.level, o.option); got != o.want {
					t.Errorf("%s of the %s's socket is %d, want %d", o.name, side, got, o.want)
				}
			}
		}
	})
}

func option(t *testing.T, c syscall.Conn, level, name int) (value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), level, name) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return value
}
