package gossip

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

func TestContest(t *testing.T) {
	old := func(nonce, dialer string) *claim { return &claim{nonce: nonce, dialer: dialer} }
	for _, c := range []struct {
		why  string
		old  *claim
		new  claim
		want verdict
	}{
		{"first", nil, claim{"n", "b"}, enters},
		{"both dialed, the smaller's comes second", old("n", "b"), claim{"n", "a"}, replaces},
		{"both dialed, the smaller's came first", old("n", "a"), claim{"n", "b"}, probes},
		{"the smaller dials again", old("n", "a"), claim{"n", "a"}, replaces},
		{"the larger dials again", old("n", "b"), claim{"n", "b"}, replaces},
		{"another life, whoever dials", old("n", "b"), claim{"o", "a"}, probes},
		{"another life, the same side", old("n", "a"), claim{"o", "a"}, probes},
	} {
		if got := contest(c.old, c.new, "a"); got != c.want {
			t.Errorf("%s: %v, want %v", c.why, got, c.want)
		}
	}
}

// TestBothDial: POPs that dial each other at the same moment end with one
// stream, the smaller id's, and stay with it.
func TestBothDial(t *testing.T) {
	bubble(t, memnet.Config{Latency: region, Jitter: 10 * time.Millisecond}, "a b", nil, func(t *testing.T, l *lab) {
		a, b := l.pops["a"], l.pops["b"]
		a.start()
		b.start()
		var race sync.WaitGroup // b does not wait for its turn
		race.Go(func() {
			b.mesh.mu.Lock()
			p := b.mesh.peerLocked("a")
			b.mesh.mu.Unlock()
			s, err := b.mesh.dialPeer(t.Context(), p, a.ip+":7947")
			if err == nil {
				_ = s.run(t.Context())
			}
		})
		l.within(time.Second, "connected", func() bool { return l.connected() == 2 })
		time.Sleep(3 * time.Second)
		first := a.mesh.streams()[0]
		if !first.dialed || first.claim.dialer != "a" || b.mesh.streams()[0].dialed {
			t.Error("the smaller id's stream is not the one that stays")
		}
		time.Sleep(time.Minute)
		if a.mesh.streams()[0] != first {
			t.Error("the stream was replaced")
		}
		race.Wait()
		if len(a.clashes)+len(b.clashes) > 0 {
			t.Errorf("conflicts %v %v", a.clashes, b.clashes)
		}
	})
}

// TestLargerDials: where the smaller id cannot reach the larger, that dials.
func TestLargerDials(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", nil, func(t *testing.T, l *lab) {
		l.pops["a"].start()
		l.pops["b"].start()
		l.pops["a"].mesh.SetPeers([]Peer{{Node: "b", Addr: "10.0.0.99:7947"}})
		l.pops["a"].mesh.SetPeers(nil)
		took := l.within(20*time.Second, "connected", func() bool { return l.connected() == 2 })
		t.Logf("after %v", took)
	})
}

// TestHalfDeadStream: a sees its old stream stall while b, in a new life,
// dials it anew.
func TestHalfDeadStream(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b", func(c *Config) { c.Dead = time.Hour; c.Ping = time.Minute }, func(t *testing.T, l *lab) {
		l.startAll()
		a, b := l.pops["a"], l.pops["b"]
		l.net.Cut(a.ip, b.ip)
		b.stop() // a hears nothing of it
		b.ip = "10.0.0.77"
		b.cfg.Dial = l.net.Host(b.ip).Dial
		b.start()
		l.within(10*time.Second, "connected anew", func() bool {
			return b.mesh.Peers()[0].Connected
		})
		if len(a.clashes) > 0 {
			t.Errorf("conflicts %v: the old life is over", a.clashes)
		}
	})
}

// TestOneIDTwice: the second of two live nodes with one id is refused by
// everybody, and learns why.
func TestOneIDTwice(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.startAll()
		a, b := l.pops["a"], l.pops["b"]
		copied := &pop{lab: l, name: "b", ip: "10.0.0.50", store: newMemStore("b"), cfg: b.cfg, life: 100}
		copied.cfg.Dial = l.net.Host(copied.ip).Dial
		copied.cfg.Conflict = func(c Conflict) {
			copied.mu.Lock()
			defer copied.mu.Unlock()
			copied.clashes = append(copied.clashes, c)
		}
		copied.start()
		defer copied.stop()
		clash := func(p *pop) bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			return slices.ContainsFunc(p.clashes, func(c Conflict) bool { return c.Node == "b" })
		}
		l.within(20*time.Second, "told", func() bool { return clash(copied) && clash(a) })
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.clashes) == 0 || a.clashes[0].Node != "b" || !strings.HasPrefix(a.clashes[0].Addr, copied.ip) {
			t.Errorf("a says %v", a.clashes)
		}
		if !b.mesh.Peers()[0].Connected {
			t.Error("the first b lost its place")
		}
		// Somebody with our own id dials us.
		conn, err := l.net.Host(copied.ip).Dial(t.Context(), b.ip+":7947")
		if err != nil {
			t.Fatal(err)
		}
		s, err := copied.mesh.greet(t.Context(), tlsClient(conn, copied, "b"), b.ip, true)
		if s != nil || !errors.Is(err, errConflict) {
			t.Errorf("b let itself in: %v", err)
		}
		_ = conn.Close()
	})
}

