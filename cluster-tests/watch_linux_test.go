package clustertests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSlowWatchers: those that do not read cost a POP nothing; one that reads on
// is told how much it missed and ends with the last state of every key. There
// may be only so many.
func TestSlowWatchers(t *testing.T) {
	needs(t, "long") // its promise is in the amount
	t.Parallel()
	const backends, slow, rounds = 1000, 40, 12
	p := newPOP(t, unchecked)
	p.start(t)
	insertMany := fmt.Sprintf(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<%d)
		INSERT INTO backends SELECT printf('b-%%06d', i), 'myapp', 'sa', '10.1.1.1', 80, 1, 1, 100, 0, 0 FROM n`, backends)
	p.sql(t, insertMany)
	start := newFollower(p, "backend") // until all of them are told of: what follows is counted
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := start.follow(ctx, func() bool { return len(start.states) == backends }); err != nil {
		t.Fatal(err)
	}
	narrow := &http.Transport{DisableKeepAlives: true, ReadBufferSize: 1 << 10, DialContext: (&net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		_ = c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
		return err
	}}).DialContext}
	var bodies []io.ReadCloser
	for range slow {
		resp, err := (&http.Client{Transport: narrow}).Get("http://" + p.API + "/api/v1/watch?kind=backend&from=now")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		bodies = append(bodies, resp.Body)
	}
	before := p.resident(t)
	for i := range rounds {
		p.sql(t, fmt.Sprintf("UPDATE backends SET weight=%d", i+2))
		eventually(t, soon, func() error {
			if a := p.ask(t, "GET", "/api/v1/backends/b-000001", ""); !strings.Contains(a.body, fmt.Sprintf(`"weight":%d,`, i+2)) {
				return errors.New(a.body)
			}
			return nil
		})
	}
	// Buffered it would be some 250 bytes for each change and watcher.
	if grown, whole := p.resident(t)-before, backends*slow*rounds*250; grown > whole/2 && !raceDetector {
		t.Errorf("%d watchers that do not read cost %d KiB", slow, grown>>10)
	}
	f := newFollower(p, "backend")
	last := fmt.Sprintf(`"weight":%d,`, rounds+1)
	done := func() bool { return strings.Contains(string(f.states[fmt.Sprintf("backend/b-%06d", backends)]), last) } // they change in the order of ids
	patience := time.AfterFunc(soon, func() { bodies[0].Close() })
	defer patience.Stop()
	if err := f.read(bodies[0], done); err != nil {
		t.Fatalf("%v: it was told of %d changes that it missed and knows %d backends", err, f.lagged, len(f.weights()))
	}
	if sent := uint64(len(f.seen)); f.lagged == 0 || sent+f.lagged != backends*rounds {
		t.Errorf("%d changes came and %d are told to be missed, of %d", sent, f.lagged, backends*rounds)
	}
	if got, want := f.weights(), tableWeights(t, p); !maps.Equal(got, want) {
		t.Errorf("it ends with other weights than the table: %v", got)
	}
	var full answer
	for range 100 {
		resp, err := newFollower(p, "").open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			body, _ := readAll(resp.Body)
			full = answer{resp.StatusCode, body}
			break
		}
	}
	if full.code != 503 || !strings.Contains(full.body, "watchers") {
		t.Errorf("with 100 watchers more: %+v, want 503 and why", full)
	}
}
