package clustertests

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// wgNet is a mesh of POPs with an overlay, and plain devices, each in a
// network namespace of its own. Their interfaces are all wg0: every namespace
// has its own /var/run/wireguard, which stays when a process in it ends.
//
//	here ----- bridge ----- eth0 POP 0      wg0 10.50.…
//	             +--------- eth0 POP 1      wg0
//	             +--------- eth0 device 0   wg0 (wireguard-go, told by wg)
//
// The underlay is IPv4 in 10.1xx; the overlay is 10.50.0.0/16 and a ULA.
type wgNet struct {
	*network
	*mesh
	t       testing.TB
	mode    string
	uapi    []string   // what stands at /var/run/wireguard, by namespace
	under   [][]string // what a POP runs under
	plains  []*plain
	devices int // namespaces that are left for plain devices
}

// wgPort is where all listen for packets of the overlay, each at its own address.
const wgPort = 51820

// canWG says what is missing, in a sentence.
func canWG() error {
	err := canSpaces()
	for program, pkg := range map[string]string{"wg": "wireguard-tools", "wg-quick": "wireguard-tools", "wireguard-go": "wireguard-go", "nft": "nftables", "ping": "iputils-ping"} {
		if _, missing := exec.LookPath(program); missing != nil {
			err = errors.Join(err, fmt.Errorf("EDGEPROXY_TEST=netns needs %s: apt-get install %s", program, pkg))
		}
	}
	return err
}

// eachMode runs a test with the overlay on a TUN device, and in user space.
func eachMode(t *testing.T, do func(t *testing.T, mode string)) {
	needs(t, "netns")
	modes := []string{"tun", "netstack"}
	if hasKernelWG() {
		modes = append(modes, "kernel")
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) { do(t, mode) })
	}
}

// hasKernelWG says whether this machine's kernel has WireGuard.
var hasKernelWG = sync.OnceValue(func() bool {
	name := fmt.Sprintf("ep%d", os.Getpid())
	if exec.Command("ip", "link", "add", name, "type", "wireguard").Run() != nil {
		return false
	}
	return exec.Command("ip", "link", "del", name).Run() == nil
})

// planWG makes one POP for each region and namespaces for some devices. It starts nothing.
func planWG(t testing.TB, mode string, regions []string, devices int, env ...string) *wgNet {
	t.Helper()
	needs(t, "netns")
	if err := canWG(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/var/run/wireguard", 0o755); err != nil {
		t.Fatal(err)
	}
	n := &wgNet{t: t, mode: mode, devices: devices, network: newNetwork(t, len(regions)+devices)}
	n.mesh = planMesh(t, len(regions), append([]string{"EDGEPROXY_WG=" + mode, "EDGEPROXY_DRAIN_SECS=1"}, env...)...)
	n.under = make([][]string, len(regions))
	for range n.spaces {
		n.uapi = append(n.uapi, t.TempDir())
	}
	for i, p := range n.pops {
		n.place(i, p, regions)
	}
	return n
}

func (n *wgNet) place(i int, p *pop, regions []string) {
	p.netns, p.token = n.spaces[i], newKey()
	p.Node = "pop-" + regions[i]
	if k := len(slices.DeleteFunc(slices.Clone(regions[:i]), func(r string) bool { return r != regions[i] })); k > 0 {
		p.Node += strconv.Itoa(k + 1)
	}
	p.set("EDGEPROXY_NODE_ID", p.Node)
	p.set("EDGEPROXY_REGION", regions[i])
	p.set("EDGEPROXY_API_TOKEN", p.token)
	for name, port := range map[string]string{"LISTEN": "8080", "API": "8180", "GOSSIP": "7946", "SYNC": "7947"} {
		p.set("EDGEPROXY_"+name+"_ADDR", n.addr(i)+":"+port)
	}
	if i > 0 {
		p.set("EDGEPROXY_JOIN", n.addr(0))
	}
	p.wrap = func(cmd *exec.Cmd) { // which is "ip netns exec SPACE edgeproxy …"
		cmd.Args = n.inside(i, append(slices.Clone(n.under[i]), cmd.Args[4:]...)...)
	}
}

// startWG is planWG whose POPs run, and have addresses in the overlay.
func startWG(t testing.TB, mode string, regions []string, devices int, env ...string) *wgNet {
	t.Helper()
	n := planWG(t, mode, regions, devices, env...)
	n.up(t)
	return n
}

func (n *wgNet) up(t testing.TB) {
	t.Helper()
	defer n.tell()
	n.start(t)
	everywhere(t, "SELECT count(*) FROM wg_pops WHERE public_key<>''", strconv.Itoa(len(n.pops)), n.pops...)
	for _, p := range n.pops {
		p.overlay(t)
		if s, err := p.wgCLI(); err != nil || s.Error != "" || s.Mode != n.mode {
			t.Fatalf("%s: mode %q, error %q, %v", p.Node, s.Mode, s.Error, err)
		}
	}
}

// tell prints a line of state per POP and device where the test has failed.
// It comes by defer, while there is still something to be seen.
func (n *wgNet) tell() {
	if !n.t.Failed() {
		return
	}
	text := states(n.pops...) + wgStates(n.pops...)
	for _, d := range n.plains {
		dump, err := d.dump()
		text += fmt.Sprintf("\n%s at %s:%d: %+v %v", d.name, d.host(), d.port, dump, err)
	}
	n.t.Log(text)
}

