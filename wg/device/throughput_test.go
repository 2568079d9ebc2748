package device

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	wireguard "golang.zx2c4.com/wireguard/device"
	stock "golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/edgeproxy/edgeproxy/wg"
)

// BenchmarkThroughput compares our netstack with wireguard-go's own, one TCP
// stream through two devices over loopback. Compare only within one run.
func BenchmarkThroughput(b *testing.B) {
	b.Run("stock", func(b *testing.B) {
		from, to := stockPair(b)
		l, err := to.ListenTCPAddrPort(netip.MustParseAddrPort("10.50.0.2:80"))
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		stream(b, l, func() (net.Conn, error) {
			return from.DialContextTCPAddrPort(b.Context(), netip.MustParseAddrPort("10.50.0.2:80"))
		})
	})
	b.Run("ours", func(b *testing.B) {
		from, to := newPOP(b, 1), newPOP(b, 2)
		join(b, from, to)
		streamBetween(b, from, to)
	})
	b.Run("ours-forwarded", func(b *testing.B) {
		from, hub, to := newPOP(b, 1), newPOP(b, 2, forwards), newPOP(b, 3)
		star(b, hub, from, to)
		streamBetween(b, from, to)
	})
}

func forwards(cfg *Config) { cfg.Forward = true }

// star makes peers of the hub with all, and of all with the hub for the rest.
func star(t testing.TB, hub *pop, spokes ...*pop) {
	t.Helper()
	peers := make([]wg.Peer, 0, len(spokes))
	for _, s := range spokes {
		peers = append(peers, s.peer())
		var behind []*pop
		for _, o := range spokes {
			if o != s {
				behind = append(behind, o)
			}
		}
		s.follow(t, hub.peer(behind...))
	}
	hub.follow(t, peers...)
}

func streamBetween(b *testing.B, from, to *pop) {
	l, err := to.Listen(b.Context(), to.at(80))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	stream(b, l, func() (net.Conn, error) { return from.DialContext(b.Context(), "tcp", to.at(80).String()) })
}

func stream(b *testing.B, l net.Listener, dial func() (net.Conn, error)) {
	type result struct {
		n   int64
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- result{err: err}
			return
		}
		defer c.Close()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, make([]byte, 256<<10))
		done <- result{n, err}
	}()
	c, err := dial()
	if err != nil {
		b.Fatal(err)
	}
	const block = 256 << 10
	buf := make([]byte, block)
	b.SetBytes(block)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if r := <-done; r.err != nil || r.n == 0 {
		b.Fatalf("received %d: %v", r.n, r.err)
	}
	c.Close()
}

func stockPair(b *testing.B) (from, to *stock.Net) {
	b.Helper()
	ka, kb := newKeys(b), newKeys(b)
	open := func(self keys, address string) (*wireguard.Device, *stock.Net) {
		nic, net, err := stock.CreateNetTUN([]netip.Addr{netip.MustParseAddr(address)}, nil, wg.MTU)
		if err != nil {
			b.Fatal(err)
		}
		d := wireguard.NewDevice(nic, conn.NewDefaultBind(), &wireguard.Logger{Verbosef: wireguard.DiscardLogf, Errorf: wireguard.DiscardLogf})
		if err := d.IpcSet("private_key=" + hex.EncodeToString(self.private[:]) + "\n"); err != nil {
			b.Fatal(err)
		}
		if err := d.Up(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(d.Close)
		return d, net
	}
	da, na := open(ka, "10.50.0.1")
	db, nb := open(kb, "10.50.0.2")
	for _, l := range []struct {
		d     *wireguard.Device
		other *wireguard.Device
		key   wg.Key
		ip    string
	}{{da, db, kb.public, "10.50.0.2"}, {db, da, ka.public, "10.50.0.1"}} {
		text, err := l.other.IpcGet()
		if err != nil {
			b.Fatal(err)
		}
		s, err := parseStatus(text)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.d.IpcSet(fmt.Sprintf("public_key=%x\nendpoint=127.0.0.1:%d\nallowed_ip=%s/32\n", l.key[:], s.port, l.ip)); err != nil {
			b.Fatal(err)
		}
	}
	return na, nb
}
