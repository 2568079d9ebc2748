package clustertests

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// plain is a device that knows nothing of edgeproxy: wireguard-go, told by wg.
type plain struct {
	*wgNet
	t       testing.TB
	at      int // its namespace
	name    string
	private string
	port    int // where it listens
	four    netip.Addr
	six     netip.Addr
	moved   string // its address in the underlay, where it has moved
	log     *logBuffer
}

// plain makes a device with a key of its own in the next free namespace. It is no member yet.
func (n *wgNet) plain(t testing.TB, name string) *plain {
	t.Helper()
	if n.devices == 0 {
		t.Fatal("no namespace is left for a device")
	}
	n.devices--
	d := &plain{wgNet: n, t: t, at: len(n.pops) + len(n.plains), name: name, port: wgPort, log: &logBuffer{}}
	n.plains = append(n.plains, d)
	key, err := tool(soon, "", "wg", "genkey")
	if err != nil {
		t.Fatal(err)
	}
	d.private = key
	return d
}

// public is its public key, as its owner tells others.
func (d *plain) public(t testing.TB) string {
	t.Helper()
	key, err := tool(soon, d.private, "wg", "pubkey")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// joins has POP 0 take it in under its own key, and brings it up.
func (d *plain) joins(t testing.TB, region string, more ...string) {
	t.Helper()
	d.boot(t, d.pops[0].joined(t, d.name, region, append(more, "--public-key", d.public(t))...))
}

func (d *plain) host() string {
	if d.moved != "" {
		return d.moved
	}
	return d.addr(d.at)
}

func (d *plain) endpoint() string { return fmt.Sprintf("%s:%d", d.host(), d.port) }

// boot brings the interface up by a file, as wg-quick does.
func (d *plain) boot(t testing.TB, file quick) {
	t.Helper()
	d.run(t)
	d.set(t, "setconf", file)
	for _, a := range file.addresses {
		d.must(t, d.at, "ip", "addr", "add", a.String(), "dev", "wg0")
	}
	mtu := file.mtu
	if mtu == 0 {
		mtu = 1420
	}
	d.must(t, d.at, "ip", "link", "set", "wg0", "mtu", strconv.Itoa(mtu), "up")
	d.routes(t, file)
	var err error
	if d.four, d.six, err = families(file.addresses); err != nil {
		t.Fatalf("%s: %v in:\n%s", d.name, err, file.text)
	}
}

// run starts wireguard-go, until the end of the test.
func (d *plain) run(t testing.TB) {
	t.Helper()
	args := d.inside(d.at, "wireguard-go", "-f", "wg0")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("wireguard-go of %s:\n%s", d.name, d.log.digest())
		}
	})
	eventually(t, soon, func() error { _, err := d.in(d.at, "wg", "show", "wg0"); return err })
}

// set is "wg setconf" or "wg syncconf" with what wg-quick leaves of a file.
func (d *plain) set(t testing.TB, how string, file quick) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wg0.conf")
	overwrite(t, path, []byte(file.with(d.private, d.port)))
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	stripped, err := tool(soon, "", "wg-quick", "strip", path)
	if err == nil {
		_, err = d.feed(d.at, stripped+"\n", "wg", how, "wg0", "/dev/stdin")
	}
	if err != nil {
		t.Fatalf("%s: %v:\n%s", d.name, err, file.text)
	}
}

// routes are those to what peers may send.
func (d *plain) routes(t testing.TB, file quick) {
	t.Helper()
	for _, p := range file.peers {
		for _, allowed := range p.allowed {
			d.must(t, d.at, "ip", "route", "replace", allowed.Masked().String(), "dev", "wg0")
		}
	}
}

// syncs fetches its file from a POP, as its owner does when keys have changed.
func (d *plain) syncs(t testing.TB, from *pop) quick {
	t.Helper()
	file := from.exported(t, d.name)
	d.set(t, "syncconf", file)
	d.routes(t, file)
	return file
}

// restarts forgets all that it has agreed on with others: they hear a
// handshake before anything else.
func (d *plain) restarts(t testing.TB, file quick) {
	t.Helper()
	for _, p := range file.peers {
		d.must(t, d.at, "wg", "set", "wg0", "peer", p.public, "remove")
	}
	d.set(t, "setconf", file)
}

// dump is what it knows of its peers.
func (d *plain) dump() (map[string]dumpPeer, error) {
	_, peers, err := d.wgNet.dump(d.at)
	return peers, err
}

// peer is what it knows of a POP.
func (d *plain) peer(t testing.TB, p *pop) dumpPeer {
	t.Helper()
	s, err := p.wg()
	if err != nil {
		t.Fatal(err)
	}
	peers, err := d.dump()
	if err != nil {
		t.Fatal(err)
	}
	return peers[s.PublicKey]
}

// knocks sends something to each POP's address in the overlay, whoever answers.
func (d *plain) knocks(t testing.TB) {
	t.Helper()
	for _, p := range d.pops {
		four, _ := p.overlay(t)
		_ = d.pings(d.at, four)
	}
}

// moves gives it another address and port in the underlay.
func (d *plain) moves(t testing.TB, host string, port int) {
	t.Helper()
	d.must(t, d.at, "ip", "addr", "flush", "dev", "eth0", "scope", "global")
	d.must(t, d.at, "ip", "addr", "add", host+"/24", "dev", "eth0")
	d.must(t, d.at, "wg", "set", "wg0", "listen-port", strconv.Itoa(port))
	d.moved, d.port = host, port
}
