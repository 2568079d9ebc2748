package device

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/edgeproxy/edgeproxy/wg"
)

func TestMain(m *testing.M) {
	isolate()
	goleak.VerifyTestMain(m)
}

type keys struct {
	private [32]byte
	public  wg.Key
}

func newKeys(t testing.TB) (k keys) {
	t.Helper()
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	copy(k.private[:], private.Bytes())
	copy(k.public[:], private.PublicKey().Bytes())
	return k
}

// pop is a device in a test.
type pop struct {
	*Device
	keys
	v4, v6 netip.Addr
}

// newPOP opens a device on the netstack with the addresses 10.50.0.n and fd50::n.
func newPOP(t testing.TB, n byte, change ...func(*Config)) *pop {
	t.Helper()
	p := &pop{keys: newKeys(t), v4: netip.AddrFrom4([4]byte{10, 50, 0, n})}
	six := netip.MustParseAddr("fd50::").As16()
	six[15] = n
	p.v6 = netip.AddrFrom16(six)
	cfg := Config{
		Mode: Netstack, PrivateKey: p.private, Node: "pop-test",
		Addresses: []netip.Prefix{netip.PrefixFrom(p.v4, 16), netip.PrefixFrom(p.v6, 48)},
	}
	for _, f := range change {
		f(&cfg)
	}
	d, err := Open(cfg, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.InfoLevel))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	p.Device = d
	return p
}

func (p *pop) endpoint() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.Port())
}

// peer is what others are told of p, with what is behind it.
func (p *pop) peer(behind ...*pop) wg.Peer {
	q := wg.Peer{Name: "peer", Key: p.public, Endpoint: p.endpoint()}
	for _, b := range append(behind, p) {
		q.AllowedIPs = append(q.AllowedIPs, netip.PrefixFrom(b.v4, 32), netip.PrefixFrom(b.v6, 128))
	}
	return q
}

func (p *pop) follow(t testing.TB, peers ...wg.Peer) {
	t.Helper()
	if err := p.Configure(diff(nil, peers)); err != nil {
		t.Fatal(err)
	}
}

func diff(from, to []wg.Peer) []wg.Change {
	return wg.Diff(plan(from), plan(to))
}

func plan(peers []wg.Peer) wg.Plan {
	p := wg.Plan{Peers: slices.Clone(peers)}
	slices.SortFunc(p.Peers, func(a, b wg.Peer) int { return slices.Compare(a.Key[:], b.Key[:]) })
	return p
}

// join makes peers of two.
func join(t testing.TB, a, b *pop) {
	t.Helper()
	a.follow(t, b.peer())
	b.follow(t, a.peer())
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func (p *pop) at(port uint16) netip.AddrPort { return netip.AddrPortFrom(p.v4, port) }

// families are the two addresses of p with a port.
func (p *pop) families(port uint16) map[string]netip.AddrPort {
	return map[string]netip.AddrPort{"IPv4": netip.AddrPortFrom(p.v4, port), "IPv6": netip.AddrPortFrom(p.v6, port)}
}
