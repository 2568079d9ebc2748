package clustertests

import (
	"bufio"
	"context"
	"crypto/ecdh"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// userPeer is a plain device that needs no privileges: WireGuard and a network in this process.
type userPeer struct {
	dev       *device.Device
	net       *netstack.Net
	private   string
	four, six netip.Addr
}

// startUserPeer brings one up by its file, until the test ends.
func startUserPeer(t testing.TB, file quick, private string) *userPeer {
	t.Helper()
	u := &userPeer{private: private}
	var err error
	if u.four, u.six, err = families(file.addresses); err != nil {
		t.Fatalf("%v:\n%s", err, file.text)
	}
	tun, network, err := netstack.CreateNetTUN([]netip.Addr{u.four, u.six}, nil, 1420)
	if err != nil {
		t.Fatal(err)
	}
	u.net = network
	u.dev = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "plain device: "))
	t.Cleanup(u.dev.Close)
	u.set(t, file)
	if err := u.dev.Up(); err != nil {
		t.Fatal(err)
	}
	return u
}

// set makes its peers those of a file. It forgets what it has agreed on with others.
func (u *userPeer) set(t testing.TB, file quick) {
	t.Helper()
	u.tell(t, "private_key="+hexKey(t, u.private)+"\nlisten_port="+strconv.Itoa(file.port)+"\nreplace_peers=true\n"+file.uapi(t))
}

// syncs does it as "wg syncconf": peers that stay keep their sessions.
func (u *userPeer) syncs(t testing.TB, file quick) {
	t.Helper()
	stays := map[string]bool{}
	for _, p := range file.peers {
		stays[hexKey(t, p.public)] = true
	}
	gone := ""
	for key := range u.peers(t) {
		if !stays[key] {
			gone += "public_key=" + key + "\nremove=true\n"
		}
	}
	u.tell(t, gone+file.uapi(t))
}

func (u *userPeer) tell(t testing.TB, words string) {
	t.Helper()
	if err := u.dev.IpcSet(words); err != nil {
		t.Fatalf("a plain device does not take\n%s: %v", words, err)
	}
}

// peers are what it knows of each, by key in hex.
func (u *userPeer) peers(t testing.TB) map[string]map[string]string {
	t.Helper()
	text, err := u.dev.IpcGet()
	if err != nil {
		t.Fatal(err)
	}
	all, last := map[string]map[string]string{}, map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key == "public_key" {
			last = map[string]string{}
			all[value] = last
		}
		last[key] = value
	}
	return all
}

// uapi are a file's peers as WireGuard's own configuration protocol has them.
func (q quick) uapi(t testing.TB) string {
	t.Helper()
	var s strings.Builder
	for _, p := range q.peers {
		fmt.Fprintf(&s, "public_key=%s\nreplace_allowed_ips=true\npersistent_keepalive_interval=%d\n", hexKey(t, p.public), p.keepalive)
		if p.endpoint != "" {
			fmt.Fprintf(&s, "endpoint=%s\n", p.endpoint)
		}
		for _, a := range p.allowed {
			fmt.Fprintf(&s, "allowed_ip=%s\n", a)
		}
	}
	return s.String()
}

func hexKey(t testing.TB, key string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != device.NoisePublicKeySize {
		t.Fatalf("%q is no key: %v", key, err)
	}
	return hex.EncodeToString(raw)
}

// serve runs a backend at one of its addresses.
func (u *userPeer) serve(t testing.TB, id string, addr netip.Addr) *backend {
	t.Helper()
	ln, err := u.net.ListenTCPAddrPort(netip.AddrPortFrom(addr, 9000))
	if err != nil {
		t.Fatal(err)
	}
	return serveBackend(t, id, "sa", ln)
}

// knocks sends something to an address of the overlay, whoever answers.
func (u *userPeer) knocks(to netip.Addr) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c, err := u.net.DialContextTCPAddrPort(ctx, netip.AddrPortFrom(to, 9)); err == nil {
		c.Close()
	}
}

