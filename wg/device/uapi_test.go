package device

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/wg"
)

func TestEncodeChanges(t *testing.T) {
	key := wg.Key{0xab}
	peer := wg.Peer{
		Key: key, Endpoint: netip.MustParseAddrPort("[::ffff:192.0.2.1]:51820"),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.50.0.7/32"), netip.MustParsePrefix("fd50::7/128")}, Keepalive: wg.Keepalive,
	}
	hex := "public_key=ab" + strings.Repeat("00", 31) + "\n"
	for _, c := range []struct {
		name   string
		change wg.Change
		want   string
	}{
		{"new", wg.Change{Peer: peer, NewEndpoint: true, NewAllowedIPs: true, NewKeepalive: true}, hex +
			"endpoint=192.0.2.1:51820\nreplace_allowed_ips=true\nallowed_ip=10.50.0.7/32\nallowed_ip=fd50::7/128\npersistent_keepalive_interval=25\n"},
		{"endpoint only", wg.Change{Peer: peer, NewEndpoint: true}, hex + "update_only=true\nendpoint=192.0.2.1:51820\n"},
		{"addresses only", wg.Change{Peer: wg.Peer{Key: key}, NewAllowedIPs: true}, hex + "update_only=true\nreplace_allowed_ips=true\n"},
		{"keepalive off", wg.Change{Peer: wg.Peer{Key: key}, NewKeepalive: true}, hex + "update_only=true\npersistent_keepalive_interval=0\n"},
		{"gone", wg.Change{Peer: peer, Remove: true, NewEndpoint: true}, hex + "update_only=true\nremove=true\n"},
	} {
		if got := encodeChanges([]wg.Change{c.change}); got != c.want {
			t.Errorf("%s:\n%swant\n%s", c.name, got, c.want)
		}
	}
	for d, want := range map[time.Duration]int64{-1: 0, 0: 0, time.Millisecond: 1, 25 * time.Second: 25, 100 * time.Hour: 65535} {
		if got := keepaliveSeconds(d); got != want {
			t.Errorf("keepalive of %v: %d s, want %d", d, got, want)
		}
	}
}

// A device says of its peers what it was told.
func TestDeviceSaysWhatItWasTold(t *testing.T) {
	a := newPOP(t, 1)
	var peers []wg.Peer
	for i := range 20 {
		p := wg.Peer{Key: newKeys(t).public, Keepalive: time.Duration(i) * time.Second}
		if i%2 == 0 {
			p.Endpoint = netip.AddrPortFrom(netip.MustParseAddr("::1"), uint16(1000+i))
		}
		for j := range i % 3 {
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(60 + i), byte(j), 0}), 24))
		}
		peers = append(peers, p)
	}
	a.follow(t, peers...)
	told, err := a.Peers()
	if err != nil {
		t.Fatal(err)
	}
	want := plan(peers).Peers
	for i := range want {
		got := wg.Peer{Key: told[i].Key, Endpoint: told[i].Endpoint, AllowedIPs: told[i].AllowedIPs, Keepalive: told[i].Keepalive}
		if !reflect.DeepEqual(got, want[i]) {
			t.Errorf("peer %d: %+v, want %+v", i, got, want[i])
		}
	}
	if len(told) != len(want) {
		t.Errorf("%d peers, want %d", len(told), len(want))
	}
	if err := a.Configure(diff(peers, nil)); err != nil {
		t.Fatal(err)
	}
	if told, err := a.Peers(); len(told) != 0 || err != nil {
		t.Errorf("%d peers left, %v", len(told), err)
	}
}

// formatStatus is what parseStatus reads.
func formatStatus(s deviceStatus) string {
	var b strings.Builder
	fmt.Fprintf(&b, "listen_port=%d\n", s.port)
	for _, p := range s.peers {
		fmt.Fprintf(&b, "public_key=%x\n", p.Key[:])
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		if !p.Handshake.IsZero() {
			fmt.Fprintf(&b, "last_handshake_time_sec=%d\nlast_handshake_time_nsec=%d\n", p.Handshake.Unix(), p.Handshake.Nanosecond())
		}
		fmt.Fprintf(&b, "tx_bytes=%d\nrx_bytes=%d\npersistent_keepalive_interval=%d\n", p.Sent, p.Received, int64(p.Keepalive/time.Second))
		for _, a := range p.AllowedIPs {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
	}
	return b.String()
}

func FuzzUAPI(f *testing.F) {
	key := strings.Repeat("5a", 32)
	f.Add("private_key=" + key + "\nlisten_port=51820\npublic_key=" + key + "\npreshared_key=" + key +
		"\nprotocol_version=1\nendpoint=[fe80::1%eth0]:51820\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=999999999\n" +
		"tx_bytes=1\nrx_bytes=2\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd50::/48\nerrno=0\n\n")
	f.Add("public_key=" + key + "\npublic_key=" + key + "\nallowed_ip=::ffff:10.0.0.1/128\n")
	f.Add("errno=-22\n")
	f.Add("tx_bytes=-1")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseStatus(text)
		if err != nil {
			if !reflect.DeepEqual(s, deviceStatus{}) {
				t.Errorf("an error and a status: %+v", s)
			}
			return
		}
		again, err := parseStatus(formatStatus(s))
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%+v came back as %+v, %v", s, again, err)
		}
		if !slices.IsSortedFunc(s.peers, func(a, b wg.Status) int { return slices.Compare(a.Key[:], b.Key[:]) }) {
			t.Error("not sorted")
		}
		for _, p := range s.peers {
			if p.Sent < 0 || p.Received < 0 || p.Keepalive < 0 {
				t.Errorf("negative: %+v", p)
			}
		}
	})
}
