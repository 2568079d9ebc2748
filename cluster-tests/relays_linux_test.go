package clustertests

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// relays stand before the POPs of a scenario on loopback: each POP advertises
// the address of its relay, and so whatever goes between two POPs comes by a
// place where it can be cut and delayed, without any privilege.
//
//	POP 0 (127.1.2.1) --- relay of POP 1 (127.1.2.101) --- POP 1 (127.1.2.2)
type relays struct {
	links *links
	base  netip.Addr // the first three bytes of all addresses
	ctx   context.Context
	all   sync.WaitGroup

	mu   sync.Mutex
	pops []*pop
}

// newRelays serve until the test ends.
func newRelays(t testing.TB, l *links) *relays {
	gossip, _ := ownAddrs(t)
	ctx, cancel := context.WithCancel(context.Background())
	r := &relays{links: l, base: netip.MustParseAddrPort(gossip).Addr(), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		r.all.Wait()
	})
	return r
}

func (r *relays) at(n int) netip.Addr {
	b := r.base.As4()
	return netip.AddrFrom4([4]byte{b[0], b[1], b[2], byte(n)})
}

func (r *relays) real(i int) netip.Addr  { return r.at(1 + i) }
func (r *relays) front(i int) netip.Addr { return r.at(101 + i) }

// number is that of the POP that listens on an address, -1 of none.
func (r *relays) number(a netip.Addr) int {
	for i := range r.list() {
		if r.real(i) == a {
			return i
		}
	}
	return -1
}

func (r *relays) list() []*pop {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pops
}

// add gives a POP its addresses and its relay.
func (r *relays) add(p *pop) error {
	r.mu.Lock()
	i := len(r.pops)
	r.pops = append(r.pops[:i:i], p)
	r.mu.Unlock()
	p.set("EDGEPROXY_GOSSIP_ADDR", r.real(i).String()+":7946")
	p.set("EDGEPROXY_SYNC_ADDR", r.real(i).String()+":7947")
	p.set("EDGEPROXY_ADVERTISE_ADDR", r.front(i).String())
	p.set("EDGEPROXY_LISTEN_ADDR", r.real(i).String()+":0") // nobody else gets the port while the POP is down
	p.set("EDGEPROXY_API_ADDR", r.real(i).String()+":0")
	if i > 0 {
		p.set("EDGEPROXY_JOIN", r.front(0).String())
	}
	return errors.Join(r.streams(i, 7946), r.streams(i, 7947), r.packets(i, 7946))
}

// packets relays UDP to a POP. Memberlist answers to the address in a packet,
// not to the one that it came from.
func (r *relays) packets(to int, port uint16) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.front(to), port)))
	if err != nil {
		return err
	}
	r.all.Go(func() {
		<-r.ctx.Done()
		_ = conn.Close()
	})
	dest := netip.AddrPortFrom(r.real(to), port)
	cables := map[int]*cable{}
	r.all.Go(func() {
		buf := make([]byte, 1<<16)
		for r.ctx.Err() == nil {
			n, src, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				continue // an ICMP error about something we sent, or the end
			}
			from := r.number(src.Addr().Unmap())
			delays := r.links.passes(from, to)
			if from < 0 || len(delays) == 0 {
				continue
			}
			w := cables[from]
			if w == nil {
				w = newCable()
				cables[from] = w
				r.all.Go(func() {
					w.run(r.ctx, func(b []byte) {
						_, _ = conn.WriteToUDPAddrPort(b, dest) // nobody listens while a POP is down
					})
				})
			}
			w.send(append([]byte(nil), buf[:n]...), delays)
		}
	})
	return nil
}

// streams relays TCP to a POP.
func (r *relays) streams(to int, port uint16) error {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.front(to), port)))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(r.ctx, func() { _ = ln.Close() })
	r.all.Go(func() {
		defer stop()
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			r.all.Go(func() { r.stream(c, to, netip.AddrPortFrom(r.real(to), port)) })
		}
	})
	return nil
}

// stream relays one connection. Who made it is known by its socket.
func (r *relays) stream(in *net.TCPConn, to int, dest netip.AddrPort) {
	defer in.Close()
	from := r.owner(in)
	if from < 0 || r.links.open(r.ctx, from, to) != nil {
		return
	}
	out, err := net.Dial("tcp", dest.String())
	if err != nil {
		return
	}
	defer out.Close()
	ctx, cancel := context.WithCancel(r.ctx)
	stop := context.AfterFunc(ctx, func() {
		_ = in.Close()
		_ = out.Close()
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { r.pump(ctx, out, in, from, to); cancel() })
	both.Go(func() { r.pump(ctx, in, out, to, from); cancel() })
	both.Wait()
	cancel()
}

// pump copies one direction. While the link is cut bytes wait in the kernel's
// buffers, as they would for retransmission.
func (r *relays) pump(ctx context.Context, dst io.Writer, src io.Reader, from, to int) {
	queue := make(chan parcel, 16) // what is on its way; more waits at the sender
	var writer sync.WaitGroup
	defer writer.Wait()
	defer close(queue)
	ctx, cancel := context.WithCancel(ctx)
	writer.Go(func() {
		defer cancel()
		for p := range queue {
			if !waitUntil(ctx, p.due) || r.links.open(ctx, from, to) != nil {
				return
			}
			if !r.trickle(ctx, dst, p.data, from, to) {
				return
			}
		}
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			select {
			case queue <- parcel{time.Now().Add(r.links.delayOf(from, to)), append([]byte(nil), buf[:n]...)}:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// trickle writes as fast as the link is at each moment.
func (r *relays) trickle(ctx context.Context, dst io.Writer, data []byte, from, to int) bool {
	const step = 50 * time.Millisecond
	for len(data) > 0 {
		n := len(data)
		if rate := r.links.rateOf(from, to); rate > 0 {
			n = min(n, max(1, rate*int(step)/int(time.Second)))
			if !waitUntil(ctx, time.Now().Add(step)) {
				return false
			}
		}
		if _, err := dst.Write(data[:n]); err != nil {
			return false
		}
		data = data[n:]
	}
	return true
}

// owner is the number of the POP whose process has the other end of a
// connection, -1 where none has, or has it no more.
func (r *relays) owner(c net.Conn) int {
	// The table is read in pieces while it changes, on a busy machine by much.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		inode := inodeOf(c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort())
		if inode == "0" {
			return -1 // closed already
		}
		for i, p := range r.list() {
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.pid.Load()))
			for _, fd := range fds {
				if to, err := os.Readlink(fd); err == nil && to == "socket:["+inode+"]" {
					return i
				}
			}
		}
		if !waitUntil(r.ctx, time.Now().Add(poll)) {
			break
		}
	}
	return -1
}

// inodeOf is the kernel's number of the TCP socket between two addresses
// (proc(5): /proc/net/tcp). The local one alone may be another connection's, too,
// that was closed a while ago.
func inodeOf(local, remote netip.AddrPort) string {
	hex := func(at netip.AddrPort) string {
		a := at.Addr().As4()
		return fmt.Sprintf("%02X%02X%02X%02X:%04X", a[3], a[2], a[1], a[0], at.Port())
	}
	from, to := hex(local), hex(remote)
	table, _ := os.ReadFile("/proc/net/tcp")
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 9 && f[1] == from && f[2] == to {
			return f[9]
		}
	}
	return "none"
}
