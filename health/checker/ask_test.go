package checker

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/rs/zerolog"
)

// TestHTTP: what real servers answer, and those that mean ill.
func TestHTTP(t *testing.T) {
	forever := func(w http.ResponseWriter) {
		line := []byte(strings.Repeat("x", 64<<10))
		for {
			if _, err := w.Write(line); err != nil {
				return
			}
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
		case "/host":
			if r.Host != "shop.example" || r.Method != "GET" || r.Header.Get("User-Agent") != "edgeproxy-health" || r.URL.RawQuery != "deep=1" {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/sick":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/again":
			http.Redirect(w, r, "/again", http.StatusFound)
		case "/huge":
			forever(w)
		case "/hang":
			<-r.Context().Done()
		case "/headers":
			for i := range 2000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("y", 100))
			}
		}
	}))
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	c := New(Config{}, zerolog.Nop())
	for text, want := range map[string]string{
		"http path=/ok": "",
		"http path=/host?deep=1 host=shop.example":        "",
		"http path=/sick":                                 "status 503",
		"http path=/sick status=503":                      "",
		"http path=/ok status=201-299":                    "status 200",
		"http path=/again":                                "", // a redirect is an answer, and is not followed
		"http path=/again status=200":                     "status 302",
		"http path=/huge":                                 "",
		"http path=/hang timeout=50ms":                    "no answer within 50ms",
		"http path=/headers":                              "exceeded",
		fmt.Sprintf("http path=/ok port=%d", addr.Port()): "",
	} {
		check, err := mesh.ParseCheck(text)
		if err != nil {
			t.Fatal(err)
		}
		ask := addr
		if check.Port != 0 {
			ask = netip.AddrPortFrom(addr.Addr(), 1)
		}
		if !strings.Contains(text, "timeout=") {
			check.Timeout = time.Minute // whatever keeps this machine busy
		}
		began := time.Now()
		err = c.ask(t.Context(), Target{ID: "b", Addr: ask, Check: check})
		got := ""
		if err != nil {
			got = why(err)
		}
		if got != want && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
		if took := time.Since(began); took > check.Timeout+5*time.Second {
			t.Errorf("%s took %v", text, took)
		}
	}
}

// TestNoHTTP: servers that speak something else, nothing, or garbage.
func TestNoHTTP(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"closes":       func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') },
		"speaks smtp":  func(c net.Conn) { fmt.Fprint(c, "220 mail.example ESMTP\r\n") },
		"speaks bytes": func(c net.Conn) { c.Write([]byte(strings.Repeat("\xff\xfe\n", 10000))) },
		"says nothing": func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if c, err := ln.Accept(); err == nil {
					serve(c)
					c.Close()
				}
			}()
			check, _ := mesh.ParseCheck("http timeout=200ms")
			err = New(Config{}, zerolog.Nop()).ask(t.Context(), Target{ID: "b", Addr: netip.MustParseAddrPort(ln.Addr().String()), Check: check})
			if err == nil || len(why(err)) == 0 || len(why(err)) > 120 {
				t.Errorf("%v", err)
			}
			ln.Close()
			<-ended
		})
	}
}

// TestTCP: real sockets, IPv4 and IPv6; one that nobody listens on.
func TestTCP(t *testing.T) {
	c := New(Config{}, zerolog.Nop())
	for _, on := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", on)
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParseAddrPort(ln.Addr().String())
		if err := c.ask(t.Context(), Target{Addr: addr, Check: mesh.DefaultCheck}); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
		ln.Close()
		if err := c.ask(t.Context(), Target{Addr: addr, Check: mesh.DefaultCheck}); err == nil || why(err) != "connection refused" {
			t.Errorf("%s closed: %v", addr, err)
		}
	}
}
