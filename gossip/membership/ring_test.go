package membership_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/rs/zerolog"
)

// quick is for loopback, so that verdicts do not take a test's patience.
var quick = membership.Timing{
	ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 250 * time.Millisecond, Gossip: 50 * time.Millisecond,
	PushPull: 2 * time.Second, JoinMin: 50 * time.Millisecond, JoinMax: time.Second,
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// trio is a, b and c on loopback, joined.
func trio(t *testing.T, cfg membership.Config) (a, b, c *node) {
	t.Helper()
	cfg.Timing = quick
	one := func(name string, join ...string) *node {
		cfg.Node, cfg.Join = name, join
		cfg.Tags = map[string]string{"region": name + "-land"}
		return start(t, cfg)
	}
	a = one("a")
	b, c = one("b", a.Addr().String()), one("c", a.Addr().String())
	for _, n := range []*node{a, b, c} {
		n.until(t, "a=alive b=alive c=alive")
	}
	return a, b, c
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, membership.Config{})
	m := a.member("b")
	if m.Addr != b.Addr() || !maps.Equal(m.Tags, map[string]string{"region": "b-land"}) || m.Self {
		t.Errorf("a sees b as %+v", m)
	}
	if !a.member("a").Self || a.member("a").HasRTT {
		t.Errorf("a sees itself as %+v", a.member("a"))
	}
	if a.Addr().Port() == 0 || a.Advertised() != a.Addr() {
		t.Errorf("bound to %s, advertised %s", a.Addr(), a.Advertised())
	}
	eventually(t, "b knows a round trip to a", patience, func() bool { return b.member("a").HasRTT })

	if err := b.SetTags(map[string]string{"region": "b2"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c sees b's new tags", patience, func() bool { return c.member("b").Tags["region"] == "b2" })
	if err := b.SetTags(map[string]string{"long": strings.Repeat("x", 600)}); err == nil {
		t.Error("600 bytes of tags fit")
	}

	for name, want := range map[string]error{"nobody": membership.ErrUnknownMember, "b": membership.ErrAlive, "a": membership.ErrAlive} {
		if err := a.Forget(name); !errors.Is(err, want) {
			t.Errorf("forget %s: %v, want %v", name, err, want)
		}
	}

	// b goes politely, c does not.
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.until(t, "a=alive b=left c=alive")
	c.until(t, "a=alive b=left c=alive")
	b.stop()
	if err := b.Leave(t.Context()); !errors.Is(err, membership.ErrNotRunning) {
		t.Errorf("leave after the end: %v", err)
	}
	c.stop()
	t.Logf("c failed after %v", a.until(t, "a=alive b=left c=failed"))

	for _, name := range []string{"b", "c"} {
		if err := a.Forget(name); err != nil {
			t.Error(err)
		}
	}
	a.until(t, "a=alive")
	select {
	case <-a.Changed():
	default:
		t.Error("nobody was told of changes")
	}
}

// What one node forgets, the others forget; what comes back is welcome.
func TestForgetEverywhereAndReturn(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, membership.Config{})
	at := c.Addr()
	c.stop()
	a.until(t, "a=alive b=alive c=failed")
	b.until(t, "a=alive b=alive c=failed")
	if err := b.Forget("c"); err != nil {
		t.Fatal(err)
	}
	a.until(t, "a=alive b=alive")
	b.until(t, "a=alive b=alive")
	start(t, membership.Config{Node: "c", Bind: at, Timing: quick, Join: []string{a.Addr().String()}})
	a.until(t, "a=alive b=alive c=alive")
	b.until(t, "a=alive b=alive c=alive")
}

// Whoever is forgotten and alive, as by serf's own tools or because another
// machine of that name came back in the seconds that a prune takes, stays a
// member of all.
func TestForgottenAlive(t *testing.T) {
	t.Parallel()
	bubble(t, memnet.Config{Seed: 1}, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 4, membership.Timing{})
		if err := nodes[0].Prune("n03"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if nodes[0].log.count("listed again") == 0 {
			t.Error("n03 was not pruned: this tests nothing")
		}
		for _, n := range nodes {
			n.until(t, "n00=alive n01=alive n02=alive n03=alive")
		}
		nodes[3].stop()
		for _, n := range nodes[:3] {
			n.until(t, "n00=alive n01=alive n02=alive n03=failed")
		}
	})
}

// So does a machine that came back to one part of the mesh while its name was
// forgotten in the other.
func TestForgottenElsewhere(t *testing.T) {
	t.Parallel()
	bubble(t, memnet.Config{Seed: 1}, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 5, membership.Timing{})
		nodes[4].stop()
		for _, n := range nodes[:4] {
			n.until(t, "n00=alive n01=alive n02=alive n03=alive n04=failed")
		}
		net.Partition(host(0), host(4))
		for range 2 { // the second is kept for whoever joins
			if err := nodes[1].Prune("n04"); err != nil {
				t.Fatal(err)
			}
		}
		back := start(t, membership.Config{Node: "n04", Transport: net.Host(host(4)).Transport(7946), Join: []string{host(0) + ":7946"}})
		time.Sleep(10 * time.Second)
		net.HealAll()
		eventually(t, "n04 joins", patience, func() bool { return nodes[1].member("n04").Status != "" })
		if got := nodes[1].member("n04").Status; got != membership.StatusLeaving {
			t.Errorf("n01 sees n04 %s: this tests nothing", got)
		}
		for _, n := range append(nodes[:4], back) {
			n.until(t, "n00=alive n01=alive n02=alive n03=alive n04=alive")
		}
	})
}

