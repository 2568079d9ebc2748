package clustertests

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestOverlayNetBadStart: what an overlay cannot be made of costs the overlay
// alone. Clients are served, and the POP says what is wrong and what to do.
func TestOverlayNetBadStart(t *testing.T) {
	needs(t, "netns")
	key, err := tool(soon, "", "wg", "genkey")
	if err != nil {
		t.Fatal(err)
	}
	keyFile := func(body string, mode os.FileMode) func(testing.TB, *wgNet) {
		return func(t testing.TB, n *wgNet) {
			overwrite(t, n.pops[0].db+".wg", []byte(body))
			if err := os.Chmod(n.pops[0].db+".wg", mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	under := func(args ...string) func(testing.TB, *wgNet) {
		return func(_ testing.TB, n *wgNet) { n.under[0] = args }
	}
	noTUN := under("sh", "-c", `mount -t tmpfs none /dev/net && exec "$@"`, "sh")
	noAdmin := under("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
	port := []string{"51820", "wg-port|wg_port|WG_PORT"}
	foreign := []string{"wg0", "wg-interface|wg_interface|WG_INTERFACE"}
	for _, c := range []struct {
		name, mode string
		prepare    func(testing.TB, *wgNet)
		words      []string // of the error, alternatives between |; nil: there is no error, and the mode is netstack
	}{
		{"port taken/tun", "tun", takePort, port},
		{"port taken/netstack", "netstack", takePort, port},
		{"foreign bridge", "tun", foreignLink("ip link add wg0 type bridge && ip addr add 192.0.2.1/24 dev wg0"), foreign},
		{"foreign TUN", "tun", foreignLink("ip tuntap add dev wg0 mode tun && ip addr add 192.0.2.1/24 dev wg0"), foreign},
		{"foreign WireGuard", "tun", foreignWG, foreign},
		{"foreign WireGuard/auto", "auto", foreignWG, foreign}, // another beside it would only hide it
		{"key of all/tun", "tun", keyFile(key+"\n", 0o644), []string{"routing.db.wg", "0600|chmod 600|chmod go="}},
		{"key of all/netstack", "netstack", keyFile(key+"\n", 0o644), []string{"routing.db.wg", "0600|chmod 600|chmod go="}},
		{"key of nothing", "netstack", keyFile("no key\n", 0o600), []string{"routing.db.wg"}},
		{"no TUN", "tun", noTUN, []string{"/dev/net/tun", "netstack|auto|modprobe|mknod"}},
		{"no TUN/auto", "auto", noTUN, nil},
		{"no CAP_NET_ADMIN", "tun", noAdmin, []string{"CAP_NET_ADMIN", "netstack|auto"}},
		{"no CAP_NET_ADMIN/auto", "auto", noAdmin, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := planWG(t, c.mode, []string{"sa"}, 0)
			p := n.pops[0]
			p.seed(t, at("here", "sa", startBackendOn(t, "here", "sa", n.here())))
			c.prepare(t, n)
			before := n.links(t)
			p.start(t)
			defer n.tell()
			p.visit(t, "").alive(t)
			switch {
			case c.words == nil:
				p.overlay(t)
				if s, err := p.wgCLI(); err != nil || s.Error != "" || s.Mode != "netstack" {
					t.Errorf("mode %q, error %q, %v; want netstack and none", s.Mode, s.Error, err)
				}
			case len(c.words) > 0:
				n.complains(t, c.words)
			}
			// On a stack of its own there is a socket for wg(8) while it runs.
			if now := n.links(t); now != before && c.words != nil && !strings.HasSuffix(c.name, "taken/tun") {
				t.Errorf("interfaces were\n%s\nand are\n%s", before, now)
			}
			p.visit(t, "").alive(t)
			p.stop(t)
			if now := n.links(t); now != before {
				t.Errorf("interfaces were\n%s\nand after the end are\n%s", before, now)
			}
		})
	}
}

// complains waits until the overlay's error has all the words; a person reads the same.
func (n *wgNet) complains(t testing.TB, words []string) {
	t.Helper()
	p := n.pops[0]
	eventually(t, soon, func() error {
		s, err := p.wgCLI()
		if err == nil {
			err = mentions(s.Error, words)
		}
		return err
	})
	_, out, errs := p.run(t, "wg", "status")
	if err := mentions(out+errs, words); err != nil {
		t.Errorf("wg status: %v", err)
	}
	p.expectLog(t, strings.Split(words[0], "|")[0])
}

// mentions is nil where a text holds one of the alternatives of each word.
func mentions(text string, words []string) error {
	for _, w := range words {
		found := false
		for alternative := range strings.SplitSeq(w, "|") {
			found = found || strings.Contains(text, alternative)
		}
		if !found {
			return fmt.Errorf("%q does not mention %s", text, w)
		}
	}
	return nil
}

// links are the interfaces of the POP's namespace, and whoever is told of
// them by wg; not a bridge's timers.
func (n *wgNet) links(t testing.TB) string {
	t.Helper()
	text := n.must(t, 0, "sh", "-c", "ip -d link show | sed 's/ [a-z]*_timer *[0-9.]*//g'; ip -o -4 addr show; ls /var/run/wireguard")
	if strings.Contains(text, "wg0.sock") {
		text += n.must(t, 0, "wg", "showconf", "wg0")
	}
	return text
}

// takePort has somebody else at the port, in the POP's namespace.
func takePort(t testing.TB, n *wgNet) {
	t.Helper()
	runtime.LockOSThread()
	back, err := enter("/proc/thread-self/ns/net", "/var/run/netns/"+n.spaces[0])
	if err != nil {
		t.Fatal(err) // with this thread, which ends with its goroutine
	}
	defer runtime.UnlockOSThread()
	defer back()
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: wgPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
}

// foreignLink has a script make an interface.
func foreignLink(script string) func(testing.TB, *wgNet) {
	return func(t testing.TB, n *wgNet) {
		t.Helper()
		n.must(t, 0, "sh", "-c", script)
	}
}

// foreignWG has an operator's own WireGuard at wg0, up, with a peer.
func foreignWG(t testing.TB, n *wgNet) {
	t.Helper()
	d := &plain{wgNet: n, t: t, at: 0, name: "operator", log: &logBuffer{}}
	d.run(t)
	n.must(t, 0, "sh", "-c", `cd /var/run/wireguard && wg genkey >key && wg set wg0 listen-port 51900 private-key key peer "$(wg genkey | wg pubkey)" allowed-ips 192.0.2.2/32 && rm key && ip addr add 192.0.2.1/24 dev wg0 && ip link set wg0 up`)
}

// TestOverlayNetCleanup: a POP that ends leaves nothing in its namespace, and
// one that died comes up again as it was.
func TestOverlayNetCleanup(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n := planWG(t, mode, three, 1)
		before := n.traces(t, 2)
		n.up(t)
		defer n.tell()
		laptop := n.plain(t, "laptop")
		laptop.joins(t, "sa", "--endpoint", laptop.endpoint())
		n.knows(t, "laptop")
		n.backendAt(t, laptop.at, "on-laptop", laptop.four)
		n.only(t, "on-laptop")
		p := n.pops[2]
		was, err := p.wg()
		if err != nil {
			t.Fatal(err)
		}
		now := n.traces(t, 2)
		socket := n.uapi[2] + "/wg0.sock" // for wg(8)
		if mode == "netstack" && strings.TrimPrefix(now, socket) != before || mode != "netstack" && !strings.Contains(now, "wg0") {
			t.Errorf("while it runs the namespace of %s has\n%s\nand before\n%s", p.Node, now, before)
		}
		back := func(how string) {
			t.Helper()
			began := time.Now()
			p.start(t)
			eventually(t, soon, func() error {
				s, err := p.wg()
				if err == nil && (s.PublicKey != was.PublicKey || fmt.Sprint(s.Addresses) != fmt.Sprint(was.Addresses) || s.Error != "") {
					err = fmt.Errorf("after %s it has key %s and addresses %v, error %q; it had %s and %v", how, s.PublicKey, s.Addresses, s.Error, was.PublicKey, was.Addresses)
				}
				return err
			})
			if err := waitFor(soon, func() error { return p.goesTo("", "on-laptop") }); err != nil {
				t.Errorf("after %s: %v", how, err)
			}
			t.Logf("after %s clients are served by the tunnel %s after the start", how, time.Since(began).Round(time.Millisecond))
			n.carries(t, "on-laptop")
		}
		for range 2 {
			p.stop(t)
			if after := n.traces(t, 2); after != before {
				t.Errorf("SIGTERM leaves\n%s\nand there was\n%s", after, before)
			}
			back("SIGTERM")
		}
		for range 2 {
			p.kill(t)
			back("SIGKILL")
		}
		p.stop(t)
		if after := n.traces(t, 2); after != before {
			t.Errorf("SIGTERM after SIGKILL leaves\n%s\nand there was\n%s", after, before)
		}
	})
}

// traces is what an overlay could leave in a namespace.
func (n *wgNet) traces(t testing.TB, i int) string {
	t.Helper()
	sockets, err := filepath.Glob(n.uapi[i] + "/*")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(sockets, "\n") + n.must(t, i, "sh", "-c", "ip -o link show | cut -d: -f2; ip rule; ip -6 rule; ip -4 route show table all; nft list ruleset")
	six, err := n.in(i, "sh", "-c", "ip -6 route show table all | grep -e wg0 -e '^fd' -e ' fd' || true")
	if err != nil {
		t.Fatal(err)
	}
	return text + "\n" + six
}