// inside is a command that becomes args in a namespace, with its process id.
func (n *wgNet) inside(i int, args ...string) []string {
	return append([]string{"ip", "netns", "exec", n.spaces[i], "sh", "-c", `mount --bind "$0" /var/run/wireguard && exec "$@"`, n.uapi[i]}, args...)
}

// in runs a command in a namespace.
func (n *wgNet) in(i int, args ...string) (string, error) { return n.feed(i, "", args...) }

// feed is in with something to read.
func (n *wgNet) feed(i int, stdin string, args ...string) (string, error) {
	return tool(20*time.Second, stdin, n.inside(i, args...)...)
}

// must is in that must succeed.
func (n *wgNet) must(t testing.TB, i int, args ...string) string {
	t.Helper()
	out, err := n.in(i, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pings is nil where an answer comes back.
func (n *wgNet) pings(i int, to netip.Addr) error {
	_, err := n.in(i, "ping", "-n", "-c1", "-W1", to.String())
	return err
}

// listenIn makes a listener in a namespace. It stays there.
func listenIn(space, addr string) (net.Listener, error) {
	runtime.LockOSThread()
	back, err := enter("/proc/thread-self/ns/net", "/var/run/netns/"+space)
	if err != nil {
		return nil, err // with this thread, which ends with its goroutine
	}
	defer runtime.UnlockOSThread()
	defer back()
	return net.Listen("tcp", addr)
}

// backendAt runs a backend in a namespace, at an address that is there, and
// adds its row.
func (n *wgNet) backendAt(t testing.TB, i int, id string, addr netip.Addr) *backend {
	t.Helper()
	ln, err := listenIn(n.spaces[i], netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatalf("listen at %s in the namespace of %s: %v", addr, id, err)
	}
	b := serveBackend(t, id, "sa", ln)
	if err := n.pops[0].write(insert(b.row())); err != nil {
		t.Fatal(err)
	}
	return b
}

// dumpPeer is a line of "wg show wg0 dump" on a peer.
type dumpPeer struct {
	endpoint  string
	allowed   []string // sorted
	handshake int64    // Unix time; 0: none
	received  int64
	sent      int64
}

// dump asks the interface in a namespace; peers are by public key.
func (n *wgNet) dump(i int) (public string, peers map[string]dumpPeer, err error) {
	out, err := n.in(i, "wg", "show", "wg0", "dump")
	if err != nil {
		return "", nil, err
	}
	lines := strings.Split(out, "\n")
	if own := strings.Split(lines[0], "\t"); len(own) == 4 {
		public = own[1]
	}
	peers = map[string]dumpPeer{}
	for _, line := range lines[1:] {
		f := strings.Split(line, "\t") // key, preshared key, endpoint, allowed ips, handshake, received, sent, keepalive
		if len(f) != 8 {
			return "", nil, fmt.Errorf("wg show wg0 dump: strange line %q", line)
		}
		p := dumpPeer{endpoint: f[2]}
		if f[3] != "(none)" {
			p.allowed = strings.Split(f[3], ",")
		}
		slices.Sort(p.allowed)
		for k, into := range map[int]*int64{4: &p.handshake, 5: &p.received, 6: &p.sent} {
			if *into, err = strconv.ParseInt(f[k], 10, 64); err != nil {
				return "", nil, err
			}
		}
		peers[f[0]] = p
	}
	return public, peers, nil
}

// dialsOnly lets a namespace send packets of WireGuard and hear what answers
// them, and nothing else: as behind a NAT, which forgets after 27 s.
func (n *wgNet) dialsOnly(t testing.TB, i int) {
	t.Helper()
	n.nft(t, i, "table inet nat {\n counter refused {}\n chain in {\n type filter hook input priority 0\n iifname \"eth0\" udp dport 51820 ct state new counter name refused drop\n }\n}\n")
	for _, name := range []string{"nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"} {
		n.must(t, i, "sh", "-c", "echo 27 > /proc/sys/net/netfilter/"+name)
	}
}

// watch counts what a namespace sends to WireGuard, and whatever comes to it from the underlay.
func (n *wgNet) watch(t testing.TB, i int) {
	t.Helper()
	n.nft(t, i, fmt.Sprintf(`table inet watch {
 counter said {}
 counter heard {}
 chain in { type filter hook prerouting priority -300
  iifname "eth0" ip saddr %s.0/24 counter name heard
 }
 chain out { type filter hook output priority 0
  udp dport %d counter name said
 }
}
`, n.subnet, wgPort))
}

// counted are the packets that a counter of a table has seen in a namespace.
func (n *wgNet) counted(t testing.TB, i int, table, counter string) int {
	t.Helper()
	out := n.must(t, i, "nft", "list", "counter", "inet", table, counter)
	_, rest, _ := strings.Cut(out, "packets ")
	number, _, _ := strings.Cut(rest, " ")
	packets, err := strconv.Atoi(number)
	if err != nil {
		t.Fatalf("nft: %q: %v", out, err)
	}
	return packets
}
