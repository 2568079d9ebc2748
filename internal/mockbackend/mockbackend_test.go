package mockbackend

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type server interface {
	Serve(context.Context, net.Listener) error
	Accepted() int64
	Open() int64
	Requests() int64
}

// serve runs b on a loopback port. end cancels it and checks that it ended well; it is called by the test or after it.
func serve(t *testing.T, b server) (addr string, end func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1) // one result, whether or not it is fetched
	go func() { done <- b.Serve(ctx, ln) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v, want nil after cancel", err)
		}
		if n := b.Open(); n != 0 {
			t.Errorf("%d connections open after Serve", n)
		}
		if c, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			c.Close()
			t.Error("the listener still accepts after Serve")
		}
	})
	t.Cleanup(end)
	return ln.Addr().String(), end
}

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    Config
		id     string
		region string
		errs   []string
	}{
		{"defaults", Config{}, "mock-eu-0", "eu", nil},
		{"id from region and port", Config{Region: "us", Port: 9003}, "mock-us-9003", "us", nil},
		{"given id", Config{ID: "mock-eu-1", Port: 9001}, "mock-eu-1", "eu", nil},
		{"every problem at once", Config{ID: "a\nb", Region: "e\tu", Port: 65536}, "", "", []string{"port 65536", `id "a\nb"`, `region "e\tu"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, err := New(tc.cfg)
			if tc.errs != nil {
				for _, want := range tc.errs {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want it to name %s", err, want)
					}
				}
				if _, err := NewTCP(tc.cfg); err == nil {
					t.Error("NewTCP took what New refused")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if b.ID() != tc.id || b.Region() != tc.region {
				t.Errorf("got %s (%s), want %s (%s)", b.ID(), b.Region(), tc.id, tc.region)
			}
		})
	}
}

func TestHTTP(t *testing.T) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	now := start
	b, err := New(Config{Region: "sa", Port: 9001, Hostname: "box", Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	now = start.Add(90 * time.Second)
	mu.Unlock()
	addr, _ := serve(t, b)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}

	if code, body := get("/"); code != 200 || !strings.HasPrefix(body, "Backend: mock-sa-9001\nRegion: sa\nHost: box\nPort: 9001\nYour IP: 127.0.0.1:") {
		t.Errorf("/: %d %q", code, body)
	}
	if code, body := get("/health"); code != 200 || body != "OK - mock-sa-9001 (sa)\n" {
		t.Errorf("/health: %d %q", code, body)
	}
	if code, _ := get("/nothing"); code != 404 {
		t.Errorf("/nothing: %d, want 404", code)
	}
	var l latency
	if _, body := get("/api/latency"); json.Unmarshal([]byte(body), &l) != nil || l.ID != "mock-sa-9001" || l.UnixNS != now.UnixNano() {
		t.Errorf("/api/latency: %q", body)
	}
	var i info
	_, body := get("/api/info")
	if err := json.Unmarshal([]byte(body), &i); err != nil {
		t.Fatal(err)
	}
	if host, _, _ := net.SplitHostPort(i.ClientAddr); host != "127.0.0.1" {
		t.Errorf("/api/info: client_addr %q", i.ClientAddr)
	}
	i.ClientAddr = ""
	want := info{ID: "mock-sa-9001", Region: "sa", Port: 9001, Hostname: "box", UptimeSecs: 90, Requests: 5, Accepted: 1, Open: 1, Time: "2026-11-23T12:01:30Z"}
	if i != want {
		t.Errorf("/api/info:\n got %+v\nwant %+v", i, want)
	}
}

func newTCP(t *testing.T) *TCP {
	t.Helper()
	b, err := NewTCP(Config{ID: "eu-node-1", Region: "eu"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func dial(t *testing.T, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), bufio.NewReader(c)
}

func line(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	s, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("after %q: %v", s, err)
	}
	return s
}

func TestTCPEcho(t *testing.T) {
	b := newTCP(t)
	addr, _ := serve(t, b)
	c, r := dial(t, addr)
	if got, want := line(t, r), fmt.Sprintf("Backend: eu-node-1 | Region: eu | Your IP: %s\n", c.LocalAddr()); got != want {
		t.Errorf("greeting %q, want %q", got, want)
	}
	for _, s := range []string{"hello", "", "with\ttab", strings.Repeat("x", 100_000)} {
		fmt.Fprintf(c, "%s\n", s)
		if got, want := line(t, r), "[eu-node-1] Echo: "+s+"\n"; got != want {
			t.Errorf("answer %.60q, want %.60q", got, want)
		}
	}
	if b.Accepted() != 1 || b.Open() != 1 || b.Requests() != 4 {
		t.Errorf("accepted %d, open %d, requests %d; want 1, 1, 4", b.Accepted(), b.Open(), b.Requests())
	}
}

// A client that shuts its sending half down right away still gets all answers and a clean end.
func TestTCPHalfClose(t *testing.T) {
	b := newTCP(t)
	addr, _ := serve(t, b)
	c, r := dial(t, addr)
	const lines = 1000
	fmt.Fprint(c, strings.Repeat("one\n", lines)+"last, unfinished")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read to the end: %v", err)
	}
	got := string(all)
	if n := strings.Count(got, "[eu-node-1] Echo: one\n"); n != lines {
		t.Errorf("%d answers, want %d", n, lines)
	}
	if !strings.HasSuffix(got, "[eu-node-1] Echo: last, unfinished\n") {
		t.Errorf("ends with %q", got[max(0, len(got)-60):])
	}
}

func TestTCPCountsAndEnd(t *testing.T) {
	b := newTCP(t)
	addr, end := serve(t, b)
	var readers []*bufio.Reader
	for range 20 {
		_, r := dial(t, addr)
		line(t, r)
		readers = append(readers, r)
	}
	if b.Accepted() != 20 || b.Open() != 20 {
		t.Errorf("accepted %d, open %d; want 20, 20", b.Accepted(), b.Open())
	}
	end() // with every connection still open
	for i, r := range readers {
		if _, err := r.ReadByte(); err == nil {
			t.Errorf("connection %d survived", i)
		}
	}
}

// scripted is a listener that fails as told and then waits for Close.
type scripted struct {
	net.Listener
	errs   chan error // buffered: the whole script is written before the first Accept
	closed chan struct{}
}

func (l *scripted) Accept() (net.Conn, error) {
	select {
	case err := <-l.errs:
		return nil, err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *scripted) Close() error   { close(l.closed); return nil }
func (l *scripted) Addr() net.Addr { return &net.TCPAddr{} }

func TestTCPAcceptErrors(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		ends bool
	}{
		{"out of descriptors", &net.OpError{Op: "accept", Err: syscall.EMFILE}, false},
		{"client already gone", &net.OpError{Op: "accept", Err: syscall.ECONNABORTED}, false},
		{"listener broken", io.ErrUnexpectedEOF, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ln := &scripted{errs: make(chan error, 1), closed: make(chan struct{})}
				ln.errs <- tc.err
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1) // one result, whether or not it is fetched
				go func() { done <- newTCP(t).Serve(ctx, ln) }()
				time.Sleep(time.Minute) // virtual
				select {
				case err := <-done:
					if !tc.ends || err == nil {
						t.Errorf("Serve ended: %v", err)
					}
					cancel()
				default:
					if tc.ends {
						t.Error("Serve goes on after a fatal accept error")
					}
					cancel()
					if err := <-done; err != nil {
						t.Errorf("Serve: %v, want nil after cancel", err)
					}
				}
			})
		})
	}
}
