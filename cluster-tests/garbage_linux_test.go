package clustertests

import (
	"context"
	"crypto/tls"
	wire "encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/identity"
)

// rubbish is what somebody sends who has no business here, or means harm. One
// of them stalls: it holds the connection until the other side ends it.
type rubbish struct {
	name   string
	bytes  []byte
	stalls bool
}

func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// frame is a frame of the record streams: length, kind, body.
func frame(kind byte, body []byte) []byte {
	b := wire.BigEndian.AppendUint32(nil, uint32(1+len(body)))
	return append(append(b, kind), body...)
}

// clientHello is the beginning of a TLS connection.
func clientHello() []byte {
	a, b := net.Pipe()
	defer b.Close()
	defer a.Close()
	go func() {
		_ = tls.Client(a, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"edgeproxy/1"}}).Handshake()
	}()
	buf := make([]byte, 4096)
	n, _ := b.Read(buf)
	return buf[:n]
}

// strangers is what can be thrown at both ports without the cluster key.
func strangers(r *rand.Rand) []rubbish {
	hello := clientHello()
	return []rubbish{
		{name: "a length of 4 GB", bytes: append([]byte{0xff, 0xff, 0xff, 0xff, 1}, noise(r, 100)...)},
		{name: "TLS record of the greatest length", bytes: append([]byte{22, 3, 1, 0xff, 0xff}, noise(r, 70000)...)},
		{name: "encrypted gossip of 4 GB", bytes: append([]byte{10, 0xff, 0xff, 0xff, 0xff, 1}, noise(r, 100000)...)},
		{name: "compressed gossip", bytes: append([]byte{9}, noise(r, 5000)...)},
		{name: "noise", bytes: noise(r, 1+r.IntN(300000))},
		{name: "zeros", bytes: make([]byte, 100000)},
		{name: "HTTP", bytes: []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		{name: "half a ClientHello", bytes: hello[:len(hello)/2], stalls: true},
		{name: "a ClientHello and silence", bytes: hello, stalls: true},
		{name: "silence", stalls: true},
		{name: "nothing"},
	}
}

// throwTCP sends one thing and waits for the end, if there is one.
func throwTCP(addr string, x rubbish) error {
	c, err := net.DialTimeout("tcp", addr, soon)
	if err != nil {
		return err // nobody listens any more
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	_, _ = c.Write(x.bytes) // the other side may have had enough
	if !x.stalls {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	_, err = io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%s: %s holds the connection for ever", x.name, addr)
	}
	return nil
}

// traitor is somebody with the cluster key, who speaks TLS as a POP does.
type traitor struct{ creds *identity.Credentials }

func newTraitor(t testing.TB, key, name string) *traitor {
	t.Helper()
	k, err := identity.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := identity.LoadNode(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := identity.NewCredentials(name, n, identity.NewKeyring(k))
	if err != nil {
		t.Fatal(err)
	}
	return &traitor{creds}
}

// hello is how the traitor introduces itself: as any POP, with nothing to offer.
func (x *traitor) hello(name string) []byte {
	b := wire.AppendUvarint(wire.AppendUvarint(nil, 1), 1)
	for _, s := range []string{name, fmt.Sprintf("%016x", rand.Uint64())} {
		b = append(wire.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = wire.AppendVarint(b, time.Now().UnixMicro())
	return frame(1, append(b, 0, 0, 0)) // no heads, no horizon, no keyring
}

// throw sends something over a stream that the POP has let in.
func (x *traitor) throw(p *pop, what []byte, stalls bool) error {
	raw, err := net.DialTimeout("tcp", local(p.Sync), soon)
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := raw.SetDeadline(time.Now().Add(soon)); err != nil {
		return err
	}
	c := tls.Client(raw, x.creds.ClientTLS(p.Node))
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("handshake with %s: %w", p.Node, err)
	}
	_, _ = c.Write(what)
	if !stalls {
		_ = c.CloseWrite()
	}
	_, err = io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("%s holds the stream for ever after %.40x", p.Node, what)
	}
	return nil
}

// TestGarbage thrown at one of three POPs, from strangers and from one who has
// the key, over TCP, TLS and UDP: refused and counted; memory stays bounded,
// the others are unaffected, and the mesh still converges.
func TestGarbage(t *testing.T) {
	t.Parallel()
	r := pick(t)
	rounds := often(5, 20) // of about 40 each
	m := newMesh(t, 3)
	p, other := m.pops[0], m.pops[1]
	other.sql(t, insert(startBackend(t, "sa-1", "sa").row(), at("shared", "us", refusing(t))))
	settle(t, converged, m.pops...)
	for _, x := range m.pops { // rows that have arrived are not routed by yet
		eventually(t, soon, func() error { return x.goesTo("", "sa-1") })
	}
	before := p.resident(t)

	ctx, stop := context.WithCancel(t.Context())
	var beside sync.WaitGroup
	defer beside.Wait()
	defer stop()
	served, peak := 0, before
	beside.Go(func() {
		for ctx.Err() == nil {
			for _, x := range m.pops {
				if err := x.goesTo("", "sa-1"); err != nil {
					t.Errorf("%s, meanwhile: %v", x.Node, err)
					return
				}
				served++
			}
			peak = max(peak, p.resident(t))
			<-time.After(10 * time.Millisecond)
		}
	})

	evil := newTraitor(t, m.key, "evil")
	var all, stalling sync.WaitGroup
	thrown := 0
	try := func(wait *sync.WaitGroup, do func() error) {
		thrown++
		wait.Go(func() {
			if err := do(); err != nil {
				t.Error(err)
			}
		})
	}
	for range rounds {
		for _, x := range strangers(r) {
			wait := &all
			if x.stalls {
				wait = &stalling
			}
			try(wait, func() error { return throwTCP(local(p.Sync), x) })
			try(wait, func() error { return throwTCP(local(p.Gossip), x) })
		}
		for _, body := range [][]byte{noise(r, 1+r.IntN(1400)), {10}, {0}, {}, append([]byte{byte(r.IntN(16))}, noise(r, 60)...)} {
			try(&all, func() error { return throwUDP(local(p.Gossip), body) })
		}
		after := func(b []byte) []byte { return append(evil.hello("evil"), b...) }
		for _, what := range [][]byte{
			{0xff, 0xff, 0xff, 0xff, 1}, after([]byte{0xff, 0xff, 0xff, 0xff, 2}),
			after(append([]byte{0, 0x10, 0, 0, 2}, noise(r, 1000)...)),                  // cut short
			after(frame(2, noise(r, 1+r.IntN(2000)))), after(frame(200, noise(r, 100))), // records, and a kind that is none
			frame(2, nil), frame(1, noise(r, 300)), after(frame(1, noise(r, 300))), noise(r, 500),
			evil.hello(other.Node), // in the name of another
			{0, 0, 0, 0},
		} {
			try(&all, func() error { return evil.throw(p, what, false) })
		}
		try(&stalling, func() error { return evil.throw(p, nil, true) })
		other.sql(t, "UPDATE backends SET weight=weight+1 WHERE id='shared'")
		all.Wait()
	}
	stalling.Wait()
	stop()
	beside.Wait()
	t.Logf("%d pieces of garbage; %d clients served meanwhile; memory %d MB, at most %d MB, now %d MB",
		thrown, served, before>>20, peak>>20, p.resident(t)>>20)
	if most := before + 96<<20; peak > most && !raceDetector {
		t.Errorf("memory grew from %d to %d MB", before>>20, peak>>20)
	}
	// One a round is cut short, which another of the same name may have replaced before it was read.
	eventually(t, soon, func() error {
		if n := p.metric(t, "edgeproxy_streams_total", `event="truncated"`); n < float64(rounds) {
			again := evil.throw(p, append(evil.hello("evil"), 0, 0x10, 0, 0, 2, 1, 2, 3), false)
			return errors.Join(fmt.Errorf("%g streams were cut short, want %d", n, rounds), again)
		}
		return nil
	})
	for _, event := range []string{"handshake_refused", "garbage", "oversized", "truncated"} {
		if n := p.metric(t, "edgeproxy_streams_total", `event="`+event+`"`); n < float64(rounds) {
			t.Errorf("/metrics counts %g streams that ended by %s, in %d rounds", n, event, rounds)
		}
	}
	for _, x := range m.pops {
		if x.log.says("panic") == nil {
			t.Errorf("%s panicked", x.Node)
		}
		if got := strings.TrimSpace(x.sql(t, "SELECT count(*) FROM backends")); got != "2" {
			t.Errorf("%s has %s rows, want 2", x.Node, got)
		}
	}
	together(t, m.pops...)
	goesOn(t, "after", m.pops...)
}

func throwUDP(addr string, body []byte) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = c.Write(body)
	return nil
}
