package device

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// batch is how many packets WireGuard takes or gives at once.
const batch = 128

// packets is the way between WireGuard and our stack:
//
//	stack --> link.WritePackets --> outbox --> nic.Read --> WireGuard
//	                                  ^
//	                                  | to others, where we forward
//	stack <------- coalescer <------ nic.Write <------------ WireGuard
type packets struct {
	mtu        int
	out        *outbox
	dispatcher atomic.Pointer[stack.NetworkDispatcher] // the stack; nil: gone
	own        atomic.Pointer[[]netip.Addr]
	forwards   atomic.Bool
	coalescers sync.Pool // one for each peer that gives packets right now

	// Of the one goroutine that reads:
	taken []outgoing // from the outbox
	next  int        // of taken
	cut   segments
}

func newPackets(mtu int) *packets {
	p := &packets{mtu: mtu, out: newOutbox()}
	p.own.Store(&[]netip.Addr{})
	p.coalescers.New = func() any { return &coalescer{deliver: p.deliver} }
	return p
}

// nic is the interface that WireGuard sees.
type nic struct {
	*packets
	events chan tun.Event
	once   sync.Once
}

func newNIC(p *packets) *nic { return &nic{packets: p, events: make(chan tun.Event)} }

func (n *nic) File() *os.File           { return nil }
func (n *nic) MTU() (int, error)        { return n.mtu, nil }
func (n *nic) Name() (string, error)    { return "netstack", nil }
func (n *nic) Events() <-chan tun.Event { return n.events }
func (n *nic) BatchSize() int           { return batch }

func (n *nic) Close() error {
	n.once.Do(func() {
		n.out.close()
		close(n.events)
	})
	return nil
}

// Read fills bufs with what waits, and waits for the first.
func (n *nic) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	count := 0
	for count < len(bufs) {
		if n.cut.active() {
			sizes[count] = n.cut.next(bufs[count][offset:])
			count++
			continue
		}
		if n.next == len(n.taken) {
			if count > 0 {
				break
			}
			clear(n.taken)
			taken, err := n.out.take(n.taken[:0])
			if err != nil {
				return 0, err
			}
			n.taken, n.next = taken, 0
		}
		o := n.taken[n.next]
		n.next++
		if o.packet != nil {
			n.cut.start(o.packet)
			continue
		}
		sizes[count] = copy(bufs[count][offset:], o.frame.bytes())
		o.release()
		count++
	}
	return count, nil
}

// Write takes what one peer has sent, whose sources WireGuard has checked. It
// is called by several peers' goroutines at once, and keeps no buffer.
func (n *nic) Write(bufs [][]byte, offset int) (int, error) {
	c := n.coalescers.Get().(*coalescer)
	for _, b := range bufs {
		p := b[offset:]
		destination, ok := destinationOf(p)
		switch {
		case !ok:
		case n.isOwn(destination):
			c.add(p)
		case n.forwards.Load() && !destination.IsMulticast() && hop(p):
			n.out.put(outgoing{frame: newFrame(p)}, false)
		}
	}
	c.flushAll()
	n.coalescers.Put(c)
	return len(bufs), nil
}

func destinationOf(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= header.IPv4MinimumSize && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= header.IPv6MinimumSize && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return netip.Addr{}, false
}

func (p *packets) isOwn(a netip.Addr) bool {
	for _, own := range *p.own.Load() {
		if own == a {
			return true
		}
	}
	return false
}

func (p *packets) deliver(proto tcpip.NetworkProtocolNumber, v *buffer.View) {
	packet := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	if d := p.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(proto, packet)
	}
	packet.DecRef()
}

// link is the interface that the stack sees.
type link struct{ *packets }

// WritePackets holds a sender back while WireGuard is busy.
func (l link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, packet := range list.AsSlice() {
		if !l.out.put(outgoing{packet: packet.IncRef()}, true) {
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

func (l link) Attach(d stack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

func (l link) IsAttached() bool { return l.dispatcher.Load() != nil }
func (l link) MTU() uint32      { return uint32(l.mtu) }
func (link) SetMTU(uint32)      {}

// Capabilities: WireGuard has authenticated what comes in, so that checksums
// inside need no second look; Linux takes them as checked as well
// (drivers/net/wireguard/receive.c).
func (link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// GSOMaxSize is the largest segment that the stack makes, cut up by segments.
func (link) GSOMaxSize() uint32                      { return gsoSize }
func (link) SupportedGSO() stack.SupportedGSO        { return stack.HostGSOSupported }
func (link) MaxHeaderLength() uint16                 { return 0 }
func (link) LinkAddress() tcpip.LinkAddress          { return "" }
func (link) SetLinkAddress(tcpip.LinkAddress)        {}
func (link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (link) AddHeader(*stack.PacketBuffer)           {}
func (link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (link) SetOnCloseAction(func())                 {}
func (link) Wait()                                   {}
func (link) Close()                                  {}

const gsoSize = 65535