// TestOverlayStage: two plain devices in this process reach each other.
func TestOverlayStage(t *testing.T) {
	t.Parallel()
	const one, two = "SMzwOyi0hAtkPG6pPCWc8pLdZ9GRUgvIeVXMVgVTUH4=", "6AxVDpS6qvXh+xaaWKSEAM4NXHzaYtcS/uWVV5a2Kk4="
	file := func(self, other int, public string, endpoint string) quick {
		q, err := parseQuick(fmt.Sprintf("[Interface]\nAddress = 10.50.9.%d/16, fd50:ed9e::9:%d/48\n\n[Peer]\nPublicKey = %s\nAllowedIPs = 10.50.9.%d/32, fd50:ed9e::9:%d/128\n%s", self, self, public, other, other, endpoint))
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	serving := file(1, 2, publicKey(t, two), "")
	serving.port = freeUDP(t)
	a := startUserPeer(t, serving, one)
	b := startUserPeer(t, file(2, 1, publicKey(t, one), fmt.Sprintf("Endpoint = 127.0.0.1:%d\n", serving.port)), two)
	for _, addr := range []netip.Addr{a.four, a.six} {
		there := a.serve(t, "there-"+addr.String(), addr)
		c, err := b.net.DialContextTCPAddrPort(t.Context(), there.addr)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(text, "Backend: there-"+addr.String()) {
			t.Errorf("%q, %v", text, err)
		}
		c.Close()
	}
	if p := a.peers(t)[hexKey(t, publicKey(t, two))]; p["rx_bytes"] == "0" || p["endpoint"] == "" {
		t.Errorf("the other one is %v", p)
	}
}

// publicKey is that of a private one.
func publicKey(t testing.TB, private string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}

// freeUDP is a port that nobody has now.
func freeUDP(t testing.TB) int {
	t.Helper()
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).Port
}

// TestOverlayTunnels: without any privileges clients of three POPs are served
// through tunnels by a backend on a plain device, by either family. An open
// connection outlives new keys of its POP; a device that is removed hears nothing more.
func TestOverlayTunnels(t *testing.T) {
	t.Parallel()
	m := tunnelMesh(t)
	defer func() {
		if t.Failed() {
			t.Log(states(m.pops...) + wgStates(m.pops...))
		}
	}()
	file := m.pops[0].joined(t, "laptop", "sa")
	if file.private == "" || len(file.peers) != len(m.pops) {
		t.Fatalf("a file with private key: %v, and %d peers, want one for each POP:\n%s", file.private != "", len(file.peers), file.text)
	}
	laptop := startUserPeer(t, file, file.private)
	m.knows(t, "laptop")
	four, six := laptop.serve(t, "by-four", laptop.four), laptop.serve(t, "by-six", laptop.six)
	m.pops[1].sql(t, insert(four.row(), six.row()))
	everywhere(t, "SELECT count(*) FROM backends", "2", m.pops...)
	for _, id := range []string{"by-four", "by-six"} {
		m.only(t, id)
		m.carries(t, id)
	}

	var open []*visit
	for _, p := range m.pops {
		open = append(open, p.visit(t, ""))
	}
	for _, p := range m.pops {
		began := time.Now()
		old, next := p.rotates(t)
		changed := p.exported(t, "laptop")
		if strings.Contains(changed.text, old) || !strings.Contains(changed.text, next) {
			t.Errorf("the key of %s was %s and is %s; laptop's file:\n%s", p.Node, old, next, changed.text)
		}
		laptop.syncs(t, changed)
		for _, v := range open {
			v.alive(t)
		}
		t.Logf("open connections go on %s after the rotation began", time.Since(began).Round(time.Millisecond))
		file = changed
	}
	m.carries(t, "by-six")

	began := time.Now()
	m.pops[1].says(t, "wg", "peer", "remove", "laptop")
	m.forgets(t, "laptop", 10*time.Second)
	t.Logf("no POP has laptop %s after it was removed", time.Since(began).Round(time.Millisecond))
	laptop.set(t, file)
	var knocking sync.WaitGroup
	for range 2 { // a handshake is tried again after 5 s
		for _, p := range m.pops {
			four, six := p.overlay(t)
			knocking.Go(func() { laptop.knocks(four); laptop.knocks(six) })
		}
		knocking.Wait()
	}
	peers := laptop.peers(t)
	for key, x := range peers {
		if x["rx_bytes"] != "0" || x["last_handshake_time_sec"] != "0" || x["tx_bytes"] == "0" {
			t.Errorf("%s answers who was removed: %v", key, x)
		}
	}
	if len(peers) != len(m.pops) {
		t.Errorf("laptop has %d peers, want %d", len(peers), len(m.pops))
	}
	for _, p := range m.pops {
		if v, err := p.call(""); err == nil {
			t.Errorf("a client of %s still comes to %s", p.Node, v.backend)
			v.Close()
		}
	}
}
