package mockbackend

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestCall(t *testing.T) {
	b := newTCP(t)
	addr, _ := serve(t, b)
	var out strings.Builder
	if err := (Call{Addr: addr, N: 5, Timeout: time.Minute}).Do(t.Context(), &out); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "Backend: eu-node-1 | Region: eu | Your IP: "); n != 5 || b.Accepted() != 5 || b.Requests() != 5 {
		t.Errorf("%d greetings, %d connections, %d lines, want 5 of each", n, b.Accepted(), b.Requests())
	}
	// A backend takes the header for a line, and its answer is then not the one to ours.
	if err := (Call{Addr: addr, From: netip.MustParsePrefix("2001:db8::7/128"), N: 1, Timeout: time.Minute}).Do(t.Context(), &out); err == nil || !strings.Contains(err.Error(), "PROXY TCP6 2001:db8::7 ") {
		t.Errorf("error %v, want the header named", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := (Call{Addr: ln.Addr().String(), N: 1, Timeout: time.Minute}).Do(t.Context(), &out); err == nil {
		t.Error("a call to nobody went well")
	}
}

func TestRegister(t *testing.T) {
	row := Row{ID: "sa-node-1", App: "myapp", Region: "sa", Addr: netip.MustParseAddrPort("10.50.1.1:8080"), Weight: 2, Soft: 50, Hard: 100}
	for code, want := range map[int]string{201: "", 409: "", 401: "401 Unauthorized: who are you?"} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var got Row
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil || got != row || r.URL.Path != "/api/v1/backends" || r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("%s %s %q: %+v, %v", r.Method, r.URL, r.Header, got, err)
			}
			w.WriteHeader(code)
			if code == 401 {
				_, _ = w.Write([]byte("who are you?\n"))
			}
		}))
		err := Register(t.Context(), srv.URL, "secret", row)
		srv.Close()
		if got := ""; err != nil {
			if got = err.Error(); want == "" || !strings.HasSuffix(got, want) {
				t.Errorf("%d: %v", code, err)
			}
		} else if want != "" {
			t.Errorf("%d went well", code)
		}
	}
}
