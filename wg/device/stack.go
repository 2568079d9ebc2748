package device

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const nicID = 1

// Buffers of one connection grow as it needs them: 8 MiB fill 1 Gbit/s over
// 60 ms there and back.
const (
	leastBuffer = 4 << 10
	firstBuffer = 256 << 10
	mostBuffer  = 8 << 20
)

// userStack is a TCP/IP stack in this process, on top of WireGuard's packets.
type userStack struct {
	stack   *stack.Stack
	packets *packets

	mu     sync.Mutex
	own    []netip.Prefix
	behind []netip.Prefix // networks behind peers
}

func openNetstack(cfg Config, log zerolog.Logger, fail func(error)) (tunnel, network, error) {
	p := newPackets(cfg.MTU)
	s, err := newStack(p)
	if err != nil {
		return nil, nil, err
	}
	t, err := startProcess(cfg, newNIC(p), log, fail)
	if err != nil {
		s.close()
		return nil, nil, err
	}
	return t, s, nil
}

func newStack(p *packets) (*userStack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        true,
	})
	u := &userStack{stack: s, packets: p}
	sack, moderate := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	// gVisor's RACK takes late acknowledgements for losses (its issue 9778).
	recovery := tcpip.TCPRecovery(0)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: leastBuffer, Default: firstBuffer, Max: mostBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: leastBuffer, Default: firstBuffer, Max: mostBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &recovery, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			u.close()
			return nil, fmt.Errorf("set up TCP of our own: %T: %s", option, err)
		}
	}
	if err := s.CreateNIC(nicID, link{p}); err != nil {
		u.close()
		return nil, fmt.Errorf("set up a network of our own: %s", err)
	}
	return u, nil
}

// setAddresses adds before it removes, so that what stays is never without.
func (u *userStack) setAddresses(addresses []netip.Prefix) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	wanted := make(map[netip.Addr]bool)
	var own []netip.Addr
	for _, a := range addresses {
		wanted[a.Addr()] = true
		own = append(own, a.Addr())
		if u.has(a.Addr()) {
			continue
		}
		address := tcpip.ProtocolAddress{
			Protocol:          protocolOf(a.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFromSlice(a.Addr().AsSlice()), PrefixLen: a.Addr().BitLen()},
		}
		if err := u.stack.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("take own address %s: %s", a, err)
		}
	}
	u.packets.own.Store(&own)
	if err := u.routeLocked(addresses, u.behind); err != nil {
		return err
	}
	for _, a := range u.own {
		if !wanted[a.Addr()] {
			if err := u.stack.RemoveAddress(nicID, tcpip.AddrFromSlice(a.Addr().AsSlice())); err != nil {
				return fmt.Errorf("give up own address %s: %s", a, err)
			}
		}
	}
	u.own = addresses
	return nil
}

func (u *userStack) setRoutes(routes []netip.Prefix) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.behind = routes
	return u.routeLocked(u.own, routes)
}

// routeLocked has routes to the networks of the own addresses and to those behind peers.
func (u *userStack) routeLocked(own, behind []netip.Prefix) error {
	var routes []tcpip.Route
	for _, p := range append(slices.Clone(behind), own...) {
		p = p.Masked()
		subnet, err := tcpip.NewSubnet(tcpip.AddrFromSlice(p.Addr().AsSlice()), tcpip.MaskFromBytes(mask(p)))
		if err != nil {
			return fmt.Errorf("route to %s: %w", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: subnet, NIC: nicID})
	}
	u.stack.SetRouteTable(routes)
	return nil
}

func (u *userStack) has(a netip.Addr) bool {
	for _, own := range u.own {
		if own.Addr() == a {
			return true
		}
	}
	return false
}

func mask(p netip.Prefix) []byte {
	return net.CIDRMask(p.Bits(), p.Addr().BitLen())
}

func (u *userStack) setForwarding(on bool) error {
	u.packets.forwards.Store(on)
	return nil
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}

func (u *userStack) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.AddrError{Err: "want an IP address and a port", Addr: addr}}
	}
	to = unmap(to)
	if network != "tcp" && (network != "tcp4" || !to.Addr().Is4()) && (network != "tcp6" || !to.Addr().Is6()) {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: net.UnknownNetworkError(network)}
	}
	c, err := u.connect(ctx, to)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	return c, nil
}

func (u *userStack) connect(ctx context.Context, to netip.AddrPort) (*stackConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	queue := new(waiter.Queue)
	ep, terr := u.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(to.Addr()), queue)
	if terr != nil {
		return nil, errnoOf("connect", terr)
	}
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	terr = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(to.Addr().AsSlice()), Port: to.Port()})
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = ep.LastError()
		case <-ctx.Done():
			ep.Abort()
			return nil, ctx.Err()
		}
	}
	if terr != nil {
		ep.Close()
		return nil, errnoOf("connect", terr)
	}
	return newStackConn(ep, queue), nil
}

func (u *userStack) listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	at = unmap(at)
	fail := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: net.TCPAddrFromAddrPort(at), Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	l := &stackListener{closed: make(chan struct{})}
	ep, terr := u.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(at.Addr()), &l.queue)
	if terr != nil {
		return fail(errnoOf("socket", terr))
	}
	ep.SocketOptions().SetReuseAddress(true)      // as package net does
	address := tcpip.FullAddress{Port: at.Port()} // with the NIC's number it takes addresses that are not ours
	if !at.Addr().IsUnspecified() {
		address.Addr = tcpip.AddrFromSlice(at.Addr().AsSlice())
	}
	if terr := ep.Bind(address); terr != nil {
		ep.Close()
		return fail(errnoOf("bind", terr))
	}
	if terr := ep.Listen(backlog); terr != nil {
		ep.Close()
		return fail(errnoOf("listen", terr))
	}
	l.start(ep)
	return l, nil
}

// parting is what the last packets are given to leave: ends of connections
// that have just been closed, and resets of those still open. Without them the
// other side would wait for minutes.
const (
	parting = 100 * time.Millisecond // for the outbox, which takes far less unless WireGuard is stuck
	sending = 5 * time.Millisecond   // from there to the UDP socket
)

// close resets what is still open.
func (u *userStack) close() error {
	u.stack.Close()
	if u.packets.out.settle(parting) {
		time.Sleep(sending)
	}
	u.packets.out.close() // whoever waits to send does so no longer
	u.stack.Wait()
	return nil
}

// keepalive finds out that the other side is gone, as often as package net does.
func keepalive(ep tcpip.Endpoint) {
	idle, interval := tcpip.KeepaliveIdleOption(15*time.Second), tcpip.KeepaliveIntervalOption(15*time.Second)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, 9)
	ep.SocketOptions().SetKeepAlive(true)
}
