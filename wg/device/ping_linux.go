package device

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
)

// ping uses a ping socket where this user may have one (net.ipv4.ping_group_range),
// else a raw one, which takes CAP_NET_RAW.
func (l *systemLink) ping(ctx context.Context, to netip.Addr) (time.Duration, error) {
	kinds := []string{"udp4", "ip4:icmp"}
	if to.Is6() {
		kinds = []string{"udp6", "ip6:ipv6-icmp"}
	}
	id := rand.IntN(1 << 16)
	at := net.Addr(&net.UDPAddr{IP: to.AsSlice()})
	conn, err := icmp.ListenPacket(kinds[0], "")
	match := -1 // the kernel's own choice, and it gives us no other's answers
	if err != nil {
		at, match = &net.IPAddr{IP: to.AsSlice()}, id
		conn, err = icmp.ListenPacket(kinds[1], "")
	}
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	packet, err := request(to, id)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := conn.WriteTo(packet, at); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, fmt.Errorf("no echo from %s: %w", to, err)
		}
		if sender(from) == to && answers(to, match, buf[:n]) {
			return time.Since(began), nil
		}
	}
}

func sender(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
