package device

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/edgeproxy/edgeproxy/wg"
)

const linkType = "wireguard"

// kernelTunnel is WireGuard in Linux.
type kernelTunnel struct {
	link   *systemLink
	client *wgctrl.Client
}

// alias marks an interface as this POP's, so that one left by kill -9 is
// known again, and no other is touched.
func alias(node string) string { return "edgeproxy " + node }

func openKernel(cfg Config, log zerolog.Logger, fail func(error)) (tunnel, network, error) {
	l := &systemLink{name: cfg.Interface, log: log}
	if err := l.makeKernel(alias(cfg.Node)); err != nil {
		return nil, nil, err
	}
	t, err := startKernel(cfg, l)
	if err != nil {
		l.delete()
		return nil, nil, err
	}
	w, err := watchLink(l, fail)
	if err != nil {
		t.close()
		l.delete()
		return nil, nil, err
	}
	l.remove = func() error {
		w.stop()
		return l.delete()
	}
	return t, l, nil
}

// makeKernel makes the interface, or takes over what a killed process of this POP has left.
func (l *systemLink) makeKernel(alias string) error {
	old, err := linkNamed(l.name)
	if err != nil {
		return err
	}
	if old != nil {
		if old.Type() != linkType || old.Attrs().Alias != alias {
			return foreign(l.name)
		}
		l.link = old
		return l.setRoutes(nil) // nobody else says that there are none
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.name
	err = netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("make interface %s: %w", l.name, ErrNoKernel)
	case errors.Is(err, unix.EEXIST):
		return foreign(l.name)
	case err != nil:
		return l.failed("make it", err)
	}
	if l.link, err = netlink.LinkByName(l.name); err != nil {
		return l.failed("find it again", err)
	}
	if err := netlink.LinkSetAlias(l.link, alias); err != nil {
		l.delete()
		return l.failed("mark it as ours", err)
	}
	// As the kernel has it now, for delete.
	l.link.Attrs().Alias = alias
	return nil
}

// delete removes the interface unless it is another one by now.
func (l *systemLink) delete() error {
	now, err := netlink.LinkByIndex(l.link.Attrs().Index)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return l.failed("look for it", err)
	}
	if now.Type() != l.link.Type() || now.Attrs().Alias != l.link.Attrs().Alias {
		return nil
	}
	if err := netlink.LinkDel(now); err != nil && !errors.Is(err, unix.ENODEV) {
		return l.failed("remove it", err)
	}
	return nil
}

// startKernel makes the client only now: it looks once whether there is a
// WireGuard, which making the first interface may have loaded.
func startKernel(cfg Config, l *systemLink) (*kernelTunnel, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, l.failed("configure it", err)
	}
	t := &kernelTunnel{link: l, client: client}
	key, port, mark := wgtypes.Key(cfg.PrivateKey), int(cfg.Port), 0
	err = client.ConfigureDevice(cfg.Interface, wgtypes.Config{PrivateKey: &key, ListenPort: &port, FirewallMark: &mark, ReplacePeers: true})
	if err != nil {
		err = l.failed("configure it", err)
	} else {
		err = l.up(cfg.MTU) // opens the port
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = portTaken(cfg.Port)
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	return t, nil
}

func (t *kernelTunnel) configure(changes []wg.Change) error {
	return t.set(wgtypes.Config{Peers: peerConfigs(changes)})
}

// peerConfigs is encodeChanges for the kernel.
func peerConfigs(changes []wg.Change) []wgtypes.PeerConfig {
	peers := make([]wgtypes.PeerConfig, 0, len(changes))
	for _, c := range changes {
		p := wgtypes.PeerConfig{PublicKey: wgtypes.Key(c.Key), UpdateOnly: c.Remove || !wholePeer(c), Remove: c.Remove}
		if c.Remove {
			peers = append(peers, p)
			continue
		}
		if c.NewEndpoint && c.Endpoint.IsValid() {
			p.Endpoint = net.UDPAddrFromAddrPort(unmap(c.Endpoint))
		}
		if c.NewAllowedIPs {
			p.ReplaceAllowedIPs = true
			for _, a := range c.AllowedIPs {
				p.AllowedIPs = append(p.AllowedIPs, net.IPNet{IP: a.Addr().AsSlice(), Mask: mask(a)})
			}
		}
		if c.NewKeepalive {
			every := time.Duration(keepaliveSeconds(c.Keepalive)) * time.Second
			p.PersistentKeepaliveInterval = &every
		}
		peers = append(peers, p)
	}
	return peers
}

func (t *kernelTunnel) setKey(key [32]byte) error {
	k := wgtypes.Key(key)
	return t.set(wgtypes.Config{PrivateKey: &k})
}

func (t *kernelTunnel) set(cfg wgtypes.Config) error {
	if err := t.link.present(); err != nil {
		return err
	}
	if err := t.client.ConfigureDevice(t.link.name, cfg); err != nil {
		return fmt.Errorf("configure WireGuard interface %s: %w", t.link.name, err)
	}
	return nil
}

func (t *kernelTunnel) status() (deviceStatus, error) {
	if err := t.link.present(); err != nil {
		return deviceStatus{}, err
	}
	d, err := t.client.Device(t.link.name)
	if err != nil {
		return deviceStatus{}, fmt.Errorf("ask WireGuard interface %s: %w", t.link.name, err)
	}
	s := deviceStatus{port: uint16(d.ListenPort)}
	for _, p := range d.Peers {
		q := wg.Status{
			Key: wg.Key(p.PublicKey), Handshake: p.LastHandshakeTime, Sent: p.TransmitBytes, Received: p.ReceiveBytes,
			Keepalive: p.PersistentKeepaliveInterval,
		}
		if q.Handshake.Unix() == 0 {
			q.Handshake = time.Time{}
		}
		if p.Endpoint != nil {
			q.Endpoint = unmap(p.Endpoint.AddrPort())
		}
		for _, a := range p.AllowedIPs {
			if prefix, ok := prefixOf(netlink.Addr{IPNet: &a}); ok {
				q.AllowedIPs = append(q.AllowedIPs, prefix)
			}
		}
		s.peers = append(s.peers, q)
	}
	sortStatus(s.peers)
	return s, nil
}

func (t *kernelTunnel) close() error { return t.client.Close() }
