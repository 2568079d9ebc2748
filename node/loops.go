package node

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/edgeproxy/edgeproxy/wg"
)

// loops keeps POPs from relaying to POPs: it knows where this one and the
// others listen for clients, and which backend is such a place. It is asked
// when the picture is made, never on the way of a connection.
type loops struct {
	self string

	mu      sync.Mutex
	front   string   // where this POP listens for clients
	others  []string // and for everything else
	allow   []netip.Prefix
	members []door
	local   []netip.Addr // of this machine
	looked  time.Time
}

// door is where a POP listens for clients.
type door struct {
	pop   string
	addrs []netip.Addr // by which it is reached
	front string       // ip:port, or :port for every address; empty: not known
	ports []string     // on which it listens for other POPs and administrators
}

// localEvery is how often the machine is asked for its addresses.
const localEvery = 30 * time.Second

func newLoops(self string, cfg *config.Config) *loops {
	return &loops{self: self, allow: cfg.AllowBackends}
}

// allowOnly changes where backends may be all the same.
func (l *loops) allowOnly(prefixes []netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allow = prefixes
}

// opened notes where this POP listens: for clients, and for everything else.
func (l *loops) opened(front string, others ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.front, l.others = front, others
}

// setMembers notes where the others do, and says whether that is new.
func (l *loops) setMembers(members []membership.Member, overlay []wg.POP) (changed bool) {
	var doors []door
	for _, m := range members {
		if m.Self || m.Tags[tagRole] != roleOurs || !m.Addr.IsValid() || m.Status == membership.StatusLeft {
			continue
		}
		d := door{pop: m.Name, front: m.Tags[tagListen], addrs: []netip.Addr{plain(m.Addr.Addr())}}
		d.ports = append(strings.Split(m.Tags[tagPorts], ","), m.Tags[tagSync], strconv.Itoa(int(m.Addr.Port())))
		for _, p := range overlay {
			if p.Name == m.Name {
				d.addrs = append(d.addrs, p.Four, p.Six)
			}
		}
		doors = append(doors, d)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	same := slices.EqualFunc(l.members, doors, func(a, b door) bool {
		return a.pop == b.pop && a.front == b.front && slices.Equal(a.addrs, b.addrs) && slices.Equal(a.ports, b.ports)
	})
	l.members = doors
	return !same
}

// listenTag is a listener's address as short as it goes: with the port alone
// where it is every address.
func listenTag(addr string) string {
	at, err := netip.ParseAddrPort(addr)
	if err != nil || at.Addr().IsUnspecified() {
		_, port, _ := net.SplitHostPort(addr)
		return ":" + port
	}
	return netip.AddrPortFrom(plain(at.Addr()), at.Port()).String()
}

// portsTag are the ports of those listeners that are reached from elsewhere.
func portsTag(addrs []string) string {
	var ports []string
	for _, addr := range addrs {
		if at, err := netip.ParseAddrPort(addr); err == nil && !at.Addr().IsLoopback() {
			ports = append(ports, strconv.Itoa(int(at.Port())))
		}
	}
	return strings.Join(ports, ",")
}

// plain is an address in one form, however it was written.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// doors is where POPs listen for clients, ready to be asked.
type doors struct {
	allow      []netip.Prefix
	exact      map[netip.AddrPort]string        // whose it is
	everyone   map[uint16]string                // ports that services open at every address of every POP
	owners     map[netip.Addr]map[string]uint16 // which POPs are at an address, with the port that each opens at all its addresses
	neighbours map[string]uint16                // POPs of this machine: they are behind its loopback addresses, too
}

// doors are the listeners as they are now, with those of the services.
func (l *loops) doors(services []mesh.Service, now time.Time) *doors {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lookLocked(now)
	d := &doors{
		allow: l.allow, exact: map[netip.AddrPort]string{}, everyone: map[uint16]string{},
		owners: map[netip.Addr]map[string]uint16{}, neighbours: map[string]uint16{},
	}
	own := door{pop: l.self, addrs: l.local, front: listenTag(l.front)}
	for i, at := range append([]door{own}, l.members...) {
		port := uint16(0)
		here := i == 0 || slices.ContainsFunc(at.addrs, func(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(l.local, a) })
		// Nobody here reaches what is behind another machine's loopback address.
		if front, err := netip.ParseAddrPort(at.front); err == nil && (here || !front.Addr().IsLoopback()) {
			d.exact[netip.AddrPortFrom(plain(front.Addr()), front.Port())] = "POP " + at.pop
		} else if every, ok := strings.CutPrefix(at.front, ":"); ok {
			n, _ := strconv.ParseUint(every, 10, 16)
			port = uint16(n)
		}
		if here {
			d.neighbours[at.pop] = port
		}
		for _, a := range at.addrs {
			if d.owners[a] == nil {
				d.owners[a] = map[string]uint16{}
			}
			d.owners[a][at.pop] = port
		}
	}
	for i := range services {
		for _, addr := range services[i].Listen {
			d.service(services[i].App, addr)
		}
	}
	return d
}

// lookLocked asks the machine for its addresses now and then.
func (l *loops) lookLocked(now time.Time) {
	if !l.looked.IsZero() && now.Sub(l.looked) < localEvery {
		return
	}
	l.looked = now
	all, err := net.InterfaceAddrs()
	if err != nil {
		return // those known before
	}
	l.local = nil
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			l.local = append(l.local, plain(p.Addr()))
		}
	}
}

