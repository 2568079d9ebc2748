package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
)

// fixedQueries answer all the same.
type fixedQueries string

func (q fixedQueries) Query(context.Context, string) (QueryAnswer, error) {
	return QueryAnswer{Columns: []string{"a"}, Rows: json.RawMessage(q)}, nil
}

// pipes is a listener of connections without a kernel, which buffer nothing.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8180} }

// TestUnreadQueries: answers that nobody reads count as queries that run, until
// their clients are cut off, soon.
func TestUnreadQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rows := `[["` + strings.Repeat("<", 1<<20) + `"]]`
		s := New(Config{Token: "secret", Queries: fixedQueries(rows), Metrics: http.NotFoundHandler()}, &tablePOP{}, zerolog.Nop())
		ln := make(pipes)
		served := make(chan struct{})
		go func() { defer close(served); _ = s.http.Serve(ln) }()
		ask := func() net.Conn {
			here, there := net.Pipe()
			ln <- there
			if _, err := io.WriteString(here, "GET /api/v1/query?sql=x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			return here
		}
		answer := func() (int, []byte) {
			c := ask()
			defer c.Close()
			r, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			return r.StatusCode, body
		}
		var unread []net.Conn
		for range mostQueries {
			unread = append(unread, ask())
		}
		synctest.Wait()
		if code, body := answer(); code != http.StatusServiceUnavailable {
			t.Errorf("while %d are unread: %d %.100s, want 503", mostQueries, code, body)
		}
		time.Sleep(queryWithin + time.Second)
		if code, body := answer(); code != http.StatusOK || !bytes.Contains(body, []byte(rows)) {
			t.Errorf("when they had their time: %d, %d bytes, want 200 and %d", code, len(body), len(rows))
		}
		for _, c := range unread {
			c.Close()
		}
		close(ln)
		_ = s.http.Close()
		<-served
	})
}
