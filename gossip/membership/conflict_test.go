package membership_test

import (
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

func nonce(s string) map[string]string { return map[string]string{membership.NonceTag: s} }

// Two nodes of one name that meet both learn of it.
func TestTwinsMeet(t *testing.T) {
	one := start(t, membership.Config{Node: "twin", Timing: quick, Tags: nonce("one")})
	two := start(t, membership.Config{Node: "twin", Timing: quick, Tags: nonce("two"), Join: []string{one.Addr().String()}})
	for n, other := range map[*node]*node{one: two, two: one} {
		select {
		case c := <-n.Conflicts():
			if c.Name != "twin" || c.Addr != other.Addr() || c.Tags[membership.NonceTag] != other.member("twin").Tags[membership.NonceTag] {
				t.Errorf("told of %+v, the other is at %s", c, other.Addr())
			}
		case <-time.After(patience):
			t.Error("not told")
		}
	}
}

// With friends in common only, the one that comes later learns of it, and the
// mesh stays with the first.
func TestTwinComesLate(t *testing.T) {
	bubble(t, memnet.Config{Latency: 40 * time.Millisecond, Loss: 0.02, Seed: 9}, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 4, membership.Timing{})
		late := start(t, membership.Config{Node: "n03", Transport: net.Host("10.9.9.9").Transport(7946), Tags: nonce("late"), Join: []string{host(0) + ":7946"}})
		begin := time.Now()
		select {
		case c := <-late.Conflicts():
			t.Logf("told after %v", time.Since(begin))
			if c.Addr != nodes[3].Addr() {
				t.Errorf("told of %+v", c)
			}
		case <-time.After(10 * time.Second):
			t.Error("not told")
		}
		time.Sleep(time.Minute)
		if m := nodes[0].member("n03"); m.Addr != nodes[3].Addr() || m.Status != "alive" {
			t.Errorf("the mesh follows the newcomer: %+v", m)
		}
	})
}

// A node that was killed and begins anew elsewhere is nobody's twin, and the
// mesh learns its new address.
func TestMoved(t *testing.T) {
	bubble(t, world, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 5, membership.Timing{})
		nodes[4].stop()
		moved := start(t, membership.Config{Node: "n04", Transport: net.Host("10.9.9.9").Transport(7946), Tags: nonce("new"), Join: []string{host(0) + ":7946"}})
		begin := time.Now()
		for _, n := range nodes[:4] {
			eventually(t, n.name+" has the new address", 30*time.Second, func() bool { return n.member("n04").Addr == moved.Addr() })
		}
		t.Logf("new address known everywhere after %v", time.Since(begin))
		time.Sleep(time.Minute)
		for _, n := range append(nodes[:4:4], moved) {
			if got := n.sees(); got != "n00=alive n01=alive n02=alive n03=alive n04=alive" {
				t.Errorf("%s sees %s", n.name, got)
			}
			select {
			case c := <-n.Conflicts():
				t.Errorf("%s tells of %+v", n.name, c)
			default:
			}
		}
	})
}

// Restarted on the same address before anybody noticed, with another nonce.
func TestRestartIsNoConflict(t *testing.T) {
	bubble(t, world, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 3, membership.Timing{})
		for i := range 3 {
			nodes[2].stop()
			nodes[2] = start(t, membership.Config{Node: "n02", Transport: net.Host(host(2)).Transport(7946), Tags: nonce(string(rune('a' + i))), Join: []string{host(0) + ":7946"}})
			nodes[2].untilWithin(t, 10*time.Second, "n00=alive n01=alive n02=alive")
			time.Sleep(time.Second)
		}
		time.Sleep(5 * time.Minute)
		for _, n := range nodes {
			if len(n.Conflicts()) != 0 {
				t.Errorf("%s tells of %+v", n.name, <-n.Conflicts())
			}
			if got := n.member("n02").Tags[membership.NonceTag]; got != "c" {
				t.Errorf("%s has nonce %q", n.name, got)
			}
		}
	})
}