// service adds a listener that a service opens on every POP.
func (d *doors) service(app, addr string) {
	tag := listenTag(addr)
	if at, err := netip.ParseAddrPort(tag); err == nil {
		d.exact[at] = "every POP, for the app " + app
		return
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(tag, ":"), 10, 16); err == nil && n > 0 {
		d.everyone[uint16(n)] = app
	}
}

// find says whose listener for clients an address is, as in POP us-1, or one
// that stands in it; empty: nobody's.
func (d *doors) find(at netip.AddrPort) (pop string) {
	for _, a := range append(embedded(at.Addr()), plain(at.Addr())) {
		pop = cmp.Or(pop, d.at(netip.AddrPortFrom(a, at.Port())))
	}
	return pop
}

func (d *doors) at(at netip.AddrPort) string {
	if pop := d.exact[at]; pop != "" {
		return pop
	}
	here := d.owners[at.Addr()]
	if at.Addr().IsLoopback() {
		here = d.neighbours
	}
	_, opened := d.everyone[at.Port()]
	for _, pop := range slices.Sorted(maps.Keys(here)) {
		if opened || here[pop] == at.Port() {
			return "POP " + pop
		}
	}
	return ""
}

// allowed says whether an operator said that backends may be there.
func (d *doors) allowed(a netip.Addr) bool { return allowed(d.allow, a) }

