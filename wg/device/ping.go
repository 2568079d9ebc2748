package device

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip"
	gicmp "gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Ping sends an ICMP echo request through the device and returns how long the
// answer took. ctx says how long it is waited for.
func (d *Device) Ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	return d.network.ping(ctx, to.Unmap())
}

// pingBody tells our requests from others'.
const pingBody = "edgeproxy"

// request is an echo request. The kernel and our stack set the identifier
// themselves where they tell answers apart by it.
func request(to netip.Addr, id int) ([]byte, error) {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte(pingBody)}}
	if to.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	return m.Marshal(nil)
}

// answers says whether a packet is the answer to a request; id -1: of any identifier.
func answers(to netip.Addr, id int, packet []byte) bool {
	protocol, reply := 1, icmp.Type(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		protocol, reply = 58, ipv6.ICMPTypeEchoReply
	}
	m, err := icmp.ParseMessage(protocol, packet)
	if err != nil || m.Type != reply {
		return false
	}
	e, ok := m.Body.(*icmp.Echo)
	return ok && (id < 0 || e.ID == id) && bytes.Equal(e.Data, []byte(pingBody))
}

func (u *userStack) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	var queue waiter.Queue
	protocol := gicmp.ProtocolNumber4
	if to.Is6() {
		protocol = gicmp.ProtocolNumber6
	}
	ep, terr := u.stack.NewEndpoint(protocol, protocolOf(to), &queue)
	if terr != nil {
		return 0, errnoOf("socket", terr)
	}
	defer ep.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr | waiter.EventHUp)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if terr := ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(to.AsSlice())}); terr != nil {
		return 0, errnoOf("connect", terr)
	}
	packet, err := request(to, 0)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, terr := ep.Write(bytes.NewReader(packet), tcpip.WriteOptions{}); terr != nil {
		return 0, errnoOf("write", terr)
	}
	for {
		var answer bytes.Buffer
		switch _, terr := ep.Read(&answer, tcpip.ReadOptions{}); terr.(type) {
		case nil:
			if answers(to, -1, answer.Bytes()) {
				return time.Since(began), nil
			}
			continue
		case *tcpip.ErrWouldBlock:
		default:
			return 0, errnoOf("read", terr)
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return 0, fmt.Errorf("no echo from %s: %w", to, ctx.Err())
		}
	}
}
