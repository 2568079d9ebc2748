package device

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/edgeproxy/edgeproxy/wg"
)

// BenchmarkConfigure has a device take a whole plan, as at a POP's start: told
// in this process, and through the socket for wg(8), as root.
func BenchmarkConfigure(b *testing.B) {
	for _, n := range []int{10, 1000} {
		changes := wg.Diff(wg.Plan{}, plan(manyPeers(b, n)))
		b.Run(fmt.Sprintf("%d/ipc", n), func(b *testing.B) {
			d := newPOP(b, 1)
			configures(b, d, n, func() error { return d.Configure(changes) })
		})
		b.Run(fmt.Sprintf("%d/uapi", n), func(b *testing.B) {
			if os.Getuid() != 0 {
				b.Skipf("makes a socket in %s, which needs root", socketDir)
			}
			name := testInterface(30)
			d := newPOP(b, 1, func(cfg *Config) { cfg.Interface = name })
			client, err := wgctrl.New()
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			configures(b, d, n, func() error { return client.ConfigureDevice(name, wgtypes.Config{Peers: peerConfigs(changes)}) })
		})
	}
}

// configures forgets the peers outside of what is measured.
func configures(b *testing.B, d *pop, n int, f func() error) {
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		told, err := d.Peers()
		if err != nil || len(told) != n {
			b.Fatalf("%d peers, %v, want %d", len(told), err, n)
		}
		var gone []wg.Change
		for _, p := range told {
			gone = append(gone, wg.Change{Peer: wg.Peer{Key: p.Key}, Remove: true})
		}
		if err := d.Configure(gone); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// manyPeers are as of a full mesh: an endpoint and the addresses of one POP each.
func manyPeers(t testing.TB, n int) []wg.Peer {
	peers := make([]wg.Peer, n)
	for i := range peers {
		high, low := byte(i>>8), byte(i)
		peers[i] = wg.Peer{
			Key: newKeys(t).public, Keepalive: wg.Keepalive,
			Endpoint:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 100, high, low}), 9), // nobody answers
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, high + 1, low}), 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x50, 13: 1, 14: high, 15: low}), 128)},
		}
	}
	return peers
}
