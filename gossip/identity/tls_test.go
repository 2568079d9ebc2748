package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// outcome is a handshake as both sides saw it, and all bytes that the client got.
type outcome struct {
	server, client       tls.ConnectionState
	serverErr, clientErr error // of the handshake or of the first byte after it
	seen                 []byte
}

// recorder keeps what is read from a connection.
type recorder struct {
	net.Conn
	seen bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.seen.Write(b[:n])
	return n, err
}

// meet has the two sides shake hands over loopback and greet each other.
func meet(t testing.TB, server, client *tls.Config) (o outcome) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			o.serverErr = err
			return
		}
		s := tls.Server(conn, server)
		o.serverErr = greet(s)
		o.server = s.ConnectionState()
	})
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Conn: conn}
	c := tls.Client(r, client)
	o.clientErr = greet(c)
	wg.Wait()
	o.client, o.seen = c.ConnectionState(), r.seen.Bytes()
	return o
}

// greet sends a byte and waits for the other side's, so that a side that
// refuses after the other's handshake is heard.
func greet(c *tls.Conn) error {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if err := c.HandshakeContext(context.Background()); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

func testCredentials(t testing.TB, id string, ring Keyring) *Credentials {
	t.Helper()
	c, err := NewCredentials(id, testNode(id[0]), ring)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestMembersMeet(t *testing.T) {
	for _, key := range []Key{testKey(1), Insecure} {
		sa, us := testCredentials(t, "sa-1", NewKeyring(key)), testCredentials(t, "us.1_b", NewKeyring(key))
		o := meet(t, sa.ServerTLS(), us.ClientTLS("sa-1"))
		if o.serverErr != nil || o.clientErr != nil {
			t.Fatal(o.serverErr, o.clientErr)
		}
		server, err := PeerOf(o.client)
		if err != nil || server.Node != "sa-1" || !server.Key.Equal(testNode('s').Public()) || server.ClusterKey != key.ID() {
			t.Errorf("the server is %+v, %v", server, err)
		}
		client, err := PeerOf(o.server)
		if err != nil || client.Node != "us.1_b" || !client.Key.Equal(testNode('u').Public()) || client.ClusterKey != key.ID() {
			t.Errorf("the client is %+v, %v", client, err)
		}
		if o.client.Version != tls.VersionTLS13 || o.client.DidResume {
			t.Errorf("version %x, resumed %v", o.client.Version, o.client.DidResume)
		}
		for _, private := range []string{"sa-1", "us.1_b"} {
			if bytes.Contains(o.seen, []byte(private)) {
				t.Errorf("%q went over the wire in clear", private)
			}
		}
	}
}

func TestAnyNodeOrTheOneDialled(t *testing.T) {
	sa, us := testCredentials(t, "sa-1", NewKeyring(testKey(1))), testCredentials(t, "us-1", NewKeyring(testKey(1)))
	if o := meet(t, sa.ServerTLS(), us.ClientTLS("")); o.serverErr != nil || o.clientErr != nil {
		t.Error(o.serverErr, o.clientErr)
	}
	o := meet(t, sa.ServerTLS(), us.ClientTLS("eu-1"))
	var wrong *WrongNodeError
	if !errors.As(o.clientErr, &wrong) || *wrong != (WrongNodeError{"eu-1", "sa-1"}) {
		t.Errorf("dialled eu-1, met sa-1: %v", o.clientErr)
	}
	if len(o.server.PeerCertificates) > 0 || o.serverErr == nil {
		t.Errorf("the client showed itself to the wrong server (%v)", o.serverErr)
	}
}

func TestStrangerLearnsNothing(t *testing.T) {
	sa, x := testCredentials(t, "sa-1", NewKeyring(testKey(1))), testCredentials(t, "x", NewKeyring(testKey(2)))
	o := meet(t, sa.ServerTLS(), x.ClientTLS(""))
	if alert := []byte{21, 3, 3, 0, 2, 2, alertNoProtocol}; !bytes.Equal(o.seen, alert) {
		t.Errorf("a stranger got % x, want the alert % x alone", o.seen, alert)
	}
	if !errors.Is(Explain(o.clientErr), ErrNoCommonKey) {
		t.Errorf("what the client is told: %v", Explain(o.clientErr))
	}
	if o.serverErr == nil || len(o.server.PeerCertificates) > 0 {
		t.Errorf("server: %v", o.serverErr)
	}
	// A client that names no key at all, as any scanner.
	scanner := x.ClientTLS("")
	scanner.NextProtos = nil
	o = meet(t, sa.ServerTLS(), scanner)
	if len(o.seen) != 7 || o.seen[0] != 21 || !errors.Is(o.serverErr, ErrNoCommonKey) {
		t.Errorf("a scanner got % x; server: %v", o.seen, o.serverErr)
	}
	for _, err := range []error{nil, errors.New("x"), &net.OpError{Op: "remote error"}, &net.OpError{Op: "remote error", Err: errors.New("x")}} {
		if Explain(err) != err {
			t.Errorf("Explain changes %v", err)
		}
	}
}

// Every stage of a rotation meets every other, but for the two ends.
func TestRotationCutsNobodyOff(t *testing.T) {
	a, b := testKey(1), testKey(2)
	before := NewKeyring(a)
	added := must(before.Add(b, 10))
	used := must(added.Use(b.ID(), 20))
	after := must(used.Remove(a.ID(), 30))
	stages := []Keyring{before, added, used, after}
	for i, s := range stages {
		for j, c := range stages {
			server, client := testCredentials(t, "sa-1", s), testCredentials(t, "us-1", c)
			o := meet(t, server.ServerTLS(), client.ClientTLS("sa-1"))
			if i+j == 3 && i*j == 0 {
				if o.serverErr == nil || !errors.Is(Explain(o.clientErr), ErrNoCommonKey) {
					t.Errorf("server at stage %d, client at %d: no common key, yet %v, %v", i, j, o.serverErr, o.clientErr)
				}
				continue
			}
			if o.serverErr != nil || o.clientErr != nil {
				t.Errorf("server at stage %d, client at %d: %v, %v", i, j, o.serverErr, o.clientErr)
				continue
			}
			want := s.Primary()
			if _, ok := c.Key(want.ID()); !ok {
				want = map[Key]Key{a: b, b: a}[want]
			}
			if p, err := PeerOf(o.client); err != nil || p.ClusterKey != want.ID() {
				t.Errorf("server at stage %d, client at %d: %+v, %v, want the server's choice %v", i, j, p, err, want)
			}
		}
	}
}

func TestSetKeyringActsOnTheNextHandshake(t *testing.T) {
	a, b := testKey(1), testKey(2)
	sa, us := testCredentials(t, "sa-1", NewKeyring(a)), testCredentials(t, "us-1", NewKeyring(b))
	server := sa.ServerTLS() // made once, before the change
	if o := meet(t, server, us.ClientTLS("")); o.clientErr == nil {
		t.Fatal("met without a common key")
	}
	first := sa.current.Load().issued[0]
	if err := sa.SetKeyring(must(sa.Keyring().Add(b, 5))); err != nil {
		t.Fatal(err)
	}
	if o := meet(t, server, us.ClientTLS("")); o.serverErr != nil || o.clientErr != nil {
		t.Error(o.serverErr, o.clientErr)
	}
	if sa.current.Load().issued[0] != first {
		t.Error("the certificate of a key that stayed was made again")
	}
	if err := sa.SetKeyring(Keyring{}); err == nil || sa.Keyring().Empty() {
		t.Errorf("an empty keyring was taken (%v)", err)
	}
	if _, err := NewCredentials("sa\n1", testNode(1), NewKeyring(a)); err == nil {
		t.Error("an unprintable node id was taken")
	}
}

// In a bubble it is the year 2000: no certificate here is valid yet.
func TestWrongClockLocksNobodyOut(t *testing.T) {
	sa, us := testCredentials(t, "sa-1", NewKeyring(testKey(1))), testCredentials(t, "us-1", NewKeyring(testKey(1)))
	synctest.Test(t, func(t *testing.T) {
		leaf := sa.current.Load().issued[0]
		_, err := leaf.cert.Leaf.Verify(x509.VerifyOptions{Roots: leaf.roots, CurrentTime: time.Now()})
		if err == nil {
			t.Fatal("the bubble's clock is not wrong")
		}
		near, far := net.Pipe()
		server, client := tls.Server(far, sa.ServerTLS()), tls.Client(near, us.ClientTLS("sa-1"))
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		if err := client.Handshake(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		near.Close()
		far.Close()
	})
}

func TestHandshakesDuringRotations(t *testing.T) {
	a := NewKeyring(testKey(1))
	sa, us := testCredentials(t, "sa-1", a), testCredentials(t, "us-1", a)
	server := sa.ServerTLS()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 15 {
				if o := meet(t, server, us.ClientTLS("sa-1")); o.serverErr != nil || o.clientErr != nil {
					t.Error(w, o.serverErr, o.clientErr)
				}
			}
		})
	}
	for _, c := range []*Credentials{sa, us} {
		wg.Go(func() {
			for i := range 100 {
				// Key 1 is accepted throughout; the rest comes and goes.
				next := must(must(a.Add(testKey(2+i%3), 5)).Use(testKey(2+i%3).ID(), 6))
				if err := c.SetKeyring(next); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkHandshake(b *testing.B) {
	for _, keys := range []int{1, 2, MaxLive} {
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			ring := NewKeyring(testKey(0))
			for i := 1; i < keys; i++ {
				ring = must(ring.Add(testKey(i), 0))
			}
			sa, us := testCredentials(b, "sa-1", ring), testCredentials(b, "us-1", ring)
			server := sa.ServerTLS()
			b.ReportAllocs()
			for b.Loop() {
				if o := meet(b, server, us.ClientTLS("sa-1")); o.serverErr != nil || o.clientErr != nil {
					b.Fatal(o.serverErr, o.clientErr)
				}
			}
		})
	}
}

func BenchmarkSetKeyring(b *testing.B) {
	one, two := NewKeyring(testKey(1)), NewKeyring(testKey(2))
	c := testCredentials(b, "sa-1", one)
	for b.Loop() {
		if err := errors.Join(c.SetKeyring(two), c.SetKeyring(one)); err != nil {
			b.Fatal(err)
		}
	}
}
