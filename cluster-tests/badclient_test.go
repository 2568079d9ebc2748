package clustertests

import (
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestGarbageHeaders from where a PROXY header is a must: closed at once, said
// in the log, and nobody else notices.
func TestGarbageHeaders(t *testing.T) {
	t.Parallel()
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	a := startBackend(t, "a", "sa")
	p := startPOP(t, []row{a.row()}, append([]string{unchecked, patientPOP}, trusting...)...) // the backend counts what comes; nobody is closed for being slow
	headers := map[string]string{
		"no header":               "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"TLS":                     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"zeros":                   strings.Repeat("\x00", 64),
		"v1 nonsense":             "PROXY nonsense\r\n",
		"v1 bad address":          "PROXY TCP4 300.1.1.1 1.1.1.1 1 2\r\n",
		"v1 family mismatch":      "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
		"v1 bad port":             "PROXY TCP4 1.2.3.4 5.6.7.8 99999 2\r\n",
		"v1 too few":              "PROXY TCP4 1.2.3.4\r\n",
		"v1 lower case":           "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
		"v1 endless":              "PROXY TCP4 " + strings.Repeat("1", 1<<20),
		"v2 bad version":          signature + "\x11\x11\x00\x0c" + strings.Repeat("a", 12),
		"v2 bad command":          signature + "\x2f\x11\x00\x0c" + strings.Repeat("a", 12),
		"v2 short addresses":      signature + "\x21\x11\x00\x04" + strings.Repeat("a", 4),
		"v2 64 KB":                signature + "\x21\x11\xff\xff" + strings.Repeat("a", 65535),
		"v2 family 9":             signature + "\x21\x91\x00\x0c" + strings.Repeat("a", 12),
		"v2 broken signature":     "\r\n\r\n\x00\r\nQUIX\n" + "\x21\x11\x00\x0c" + strings.Repeat("a", 12),
		"v1 with NUL":             "PROXY TCP4 1.2.3.4\x00 5.6.7.8 1 2\r\n",
		"v1 ends without CR":      "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
		"v1 twice v2 in disguise": "PROXY \r\n" + signature,
	}
	for name, h := range headers {
		// A write may find the connection gone already; it is the end that counts.
		c, err := p.dial([]byte(h))
		if err != nil {
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err := closedSoon(c, converged); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
	if n := a.Accepted(); n != 0 {
		t.Errorf("the backend saw %d connections", n)
	}
	p.counts(t, "bad_proxy_header", float64(len(headers)))
	p.expectLog(t, "PROXY header refused", "EDGEPROXY_TRUSTED_PROXIES")
	if got := p.goes(t, "200.160.2.3"); got != "a" {
		t.Errorf("after all that a client went to %q", got)
	}
}

// TestSilentClients: who must send a header and does not, or only a part of
// it, or one byte now and then, is closed after 3 s.
func TestSilentClients(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"), trusting...)
	var all sync.WaitGroup
	for name, first := range map[string]string{"nothing": "", "half of v1": "PROXY TCP4 1.2", "half of v2": "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02", "one byte": "P"} {
		all.Go(func() {
			began := time.Now()
			c, err := p.dial([]byte(first))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			defer c.Close()
			if err := closedSoon(c, 8*time.Second); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(began); took < 2500*time.Millisecond {
				t.Errorf("%s: closed after %s, want 3 s", name, took)
			}
		})
	}
	all.Go(func() { // it always has more to say, and never a header
		c, err := p.dial([]byte("PROXY TCP4 "))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		began := time.Now()
		for err == nil && time.Since(began) < 10*time.Second {
			_, err = c.Write([]byte("1"))
			<-time.After(100 * time.Millisecond)
		}
		if err == nil {
			t.Error("a trickle of a header keeps a connection")
		}
	})
	// Meanwhile the others are served.
	for range 20 {
		if got := p.goes(t, "200.160.2.3"); got != "sa-1" {
			t.Errorf("a client went to %q", got)
		}
	}
	all.Wait()
	p.settled(t)
}

// TestSilentClientWithoutHeader: where no header is asked for, silence is
// nobody's business; the backend may speak first.
func TestSilentClientWithoutHeader(t *testing.T) {
	t.Parallel()
	p := startPOP(t, startBackends(t, "sa"))
	v := p.visit(t, "")
	v.alive(t)
}
