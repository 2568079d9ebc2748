//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/rs/zerolog"
	"golang.zx2c4.com/wireguard/conn"
	wireguard "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	stock "golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/edgeproxy/edgeproxy/wg"
	"github.com/edgeproxy/edgeproxy/wg/device"
)

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// way is how a process reaches the other end.
type way struct {
	dial   dialFunc
	listen func(context.Context, netip.AddrPort) (net.Listener, error)
	close  func()
}

func dialKernel(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func listenKernel(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	return new(net.ListenConfig).Listen(ctx, "tcp", at.String())
}

func openWay(self, other place) (*way, error) {
	switch self.End {
	case bare, external, library: // another process seals, if any
		return &way{dial: dialKernel, listen: listenKernel, close: func() {}}, nil
	case stockStack:
		return openStock(self, other)
	case oursTUN, oursStack, oursKernel:
		return openOurs(self, other)
	}
	return nil, fmt.Errorf("no such end: %s", self.End)
}

func openOurs(self, other place) (*way, error) {
	cfg := device.Config{
		Mode: device.Mode(self.End), Interface: self.Interface, Port: wg.Port, PrivateKey: self.Private,
		Addresses: []netip.Prefix{self.Overlay}, Node: "bench",
	}
	if cfg.Mode == device.Netstack {
		cfg.Interface = "" // no socket for wg(8)
	}
	d, err := device.Open(cfg, zerolog.New(os.Stderr).Level(zerolog.WarnLevel))
	if err != nil {
		return nil, err
	}
	peer := wg.Peer{Name: "other", Key: other.Public, Endpoint: other.endpoint(), AllowedIPs: []netip.Prefix{single(other)}}
	if err := d.Configure(wg.Diff(wg.Plan{}, wg.Plan{Peers: []wg.Peer{peer}})); err != nil {
		d.Close()
		return nil, err
	}
	return &way{dial: d.DialContext, listen: d.Listen, close: func() { d.Close() }}, nil
}

func single(p place) netip.Prefix {
	return netip.PrefixFrom(p.Overlay.Addr(), p.Overlay.Addr().BitLen())
}

func openStock(self, other place) (*way, error) {
	nic, stack, err := stock.CreateNetTUN([]netip.Addr{self.Overlay.Addr()}, nil, wg.MTU)
	if err != nil {
		return nil, err
	}
	d, err := runLibrary(nic, self, other)
	if err != nil {
		return nil, err
	}
	if err := d.Up(); err != nil {
		d.Close()
		return nil, err
	}
	return &way{
		dial:   stack.DialContext,
		listen: func(_ context.Context, at netip.AddrPort) (net.Listener, error) { return stack.ListenTCPAddrPort(at) },
		close:  d.Close,
	}, nil
}

// openLibrary does what the library's own command does; it begins when its interface is set up.
func openLibrary(self, other place) (*way, error) {
	nic, err := tun.CreateTUN(self.Interface, wg.MTU)
	if err != nil {
		return nil, err
	}
	d, err := runLibrary(nic, self, other)
	if err != nil {
		return nil, err
	}
	return &way{close: d.Close}, nil
}

func runLibrary(nic tun.Device, self, other place) (*wireguard.Device, error) {
	d := wireguard.NewDevice(nic, conn.NewDefaultBind(), wireguard.NewLogger(wireguard.LogLevelError, ""))
	err := d.IpcSet(fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s\nallowed_ip=%s\n",
		self.Private[:], wg.Port, other.Public[:], other.endpoint(), single(other)))
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}
