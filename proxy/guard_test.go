package proxy

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"github.com/edgeproxy/edgeproxy/proxy/guard"
)

// expectRefused: a client is reset, perhaps before it knows that it was connected.
func expectRefused(t *testing.T, r *relay) {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(r.addr))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a client that may not connect: %v, want a reset", err)
	}
}

// The lists see the address of the PROXY header where there is one, and no
// backend hears of who is refused.
func caseAccessLists(t *testing.T, start starter) {
	b := newBackend(t, echo)
	set := trusting.Settings
	set.Guard = guard.Rules{Deny: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}
	r := start(t, setup{Config: Config{Settings: set}, targets: b.one()})
	refused := dial(t, r.addr)
	send(t, refused, "PROXY TCP4 203.0.113.7 192.0.2.1 4000 80\r\nping")
	expectReset(t, refused)
	if got := r.ends(t, 1, endDenied); got.Client != "203.0.113.7:4000" {
		t.Errorf("refused is %s, want the address of the header", got.Client)
	}
	served := dial(t, r.addr)
	send(t, served, "PROXY TCP4 203.0.114.7 192.0.2.1 4000 80\r\nping")
	expect(t, served, "ping")
	if n := b.accepted(); n != 1 {
		t.Errorf("%d connections at the backend, want 1", n)
	}

	// A list that is set live holds for who comes then, not for who is there.
	r.Configure(Settings{Guard: guard.Rules{Deny: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	expectRefused(t, r)
	roundTrip(t, served)
	r.Configure(Settings{Guard: guard.Rules{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	roundTrip(t, dial(t, r.addr))
}

func caseClientConnections(t *testing.T, start starter) {
	const most = 3
	b := newBackend(t, echo)
	r := start(t, setup{Config: Config{Settings: Settings{Guard: guard.Rules{Connections: most}}}, targets: b.one()})
	var served []*net.TCPConn
	for range most {
		c := dial(t, r.addr)
		roundTrip(t, c)
		served = append(served, c)
	}
	expectRefused(t, r)
	r.ends(t, 1, endTooMany)
	served[0].Close()
	r.ends(t, 2, endClosed)
	roundTrip(t, dial(t, r.addr))
	if n := b.accepted(); n != most+1 {
		t.Errorf("%d connections at the backend, want %d", n, most+1)
	}
}

func caseClientRate(t *testing.T, start starter) {
	const burst = 2
	b := newBackend(t, echo)
	r := start(t, setup{Config: Config{Settings: Settings{Guard: guard.Rules{Rate: 0.0001}}}, targets: b.one()})
	roundTrip(t, dial(t, r.addr))
	expectRefused(t, r)
	r.ends(t, 1, endTooFast)
	r.Configure(Settings{Guard: guard.Rules{Rate: burst, IPv4Bits: 8}}) // another client: its bucket is full
	for range burst {
		roundTrip(t, dial(t, r.addr))
	}
}
