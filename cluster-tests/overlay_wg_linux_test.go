package clustertests

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOverlayNetStage: the stage of the tests below holds what they rely on,
// without any edgeproxy: two plain devices reach each other, alone with each other's keys.
func TestOverlayNetStage(t *testing.T) {
	needs(t, "netns")
	n := planWG(t, "off", []string{"sa"}, 3)
	laptop, sensor, stranger := n.plain(t, "laptop"), n.plain(t, "sensor"), n.plain(t, "stranger")
	// file is one that edgeproxy could have printed.
	file := func(host int, others ...*plain) quick {
		text := fmt.Sprintf("# of a test\n[Interface]\n# PrivateKey = yours\nAddress = 10.50.9.%d/16, fd50:ed9e::9:%d/48\nMTU = 1420\n", host, host)
		for _, o := range others {
			text += fmt.Sprintf("\n[Peer]\n# %s\nPublicKey = %s\nEndpoint = %s\nAllowedIPs = 10.50.9.%d/32, fd50:ed9e::9:%d/128\nPersistentKeepalive = 25\n", o.name, o.public(t), o.endpoint(), o.at, o.at)
		}
		q, err := parseQuick(text)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	n.watch(t, stranger.at)
	n.dialsOnly(t, laptop.at)
	sensor.boot(t, file(sensor.at, laptop))
	stranger.boot(t, file(stranger.at, sensor))
	if err := sensor.pings(sensor.at, netip.MustParseAddr(fmt.Sprintf("10.50.9.%d", laptop.at))); err == nil {
		t.Error("laptop is not up, and answers")
	}
	if n.counted(t, laptop.at, "nat", "refused") == 0 {
		t.Error("who dials only is dialed")
	}
	laptop.boot(t, file(laptop.at, sensor))
	for _, to := range []netip.Addr{sensor.four, sensor.six} {
		eventually(t, soon, func() error { return n.pings(laptop.at, to) })
	}
	for _, to := range []netip.Addr{laptop.four, laptop.six} {
		if err := n.pings(sensor.at, to); err != nil {
			t.Errorf("to who dials only: %v", err)
		}
	}
	_ = n.pings(stranger.at, sensor.four)
	if said, heard := n.counted(t, stranger.at, "watch", "said"), n.counted(t, stranger.at, "watch", "heard"); said == 0 || heard != 0 {
		t.Errorf("a stranger said %d and heard %d packets, want some and none", said, heard)
	}
	_ = n.pings(stranger.at, netip.MustParseAddr(n.addr(sensor.at)))
	if n.counted(t, stranger.at, "watch", "heard") == 0 {
		t.Error("the counter counts nothing")
	}

	// A backend in a device's namespace, reached from another one's alone.
	ln, err := listenIn(n.spaces[laptop.at], netip.AddrPortFrom(laptop.six, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	b := serveBackend(t, "there", "sa", ln)
	hello := func() error {
		out, err := n.feed(sensor.at, "hello\n", "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%d; head -1 >&3; head -2 <&3", b.addr.Addr(), b.addr.Port()))
		if err == nil && !holds(out, []string{"Backend: there", "[there] Echo: hello"}) {
			err = fmt.Errorf("the backend said %q", out)
		}
		return err
	}
	if err := hello(); err != nil {
		t.Error(err)
	}
	if peers, err := sensor.dump(); err != nil || peers[laptop.public(t)].received == 0 || peers[laptop.public(t)].endpoint != laptop.endpoint() {
		t.Errorf("sensor has %+v, %v", peers, err)
	}
	laptop.moves(t, n.subnet+".99", 51999)
	_ = n.pings(laptop.at, sensor.four)
	eventually(t, soon, hello)
	if peers, err := sensor.dump(); err != nil || peers[laptop.public(t)].endpoint != laptop.endpoint() {
		t.Errorf("sensor has %+v, %v; want %s", peers, err, laptop.endpoint())
	}
	// Forgotten, and found again by a new handshake.
	again := file(sensor.at, laptop)
	sensor.restarts(t, again)
	eventually(t, soon, hello)
	sensor.set(t, "syncconf", again)
	if err := hello(); err != nil {
		t.Error(err)
	}
}

var three = []string{"sa", "us", "eu"}

// served starts three POPs and two plain devices, each with a backend at its
// address in the overlay: laptop's of IPv4, sensor's of IPv6.
func served(t *testing.T, mode string, env ...string) (n *wgNet, laptop, sensor *plain) {
	t.Helper()
	n = startWG(t, mode, three, 3, env...)
	defer n.tell()
	laptop, sensor = n.plain(t, "laptop"), n.plain(t, "sensor")
	laptop.joins(t, "sa", "--endpoint", laptop.endpoint())
	sensor.joins(t, "eu", "--endpoint", sensor.endpoint())
	n.knows(t, "laptop", "sensor")
	n.backendAt(t, laptop.at, "on-laptop", laptop.four)
	n.backendAt(t, sensor.at, "on-sensor", sensor.six)
	return n, laptop, sensor
}

// TestOverlayNetReach: backends on plain devices serve the clients of every
// POP through tunnels, by either family, and wg(8) and edgeproxy say the same of them.
func TestOverlayNetReach(t *testing.T) {
	eachMode(t, func(t *testing.T, mode string) {
		n, laptop, sensor := served(t, mode)
		defer n.tell()
		for _, c := range []struct {
			id   string
			d    *plain
			addr netip.Addr
		}{{"on-laptop", laptop, laptop.four}, {"on-sensor", sensor, sensor.six}} {
			n.only(t, c.id)
			before := map[*pop]int64{}
			for _, p := range n.pops {
				before[p] = c.d.peer(t, p).received
			}
			n.carries(t, c.id)
			for i, p := range n.pops {
				if got := c.d.peer(t, p).received - before[p]; got < int64(len(heavy)) {
					t.Errorf("%s heard %d bytes from %s by the tunnel, want %d", c.d.name, got, p.Node, len(heavy))
				}
				n.leads(t, i, c.addr)
			}
		}

		// A third one has its key from the command.
		guest := n.plain(t, "guest")
		file := n.pops[1].joined(t, "guest", "us", "--endpoint", guest.endpoint())
		if file.private == "" || len(file.peers) != len(n.pops) {
			t.Fatalf("the file of guest has a private key: %v, and %d peers:\n%s", file.private != "", len(file.peers), file.text)
		}
		guest.private = file.private
		guest.boot(t, file)
		n.knows(t, "guest", "laptop", "sensor")
		n.backendAt(t, guest.at, "on-guest", guest.six)
		n.only(t, "on-guest")
		n.carries(t, "on-guest")

		for i, p := range n.pops {
			four, six := p.overlay(t)
			for _, q := range n.pops {
				file := q.exported(t, p.Node)
				if a, b, err := families(file.addresses); err != nil || a != four || b != six {
					t.Errorf("wg export %s on %s has addresses %v (%v), the POP has %s and %s", p.Node, q.Node, file.addresses, err, four, six)
				}
			}
			n.keepsSecret(t, p)
			eventually(t, converged, func() error {
				s, err := p.wg()
				if err == nil && len(s.Problems) > 0 {
					err = fmt.Errorf("%s has problems %q", p.Node, s.Problems)
				}
				return err
			})
			if mode != "netstack" {
				eventually(t, converged, func() error { return n.agree(i) })
			}
		}
		if mode != "netstack" {
			n.pingAll(t)
		}
	})
}

// leads checks that packets to an address in the overlay go into wg0, and in
// user space nowhere at all.
func (n *wgNet) leads(t testing.TB, i int, to netip.Addr) {
	t.Helper()
	route, err := n.in(i, "ip", "route", "get", to.String())
	if n.mode != "netstack" && (err != nil || !strings.Contains(route, "dev wg0")) || n.mode == "netstack" && err == nil {
		t.Errorf("on %s, overlay in mode %s, the way to %s is %q, %v", n.pops[i].Node, n.mode, to, route, err)
	}
}

// agree is nil where wg(8) sees in a POP's namespace what edgeproxy says.
func (n *wgNet) agree(i int) error {
	p := n.pops[i]
	s, err := p.wgCLI()
	if err != nil {
		return err
	}
	public, peers, err := n.dump(i)
	if err != nil {
		return err
	}
	if public != s.PublicKey {
		return fmt.Errorf("%s: wg has public key %s, edgeproxy %s", p.Node, public, s.PublicKey)
	}
	said := map[string]string{}
	for _, x := range s.Peers {
		var allowed []string
		for _, a := range x.AllowedIPs {
			allowed = append(allowed, a.String())
		}
		slices.Sort(allowed)
		said[x.PublicKey] = fmt.Sprintf("%s %q", x.Endpoint, allowed)
	}
	seen := map[string]string{}
	for key, x := range peers {
		seen[key] = fmt.Sprintf("%s %q", x.endpoint, x.allowed)
	}
	if !maps.Equal(said, seen) {
		return fmt.Errorf("%s: wg has\n%v, edgeproxy\n%v", p.Node, seen, said)
	}
	return nil
}

// keepsSecret looks for a POP's private key where it does not belong.
func (n *wgNet) keepsSecret(t testing.TB, p *pop) {
	t.Helper()
	info, err := os.Stat(p.db + ".wg")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the private key of %s: mode %v, %v", p.Node, info, err)
	}
	body, err := os.ReadFile(p.db + ".wg")
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.wg()
	if err != nil {
		t.Fatal(err)
	}
	secrets := slices.DeleteFunc(regexp.MustCompile(`[A-Za-z0-9+/]{43}=`).FindAllString(string(body), -1), func(k string) bool { return k == s.PublicKey })
	if len(secrets) == 0 {
		t.Errorf("%s.wg has no key in base64", p.db)
	}
	for _, q := range n.pops {
		rows := q.sql(t, "SELECT * FROM wg_pops; SELECT * FROM wg_peers")
		answers := q.says(t, "wg", "status", "--json") + q.says(t, "wg", "export", p.Node) + q.ask(t, "GET", "/api/v1/wg", "").body
		for _, secret := range secrets {
			if strings.Contains(rows+answers+q.log.String(), secret) {
				t.Errorf("the private key of %s is seen on %s", p.Node, q.Node)
			}
		}
	}
}

// pingAll has all POPs and devices that have a tunnel reach each other.
func (n *wgNet) pingAll(t testing.TB) {
	t.Helper()
	type place struct {
		name  string
		space int
		addrs [2]netip.Addr
		pop   bool
	}
	var all []place
	for i, p := range n.pops {
		four, six := p.overlay(t)
		all = append(all, place{p.Node, i, [2]netip.Addr{four, six}, true})
	}
	for _, d := range n.plains {
		all = append(all, place{d.name, d.at, [2]netip.Addr{d.four, d.six}, false})
	}
	for _, from := range all {
		for _, to := range all {
			if from.space == to.space || !from.pop && !to.pop {
				continue
			}
			for _, addr := range to.addrs {
				if err := waitFor(converged, func() error { return n.pings(from.space, addr) }); err != nil {
					t.Errorf("%s to %s: %v", from.name, to.name, err)
				}
			}
		}
	}
}

// TestOverlayNetRotation: every POP gets a new key, one after the other, under
// connections that are used all the while. None is reset.
func TestOverlayNetRotation(t *testing.T) {
	const connections = 200
	eachMode(t, func(t *testing.T, mode string) {
		n, laptop, sensor := served(t, mode)
		defer n.tell()
		n.only(t, "on-sensor")
		n.only(t, "on-laptop")
		if err := n.pops[0].write("UPDATE backends SET healthy=1"); err != nil {
			t.Fatal(err)
		}
		settle(t, converged, n.pops...)
		var all []*visit
		for i, p := range n.pops {
			visits, err := p.openMany(connections*(i+1)/len(n.pops) - len(all))
			all = append(all, visits...)
			if err != nil {
				t.Fatal(err)
			}
		}
		chat := startChat(t, all)
		defer chat.stop()
		for _, p := range n.pops {
			began := time.Now()
			old, next := p.rotates(t)
			for _, d := range []*plain{laptop, sensor} {
				if file := d.syncs(t, p); strings.Contains(file.text, old) || !strings.Contains(file.text, next) {
					t.Errorf("the key of %s was %s and is %s; the file of %s:\n%s", p.Node, old, next, d.name, file.text)
				}
			}
			told := time.Since(began)
			for _, q := range n.pops {
				if q != p {
					eventually(t, soon, func() error { return q.heard(p.Node, next, began) })
				}
			}
			others := time.Since(began)
			if err := chat.goesOn(soon); err != nil {
				t.Fatalf("after %s has another key: %v", p.Node, err)
			}
			for _, d := range []*plain{laptop, sensor} {
				eventually(t, soon, func() error { return d.heard(next) })
			}
			t.Logf("%s: devices have the new key after %s, the other POPs have heard it after %s, all connections go on after %s",
				p.Node, told.Round(time.Millisecond), others.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		}
		chat.stop()
		t.Log(chat)
		if on := chat.backends(); len(on) != 2 {
			t.Errorf("connections by backend: %v, want some on each of two", on)
		}
	})
}

// heard is nil where a POP has this key of a peer, and a handshake with it since then.
func (p *pop) heard(peer, key string, since time.Time) error {
	s, err := p.wg()
	if err != nil {
		return err
	}
	for _, x := range s.Peers {
		if x.Name == peer && x.PublicKey == key && !x.Handshake.Before(since.Truncate(time.Second)) {
			return nil
		}
	}
	return fmt.Errorf("%s has heard no %s with key %s since %s%s", p.Node, peer, key, since, wgStates(p))
}

// heard is nil where a device has had a handshake with who has this key.
func (d *plain) heard(key string) error {
	peers, err := d.dump()
	if err == nil && peers[key].handshake == 0 {
		err = fmt.Errorf("%s has no handshake with %s", d.name, key)
	}
	return err
}
