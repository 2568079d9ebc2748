package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs the command and returns what it says first; end stops it as SIGTERM does.
func start(t *testing.T, args ...string) (said string, end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1) // one result, whether or not it is fetched
	go func() {
		err := run(ctx, args, w, w)
		w.CloseWithError(io.EOF)
		done <- err
	}()
	lines := bufio.NewReader(r)
	said, err := lines.ReadString('\n')
	if err != nil {
		cancel()
		t.Fatalf("no first line: %v, run: %v", err, <-done)
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }() // what it says later; until run closes w
	return strings.TrimSpace(said), func() error { cancel(); return <-done }
}

func TestHTTP(t *testing.T) {
	said, end := start(t, "-port", "0", "-region", "us", "-addr", "127.0.0.1")
	m := regexp.MustCompile(`^mock-us-(\d+) \(us\) serves http on (127\.0\.0\.1:(\d+))$`).FindStringSubmatch(said)
	if m == nil || m[1] != m[3] {
		t.Fatalf("said %q", said)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m[2] + "/health")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if want := "OK - mock-us-" + m[3] + " (us)\n"; err != nil || string(body) != want {
		t.Errorf("got %q, %v; want %q", body, err, want)
	}
	if err := end(); err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestTCP(t *testing.T) {
	said, end := start(t, "-port", "0", "-id", "sa-node-1", "-region", "sa", "-addr", "127.0.0.1", "-tcp")
	_, addr, ok := strings.Cut(said, "sa-node-1 (sa) serves tcp on ")
	if !ok {
		t.Fatalf("said %q", said)
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	greeting, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(greeting, "Backend: sa-node-1 | Region: sa | Your IP: 127.0.0.1:") {
		t.Errorf("greeting %q, %v", greeting, err)
	}
	if err := end(); err != nil {
		t.Errorf("end: %v", err)
	}
}

// A client says who answered, once or again and again.
func TestCall(t *testing.T) {
	said, end := start(t, "-port", "0", "-id", "sa-node-1", "-region", "sa", "-addr", "127.0.0.1", "-tcp")
	_, addr, _ := strings.Cut(said, "serves tcp on ")
	for _, more := range [][]string{{"-n", "3"}, {"-every", "1ms"}} {
		said, stop := start(t, append([]string{"-call", addr}, more...)...)
		if !strings.HasPrefix(said, "Backend: sa-node-1 | Region: sa | ") {
			t.Errorf("%q: said %q", more, said)
		}
		if err := stop(); err != nil && !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
			t.Errorf("%q: %v", more, err)
		}
	}
	if err := end(); err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // on the terminal
		err  error
	}{
		{"-nonsense", "flag provided but not defined", errUsage},
		{"9001", `unexpected argument "9001"`, errUsage},
		{"-addr 127.0.0.1:9001", "the port goes in -port", errUsage},
		{"-register http://127.0.0.1:1", "-register needs -addr", errUsage},
		{"-call 127.0.0.1:1 -from here", "-from here: neither an IP address", errUsage},
		{"-addr 127.0.0.1 -port 0 -register http://127.0.0.1:1", "serves http", errors.New("nobody there")},
		{"-help", "-region", nil},
	} {
		var out strings.Builder
		err := run(t.Context(), strings.Fields(tc.args), &out, &out)
		if err == nil || tc.err == errUsage && !errors.Is(err, tc.err) {
			t.Errorf("%s: error %v, want %v", tc.args, err, tc.err)
		}
		if !strings.Contains(out.String(), tc.want) {
			t.Errorf("%s: said %q, want %q in it", tc.args, out.String(), tc.want)
		}
	}
}

// A port that is taken is an error with a way out.
func TestTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	err = run(t.Context(), []string{"-addr", "127.0.0.1", "-port", port}, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "choose another with -addr or -port") {
		t.Errorf("error %v", err)
	}
}
