package clustertests

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network is a bridge with a network namespace for each of some POPs, and one
// for itself, where the rules of this machine's firewall do not count. We
// reach all of them, whatever is cut between them.
//
//	here ----- bridge ----- POP 0
//	             +--------- POP 1 ...
type network struct {
	name   string // of our end
	subnet string // first three bytes
	spaces []string
}

// ip is iproute2.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// newNetwork makes one of n namespaces, and removes it when the test ends. It
// needs root.
func newNetwork(t testing.TB, n int) *network {
	t.Helper()
	// The kernel takes its time with a namespace that is removed: our end and the subnet are another network's too.
	pid, run := os.Getpid(), int(spaceRuns.Add(1))
	net := &network{name: fmt.Sprintf("ep%d.%d", pid%100000, run), subnet: fmt.Sprintf("10.%d.%d", 100+pid%100, (pid/100+run)%250)}
	must := func(args ...string) {
		t.Helper()
		if err := ip(args...); err != nil {
			t.Fatalf("EDGEPROXY_TEST=netns needs root, iproute2 and nftables: %v", err)
		}
	}
	hub := fmt.Sprintf("ep%d-hub", pid)
	made := func(space string) {
		t.Helper()
		must("netns", "add", space)
		t.Cleanup(func() { // its links go with it, and the other ends with those
			if err := ip("netns", "del", space); err != nil {
				t.Error(err)
			}
		})
		must("-n", space, "link", "set", "lo", "up")
	}
	// plug makes a cable from a namespace to the bridge.
	plug := func(port string, end ...string) {
		t.Helper()
		must(append([]string{"link", "add", port, "netns", hub, "type", "veth", "peer", "name"}, end...)...)
		must("-n", hub, "link", "set", port, "master", "bridge", "up")
	}
	made(hub)
	must("-n", hub, "link", "add", "bridge", "type", "bridge")
	must("-n", hub, "link", "set", "bridge", "up")
	plug("here", net.name)
	must("addr", "add", net.here()+"/24", "dev", net.name)
	must("link", "set", net.name, "up")
	for i := range n {
		space := fmt.Sprintf("ep%d-%d", pid, 100*run+i)
		made(space)
		net.spaces = append(net.spaces, space)
		plug(fmt.Sprintf("pop%d", i), "eth0", "netns", space)
		must("-n", space, "addr", "add", net.addr(i)+"/24", "dev", "eth0")
		must("-n", space, "link", "set", "eth0", "up")
	}
	return net
}

func (n *network) here() string      { return n.subnet + ".254" }
func (n *network) addr(i int) string { return fmt.Sprintf("%s.%d", n.subnet, i+1) }

// nft runs a script of nftables in a namespace.
func (n *network) nft(t testing.TB, i int, script string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", n.spaces[i], "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s\n%s", err, out, script)
	}
}

// cut drops, without a word, whatever goes between two groups.
func (n *network) cut(t testing.TB, left, right []int) {
	t.Helper()
	drop := func(at, from []int) {
		var addrs []string
		for _, i := range from {
			addrs = append(addrs, n.addr(i))
		}
		for _, i := range at {
			n.nft(t, i, "table inet cut {\n chain in {\n type filter hook input priority 0\n ip saddr { "+strings.Join(addrs, ", ")+" } drop\n }\n}\n")
		}
	}
	drop(left, right)
	drop(right, left)
}

// heal ends all cuts.
func (n *network) heal(t testing.TB) {
	t.Helper()
	for i := range n.spaces {
		n.nft(t, i, "table inet cut\ndelete table inet cut\n")
	}
}

// newNetMesh is newMesh with each POP in a namespace of its own.
func newNetMesh(t testing.TB, n int, env ...string) (*mesh, *network) {
	t.Helper()
	net := newNetwork(t, n)
	m := planMesh(t, n, env...)
	for i, p := range m.pops {
		p.netns, p.token = net.spaces[i], newKey()
		for name, port := range map[string]string{"LISTEN": "8080", "API": "8180", "GOSSIP": "7946", "SYNC": "7947"} {
			p.set("EDGEPROXY_"+name+"_ADDR", net.addr(i)+":"+port)
		}
		p.set("EDGEPROXY_API_TOKEN", p.token)
		if i > 0 {
			p.set("EDGEPROXY_JOIN", net.addr(0))
		}
	}
	m.start(t)
	return m, net
}
