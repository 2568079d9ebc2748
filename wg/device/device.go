// Package device makes one WireGuard device of what package wg plans: in the
// kernel, in this process on a TUN interface, or in this process on a TCP/IP
// stack of its own, which needs no rights.
//
//	d, err := device.Open(device.Config{
//		Mode: device.Netstack, Port: wg.Port, PrivateKey: key, Addresses: own, Node: "pop-sa",
//	}, log)
//	if err != nil {
//		return err // says what is wrong and what to do
//	}
//	defer d.Close()
//	err = d.Configure(wg.Diff(wg.Plan{}, plan))
//	conn, err := d.DialContext(ctx, "tcp", "10.50.0.9:80")
//
// Invariants: an interface that is not ours is never touched. What Open made
// is gone after Close, also if the process ends by itself; of a killed process
// only the kernel's interface stays, which the next Open takes over. A peer
// that has roamed stays where it was last heard unless a change names a new
// endpoint. No sysctl is set but those of the device's own interface.
//
// The package decides nothing: not who peers with whom, not which mode; and it
// keeps no key.
package device

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/edgeproxy/edgeproxy/wg"
)

// tunnel is WireGuard itself. Close comes once, after all else.
type tunnel interface {
	configure([]wg.Change) error
	setKey([32]byte) error
	status() (deviceStatus, error)
	close() error
}

// network is where the packets go to and come from: the kernel, or our own
// stack. Close comes once, before the tunnel's.
type network interface {
	setAddresses([]netip.Prefix) error
	setForwarding(bool) error
	setRoutes([]netip.Prefix) error
	ping(context.Context, netip.Addr) (time.Duration, error)
	dial(ctx context.Context, network, addr string) (net.Conn, error)
	listen(context.Context, netip.AddrPort) (net.Listener, error)
	close() error
}

// Device is one WireGuard device, open. Its methods may be called at once.
type Device struct {
	cfg     Config
	tunnel  tunnel
	network network
	port    uint16
	failed  chan error
	closing atomic.Bool // we, so that it has not failed

	mu     sync.Mutex // one change at a time
	closed bool
}

// Open makes a device that runs when it returns. The error wraps one of the
// package's own where a caller may want to try another mode.
func Open(cfg Config, log zerolog.Logger) (*Device, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	log = log.With().Str("component", "wg").Logger()
	d := &Device{cfg: cfg, failed: make(chan error, 1)}
	switch cfg.Mode {
	case Kernel:
		d.tunnel, d.network, err = openKernel(cfg, log, d.fail)
	case TUN:
		d.tunnel, d.network, err = openTUN(cfg, log, d.fail)
	default:
		d.tunnel, d.network, err = openNetstack(cfg, log, d.fail)
	}
	if err != nil {
		return nil, err
	}
	if err := d.start(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Device) start() error {
	if err := d.network.setAddresses(d.cfg.Addresses); err != nil {
		return err
	}
	if err := d.network.setForwarding(d.cfg.Forward); err != nil {
		return err
	}
	s, err := d.tunnel.status()
	if err != nil {
		return err
	}
	// wireguard-go forgets its port on a machine without IPv6.
	if d.port = s.port; d.port == 0 {
		d.port = d.cfg.Port
	}
	return nil
}

// fail is called at most once, by the goroutine that watches the device.
func (d *Device) fail(err error) {
	if !d.closing.Load() {
		d.failed <- err
	}
}

// Mode says where WireGuard runs.
func (d *Device) Mode() Mode { return d.cfg.Mode }

// Port is the UDP port, of both families.
func (d *Device) Port() uint16 { return d.port }

// Failed gets one error if the device dies under us: someone has deleted the
// interface. Close it and open another one then.
func (d *Device) Failed() <-chan error { return d.failed }

// Configure makes changes, as wg.Diff has them. The same changes twice do nothing the second time.
func (d *Device) Configure(changes []wg.Change) error {
	if len(changes) == 0 {
		return nil
	}
	return d.change(func() error { return d.tunnel.configure(changes) })
}

// SetPrivateKey makes the tunnels shake hands anew, with peers that know the
// new key; connections inside go on. A peer of the same key is removed.
func (d *Device) SetPrivateKey(key [32]byte) error {
	return d.change(func() error { return d.tunnel.setKey(key) })
}

// SetAddresses replaces the device's own addresses, and the connected routes.
// Connections from those that go break.
func (d *Device) SetAddresses(addresses []netip.Prefix) error {
	if err := validAddresses(addresses, d.cfg.MTU); err != nil {
		return err
	}
	return d.change(func() error { return d.network.setAddresses(slices.Clone(addresses)) })
}

// SetRoutes replaces the networks that lie behind peers: what is for them goes
// through the device.
func (d *Device) SetRoutes(routes []netip.Prefix) error {
	return d.change(func() error { return d.network.setRoutes(slices.Clone(routes)) })
}

// SetForwarding lets packets of peers for others pass, or no longer.
func (d *Device) SetForwarding(on bool) error {
	return d.change(func() error { return d.network.setForwarding(on) })
}

func (d *Device) change(f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	return f()
}

// Peers is what the device knows of its peers, by key.
func (d *Device) Peers() ([]wg.Status, error) {
	var s deviceStatus
	err := d.change(func() (err error) { s, err = d.tunnel.status(); return err })
	return s.peers, err
}

// DialContext connects by TCP to an address and port, inside the stack where
// the device has one of its own. It satisfies errors.Is for ECONNREFUSED and
// the like, as net.Dialer's do.
func (d *Device) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return d.network.dial(ctx, network, addr)
}

// Listen is net.Listen for TCP, inside the stack where the device has one of
// its own. Close the listener before the device, or with it.
func (d *Device) Listen(ctx context.Context, addr netip.AddrPort) (net.Listener, error) {
	return d.network.listen(ctx, addr)
}

// Close removes everything that Open made, and waits for what runs. Twice is safe.
// Connections inside the device's own stack are reset.
func (d *Device) Close() error {
	d.closing.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := d.network.close()
	if err2 := d.tunnel.close(); err == nil {
		err = err2
	}
	if err != nil {
		return fmt.Errorf("close WireGuard device %s: %w", d.cfg.Interface, err)
	}
	return nil
}