func allowed(prefixes []netip.Prefix, a netip.Addr) bool {
	a = plain(a)
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

const allowThem = "put it into allow_backends (EDGEPROXY_ALLOW_BACKENDS) of the POPs where it is meant so"

// cut leaves out of a new snapshot the backends that are listeners of POPs:
// connections could go round in circles. Of those that an operator allows it
// notes that they are, so that no POP is sent to them: one step is enough.
func (l *loops) cut(snap *mesh.Snapshot) *mesh.Snapshot {
	d, some := l.doors(snap.Services, time.Now()), false
	snap = snap.Without(func(b *mesh.Backend) *mesh.FieldError {
		pop := d.find(b.Addr)
		if pop == "" {
			return nil
		}
		if d.allowed(b.Addr.Addr()) {
			b.POP, some = pop, true
			return nil
		}
		return &mesh.FieldError{Field: "wg_ip", Message: isListener(b.Addr, pop)}
	})
	if some {
		snap.POPs = make(map[netip.Addr]bool, len(d.owners))
		for a := range d.owners {
			snap.POPs[a] = true
		}
	}
	return snap
}

func isListener(at netip.AddrPort, pop string) string {
	return fmt.Sprintf("%s is the listener of %s: a POP does not relay to a POP; give the backend's own address, or %s", at, pop, allowThem)
}

// listener says why an operator may not write a backend at an address: it would
// be cut. Empty: he may, as he always may without a daemon, where l is nil.
func (l *loops) listener(services []mesh.Service, at netip.AddrPort) string {
	if l == nil {
		return ""
	}
	d := l.doors(services, time.Now())
	if pop := d.find(at); pop != "" && !d.allowed(at.Addr()) {
		return isListener(at, pop)
	}
	return ""
}

// refusal says why nobody may register a backend at an address; empty: he may.
func (l *loops) refusal(services []mesh.Service, at netip.AddrPort) string {
	d := l.doors(services, time.Now())
	if d.allowed(at.Addr()) {
		return ""
	}
	if kind := trap(at.Addr()); kind != "" {
		return fmt.Sprintf("%s is %s: give the address by which the POPs reach the backend, or %s", at.Addr(), kind, allowThem)
	}
	if pop := cmp.Or(d.find(at), l.private(at)); pop != "" {
		return fmt.Sprintf("%s is a listener of %s, no backend: give the backend's own address, or %s", at, pop, allowThem)
	}
	return ""
}

// private says which POP listens at an address, or one that stands in it, for
// other things than clients. Of the others it knows the ports: they count at all
// addresses by which the POP is reached.
func (l *loops) private(at netip.AddrPort) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range append(embedded(at.Addr()), plain(at.Addr())) {
		if l.ownLocked(netip.AddrPortFrom(a, at.Port())) {
			return "POP " + l.self
		}
		for _, m := range l.members {
			if slices.Contains(m.addrs, a) && slices.Contains(m.ports, strconv.Itoa(int(at.Port()))) {
				return "POP " + m.pop
			}
		}
	}
	return ""
}

func (l *loops) ownLocked(at netip.AddrPort) bool {
	return slices.ContainsFunc(l.others, func(addr string) bool {
		own, err := netip.ParseAddrPort(addr)
		if err != nil || own.Port() != at.Port() {
			return false
		}
		every := own.Addr().IsUnspecified() && (at.Addr().IsLoopback() || slices.Contains(l.local, at.Addr()))
		return every || plain(own.Addr()) == at.Addr()
	})
}

// trap says what is wrong with an address for a backend that names itself;
// empty: nothing. Whoever may register could otherwise have the POPs, and with
// them everybody on the internet, connect to what listens on their own machines
// only, or to the metadata service of their cloud, which hands out credentials.
func trap(a netip.Addr) string {
	a = plain(a)
	switch {
	case slices.Contains(metadata, a):
		return "a cloud's metadata service"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	case a.IsUnspecified() || a.Is4() && a.As4()[0] == 0:
		return "no address of a machine"
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "a multicast address"
	}
	for _, inner := range embedded(a) {
		if kind := trap(inner); kind != "" {
			return kind
		}
	}
	return ""
}

// metadata are the addresses of clouds' metadata services that are not link-local.
var metadata = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // nearly all
	netip.MustParseAddr("fd00:ec2::254"),   // Amazon
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("fd00:42::42"),     // Scaleway
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

// Forms of IPv6 in which an IPv4 address stands: behind a translator or a
// tunnel the connection ends up there.
var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291, deprecated
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// embedded are the IPv4 addresses that may stand in an IPv6 address.
func embedded(a netip.Addr) (inner []netip.Addr) {
	a = plain(a)
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	four := func(bytes ...byte) { inner = append(inner, netip.AddrFrom4([4]byte(bytes))) }
	switch {
	case nat64.Contains(a), translated.Contains(a), compatible.Contains(a):
		four(b[12:]...)
	case sixToFour.Contains(a):
		four(b[2:6]...)
	case teredo.Contains(a): // the client's is inverted
		four(^b[12], ^b[13], ^b[14], ^b[15])
	case localNAT64.Contains(a): // at one of four places: whose prefix is how long nobody tells
		four(b[12:]...)
		four(b[9:13]...)
		four(b[7], b[9], b[10], b[11])
		four(b[6], b[7], b[9], b[10])
		inner = slices.DeleteFunc(inner, func(a netip.Addr) bool { return a.As4()[0] == 0 })
	}
	return inner
}