func TestStrangersAreRefused(t *testing.T) {
	other := credentials(t, "c", clusterKey(t, "Q"))
	bubble(t, memnet.Config{Latency: region}, "a b c", func(c *Config) {
		switch c.Node {
		case "c":
			c.Credentials = other
		case "a":
			c.Admit = func(h Hello) error {
				if h.Node == "b" && h.Nonce == "b life 2" && len(h.Key) == 32 {
					return errors.New("node b had another key: edgeproxy members forget b")
				}
				return nil
			}
		}
	}, func(t *testing.T, l *lab) {
		for _, name := range l.names {
			l.pops[name].start()
		}
		a, b, c := l.pops["a"], l.pops["b"], l.pops["c"]
		l.within(time.Second, "connected", func() bool { return l.connected() == 2 })
		time.Sleep(20 * time.Second)
		for _, st := range c.mesh.Peers() {
			if st.Connected || !strings.Contains(st.Err, identity.ErrNoCommonKey.Error()) {
				t.Errorf("c, without the key: %+v", st)
			}
		}
		if s := a.mesh.Stats(); s.HandshakesRefused == 0 {
			t.Errorf("nobody was refused: %+v", s)
		}
		b.stop()
		b.start()
		time.Sleep(10 * time.Second)
		if st := b.mesh.Peers()[0]; st.Connected || !strings.Contains(st.Err, "members forget b") {
			t.Errorf("b, pinned: %+v", st)
		}
	})
}

// ring is a POP's keyring as node keeps it.
func ring(c *Config) {
	creds := c.Credentials
	c.Keyring = func() []byte { return creds.Keyring().Encode() }
	c.MergeKeyring = func(document []byte) error {
		theirs, err := identity.DecodeKeyring(document)
		if err != nil {
			return err
		}
		return creds.SetKeyring(creds.Keyring().Merge(theirs))
	}
}

// TestKeyRotation: a key is added, used and the old one removed on one POP;
// all follow without a stream being cut, and a POP that was away meets them
// while both hold.
func TestKeyRotation(t *testing.T) {
	next := clusterKey(t, "Q")
	bubble(t, memnet.Config{Latency: region}, "a b c", ring, func(t *testing.T, l *lab) {
		l.startAll()
		a, c := l.pops["a"], l.pops["c"]
		stream := a.mesh.streams()[0]
		now := int64(1 << 40)
		step := func(change func(r identity.Keyring) (identity.Keyring, error)) {
			t.Helper()
			now++
			r, err := change(a.cfg.Credentials.Keyring())
			if err != nil {
				t.Fatal(err)
			}
			if err := a.cfg.Credentials.SetKeyring(r); err != nil {
				t.Fatal(err)
			}
			a.mesh.KeyringChanged()
		}
		same := func(names ...string) func() bool {
			return func() bool {
				for _, name := range names {
					if !l.pops[name].cfg.Credentials.Keyring().Equal(a.cfg.Credentials.Keyring()) {
						return false
					}
				}
				return true
			}
		}
		old := a.cfg.Credentials.Keyring().Primary().ID()
		c.stop()
		step(func(r identity.Keyring) (identity.Keyring, error) { return r.Add(next, now) })
		step(func(r identity.Keyring) (identity.Keyring, error) { return r.Use(next.ID(), now) })
		l.within(time.Second, "known to b", same("b"))
		c.start() // with the old key alone
		l.within(10*time.Second, "known to c", same("c"))
		step(func(r identity.Keyring) (identity.Keyring, error) { return r.Remove(old, now) })
		l.within(time.Second, "removed everywhere", same("b", "c"))
		if a.mesh.streams()[0] != stream {
			t.Error("a stream was cut")
		}
		l.pops["b"].stop()
		l.pops["b"].start()
		l.within(10*time.Second, "connected under the new key", func() bool { return l.connected() == 6 })
	})
}

func TestMeshTime(t *testing.T) {
	offsets := map[string]time.Duration{"a": 0, "b": 10 * time.Second, "c": 11 * time.Second, "d": -time.Hour}
	bubble(t, memnet.Config{Latency: region, Jitter: 5 * time.Millisecond}, "a b c d", func(c *Config) {
		off := offsets[c.Node]
		c.Now = func() time.Time { return time.Now().Add(off) }
	}, func(t *testing.T, l *lab) {
		l.startAll()
		time.Sleep(20 * time.Second)
		for _, p := range l.pops { // of -1 h, 0, 10 s, 11 s the lower median is a's
			want := -offsets[p.name]
			if got := p.mesh.Offset(); (got - want).Abs() > 10*time.Millisecond {
				t.Errorf("%s: mesh time is %v from its clock, want %v", p.name, got, want)
			}
		}
		for _, st := range l.pops["a"].mesh.Peers() {
			if (st.Offset-offsets[st.Node]).Abs() > 10*time.Millisecond || st.RTT < 2*region || st.RTT > 2*region+20*time.Millisecond {
				t.Errorf("a sees %+v", st)
			}
		}
	})
}

func TestPeersLeave(t *testing.T) {
	bubble(t, memnet.Config{Latency: region}, "a b c", nil, func(t *testing.T, l *lab) {
		l.startAll()
		for _, name := range []string{"a", "b"} {
			l.pops[name].mesh.SetPeers(l.roster()[:2])
		}
		l.pops["c"].mesh.SetPeers(nil)
		time.Sleep(25 * time.Second)
		if l.connected() != 6 {
			t.Error("disconnected at once")
		}
		l.within(10*time.Second, "let go", func() bool { return l.connected() == 2 })
		if n := len(l.pops["a"].mesh.Peers()); n != 1 {
			t.Errorf("a remembers %d peers", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.pops["a"].mesh.Run(ctx); err == nil {
			t.Error("ran twice")
		}
	})
}