// A node that left may come back under the same name, and so may one that was
// killed, even where the new process got another port.
func TestReturn(t *testing.T) {
	t.Parallel()
	a, b, c := trio(t, membership.Config{})
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	c.stop()
	for _, name := range []string{"b", "c"} { // c: before anybody knows that it was killed
		n := start(t, membership.Config{Node: name, Timing: quick, Join: []string{a.Addr().String()}, Tags: map[string]string{membership.NonceTag: "new"}})
		eventually(t, name+" is back with its new address", patience, func() bool {
			m := a.member(name)
			return m.Status == "alive" && m.Addr == n.Addr() && m.Tags[membership.NonceTag] == "new"
		})
		n.until(t, a.sees())
		select {
		case x := <-n.Conflicts():
			t.Errorf("%s takes its own past for another node: %v", name, x)
		default:
		}
	}
}

func TestKeyChange(t *testing.T) {
	first, second := key(1), key(2)
	a, b, c := trio(t, membership.Config{Keys: [][]byte{first}})
	nodes := []*node{a, b, c}
	for _, keys := range [][][]byte{{first, second}, {second, first}, {second}} {
		for _, n := range nodes {
			if err := n.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
		}
	}
	// All that is said from now on is said with the second key.
	if err := c.SetTags(map[string]string{"key": "second"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		eventually(t, n.name+" understands the new key", patience, func() bool { return n.member("c").Tags["key"] == "second" })
	}
	late := start(t, membership.Config{Node: "d", Keys: [][]byte{second}, Join: []string{a.Addr().String()}, Timing: quick})
	late.until(t, "a=alive b=alive c=alive d=alive")

	for name, keys := range map[string][][]byte{"short": {key(1)[:16]}, "twice": {first, first}, "none": nil} {
		if err := a.SetKeys(keys); err == nil {
			t.Errorf("SetKeys accepts keys: %s", name)
		}
	}
}

func TestWrongKeyGetsNowhere(t *testing.T) {
	a, _, _ := trio(t, membership.Config{Keys: [][]byte{key(1)}})
	for name, keys := range map[string][][]byte{"thief": {key(9)}, "naked": nil} {
		x := start(t, membership.Config{Node: name, Keys: keys, Join: []string{a.Addr().String()}, Timing: quick})
		eventually(t, name+" says what it waits for", patience, func() bool { return x.Waiting() != "" })
		t.Logf("%s waits: %s", name, x.Waiting())
		eventually(t, "several attempts", patience, func() bool { return a.log.count("failed to receive") >= 3 })
		if x.sees() != name+"=alive" || a.sees() != "a=alive b=alive c=alive" {
			t.Errorf("%s sees %s, a sees %s", name, x.sees(), a.sees())
		}
		x.stop()
	}
	open := start(t, membership.Config{Node: "open", Timing: quick})
	if err := open.SetKeys([][]byte{key(1)}); !errors.Is(err, membership.ErrUnencrypted) {
		t.Errorf("encryption switched on while running: %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, taken := range []string{tcp.Addr().String(), udp.LocalAddr().String()} {
		r, err := membership.New(membership.Config{Node: "a", Bind: netip.MustParseAddrPort(taken)}, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		err = r.Run(t.Context())
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), taken) {
			t.Errorf("%s is taken: %v", taken, err)
		}
		<-r.Started()
		if r.Members() != nil || !errors.Is(r.Leave(t.Context()), membership.ErrNotRunning) {
			t.Error("a ring that could not begin pretends to run")
		}
		if err := r.Run(t.Context()); err == nil {
			t.Error("a ring ran twice")
		}
	}
}

// Leave gives up with its context and Run with its own, at any moment.
func TestEndings(t *testing.T) {
	a, b, c := trio(t, membership.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Leave(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("leave with an ended context: %v", err)
	}
	if err := b.err(); err != nil { // while it still leaves
		t.Error(err)
	}
	a.until(t, "a=alive b=left c=alive")
	if err := c.err(); err != nil {
		t.Error(err)
	}
}

// The address may be any of IPv6 too; where nobody says what to advertise,
// something that others can dial is found.
func TestAddresses(t *testing.T) {
	any4 := start(t, membership.Config{Node: "any4", Bind: netip.MustParseAddrPort("0.0.0.0:0"), Keys: [][]byte{key(1)}, Timing: quick})
	if a := any4.Advertised(); a.Addr().IsUnspecified() || !a.IsValid() || a.Port() != any4.Addr().Port() {
		t.Errorf("bound to %s it advertises %s", any4.Addr(), a)
	}
	six := start(t, membership.Config{Node: "six", Bind: netip.MustParseAddrPort("[::1]:0"), Timing: quick})
	other := start(t, membership.Config{Node: "other", Bind: netip.MustParseAddrPort("[::1]:0"), Timing: quick, Join: []string{six.Addr().String()}})
	other.until(t, "other=alive six=alive")
	given := start(t, membership.Config{Node: "given", Advertise: netip.MustParseAddrPort("127.0.0.9:0"), Timing: quick})
	if want := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.9"), given.Addr().Port()); given.Advertised() != want {
		t.Errorf("advertises %s, want %s", given.Advertised(), want)
	}
}
