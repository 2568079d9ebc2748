package proxy

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// trusting requires a header from every client of the test.
var trusting = Config{Settings: Settings{Trusted: loopback, HeaderTimeout: 2 * patience / 3}}

// where the addresses that goodHeaders name are; the socket's is nowhere.
var places = fakeGeo{
	netip.MustParseAddr("203.0.113.7"):  {Country: "BR", Region: "bb"},
	netip.MustParseAddr("2001:db8::7"):  {Country: "CA", Region: "cc"},
	netip.MustParseAddr("198.51.100.1"): {Country: "DD", Region: "dd"},
}

// The client is who the header says, for the choice and in the log; where it
// names no address, the socket's counts.
func caseHeader(t *testing.T, start starter) {
	aa, bb, cc := newBackend(t, echo), newBackend(t, echo), newBackend(t, echo)
	r := start(t, setup{Config: trusting, places: places, ttl: time.Hour, targets: []target{
		{id: "aa", addr: aa.addr}, {id: "bb", addr: bb.addr, rank: 1}, {id: "cc", addr: cc.addr, rank: 2},
	}})
	for i, h := range goodHeaders {
		client := dial(t, r.addr)
		send(t, client, h.header)
		roundTrip(t, client)
		want := line{Client: client.LocalAddr().String(), Backend: "aa"}
		switch h.from {
		case "203.0.113.7:4000":
			want = line{Client: h.from, Country: "BR", Region: "bb", Backend: "bb"}
		case "[2001:db8::7]:4000":
			want = line{Client: h.from, Country: "CA", Region: "cc", Backend: "cc"}
		}
		client.Close()
		got := r.ends(t, i+1, endClosed)
		if got.Client != want.Client || got.Country != want.Country || got.Region != want.Region || got.Backend != want.Backend {
			t.Errorf("%s: client %s %s %s went to %s; want %s %s %s to %s", h.name,
				got.Client, got.Country, got.Region, got.Backend, want.Client, want.Country, want.Region, want.Backend)
		}
		if got.BytesIn != 4 || got.BytesOut != 4 {
			t.Errorf("%s: %d bytes in, %d out; want 4, 4: the header is none of the backend's", h.name, got.BytesIn, got.BytesOut)
		}
	}
	// Bindings are those of the header's addresses too.
	if n := r.router.Bindings(); n != 3 {
		t.Errorf("%d clients bound, want 3: two addresses of headers and the socket's", n)
	}
}

// What is no header is refused at once, however long it goes on, and no
// backend hears of it.
func caseHeaderRefused(t *testing.T, start starter) {
	b := newBackend(t, nil)
	r := start(t, setup{Config: trusting, targets: b.one()})
	for i, h := range badHeaders {
		client := dial(t, r.addr)
		began := time.Now()
		send(t, client, h.header)
		expectClosed(t, client)
		if took := time.Since(began); took >= trusting.HeaderTimeout {
			t.Errorf("%s: refused after %v, want at once", h.name, took)
		}
		r.ends(t, i+1, endBadHeader)
	}
	endless := dial(t, r.addr)
	for {
		if _, err := endless.Write(make([]byte, 64<<10)); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("endless garbage is taken for ever")
			}
			break
		}
	}
	r.ends(t, len(badHeaders)+1, endBadHeader)
	if n := b.accepted(); n != 0 {
		t.Errorf("%d connections reached the backend", n)
	}
}

// A header may come in segments of one byte.
func caseHeaderInPieces(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{Config: trusting, places: places, targets: b.one()})
	for i, h := range goodHeaders[:8] {
		client := dial(t, r.addr)
		for i := range len(h.header) {
			send(t, client, h.header[i:i+1])
		}
		roundTrip(t, client)
		client.Close()
		if got := r.ends(t, i+1, endClosed); h.from != "" && got.Client != h.from {
			t.Errorf("%s: client %s, want %s", h.name, got.Client, h.from)
		}
	}
}

// What comes in the segment of the header is the beginning of the data, also
// when it looks like another header, and also when the FIN is in it.
func caseHeaderAndData(t *testing.T, start starter) {
	b := newBackend(t, echo)
	r := start(t, setup{Config: trusting, targets: b.one()})
	for i, h := range goodHeaders {
		client := dial(t, r.addr)
		cork(t, client)
		send(t, client, h.header)
		send(t, client, "PROXY TCP4 and so on\r\n")
		closeWrite(t, client)
		expect(t, client, "PROXY TCP4 and so on\r\n")
		expectEOF(t, client)
		if got := r.ends(t, i+1, endClosed); got.BytesIn != 22 || got.BytesOut != 22 {
			t.Errorf("%s: %d bytes in, %d out; want 22, 22", h.name, got.BytesIn, got.BytesOut)
		}
	}
	if s := r.slot(t, "b"); s.BytesIn != 22*uint64(len(goodHeaders)) {
		t.Errorf("backend's figures: %d bytes in, want %d", s.BytesIn, 22*len(goodHeaders))
	}
}

// Who owes a header and sends none, or half of one, is let go after the
// timeout; who has sent his may be silent afterwards.
func caseHeaderTimeout(t *testing.T, start starter) {
	const timeout = 200 * time.Millisecond
	b := newBackend(t, echo)
	r := start(t, setup{Config: trusting, targets: b.one()})
	m := watchStalls(t)
	done := dial(t, r.addr)
	send(t, done, goodHeaders[0].header)
	roundTrip(t, done)
	r.Configure(Settings{Trusted: loopback, HeaderTimeout: timeout, AccessLog: true}) // not before: this one has to be in time
	for i, begin := range []string{"", "PROXY TCP4 203.0", goodHeaders[4].header[:20]} {
		began := time.Now()
		client := dial(t, r.addr)
		_, _ = client.Write([]byte(begin)) // fails where that takes until the timeout
		expectClosed(t, client)
		took := time.Since(began)
		if took < timeout {
			t.Errorf("after %q: closed after %v, want no earlier than %v", begin, took, timeout)
		}
		m.soon(t, took, 2*timeout)
		r.ends(t, i+1, endBadHeader)
	}
	if n := b.accepted(); n != 1 {
		t.Errorf("%d connections reached the backend, want 1", n)
	}
	roundTrip(t, done)
}

// Anybody else's header is the client's data, and says nothing about the client.
func caseHeaderUntrusted(t *testing.T, start starter) {
	for _, trusted := range [][]netip.Prefix{nil, {netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}} {
		b := newBackend(t, nil)
		r := start(t, setup{Config: Config{Settings: Settings{Trusted: trusted}}, places: places, targets: b.one()})
		client, server := pair(t, r, b)
		send(t, client, goodHeaders[0].header)
		expect(t, server, goodHeaders[0].header)
		client.Close()
		server.Close()
		if got := r.ends(t, 1, endClosed); got.Client != client.LocalAddr().String() || got.Country != "" {
			t.Errorf("trusted %v: client %s in %q, want the socket's address", trusted, got.Client, got.Country)
		}
	}
}

// TestTrusts: an address counts as what it is, however it is written.
func TestTrusts(t *testing.T) {
	s := Settings{Trusted: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}}
	for addr, want := range map[string]bool{
		"10.1.2.3": true, "11.1.2.3": false, "fe80::1": true, "fe80::1%eth0": true, "2001:db8::1": false,
	} {
		if got := s.trusts(netip.MustParseAddr(addr)); got != want {
			t.Errorf("trusts(%s) = %v, want %v", addr, got, want)
		}
	}
	if (&Settings{}).trusts(netip.MustParseAddr("127.0.0.1")) {
		t.Error("without prefixes nobody is trusted")
	}
}
