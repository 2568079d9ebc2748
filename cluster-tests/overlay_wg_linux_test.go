package clustertests

import (
	"fmt"
	"net/netip"
	"testing"
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
