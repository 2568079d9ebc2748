package wg

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// POP is one POP as it says of itself, and as it is seen.
type POP struct {
	Name, Region string
	Key          Key
	Next         Key            // to which it is about to change; zero: none
	Four, Six    netip.Addr     // in the overlay; Four may be missing
	Endpoint     netip.AddrPort // outside; invalid: it cannot be reached, it comes
	Topology     Topology       // that it plans by
	Claimed      int64          // when it chose what it has, in milliseconds since 1970: of two claims to one thing the earlier holds
	Alive        bool           // to whoever plans
	Changed      bool           // its device was heard with the key in Next
}

// Device is WireGuard without edgeproxy: a backend, a laptop, a router.
type Device struct {
	Name, Region string
	Key          Key
	Four, Six    netip.Addr
	Endpoint     netip.AddrPort // invalid: it comes by itself
	Via          []string       // the POPs that have a tunnel with it, the first for the others too; none: all have
	Routes       []netip.Prefix // networks behind it
	Claimed      int64
}

// Tunnels says whether a POP has a tunnel with the device.
func (d *Device) Tunnels(pop string) bool { return len(d.Via) == 0 || slices.Contains(d.Via, pop) }

// Roster is who takes part, each with a key and addresses that nobody else has.
type Roster struct {
	POPs    []POP    // by name
	Devices []Device // by name
}

// Problem is a claim that does not hold.
type Problem struct {
	Name    string // of the POP or device that claims
	Message string
}

func (p Problem) String() string { return p.Name + ": " + p.Message }

// holder is who has a key, an address or a route.
type holder struct {
	name string
	pop  bool
}

func (h holder) String() string {
	if h.pop {
		return "POP " + h.name
	}
	return "peer " + h.name
}

// claims are what is held so far.
type claims struct {
	held     map[Key]holder // before
	keys     map[Key]holder
	addrs    map[netip.Addr]holder
	routes   map[netip.Prefix]holder
	outside  map[netip.Addr]string // where packets of the overlay itself go, and whose they are
	problems []Problem
}

// Settle finds who holds what. Of two with one key, address or network a POP
// comes before a device, then the earlier claim counts, of equal ones the name
// that sorts first, so that all POPs come to the same end; but who held a key in
// the roster before keeps it, whatever time somebody else writes into a claim. Who
// claims another's key is left out; of one who claims another's address only that is.
// The slices given are not changed.
func Settle(pops []POP, devices []Device, networks Networks, before Roster) (Roster, []Problem) {
	held := make(map[Key]holder, len(before.POPs)+len(before.Devices))
	for _, p := range before.POPs {
		held[p.Key] = holder{p.Name, true}
		if p.Next != (Key{}) {
			held[p.Next] = holder{p.Name, true}
		}
	}
	for _, d := range before.Devices {
		held[d.Key] = holder{d.Name, false}
	}
	type claim struct {
		holder
		incumbent bool
		at        int64
		pop       *POP
		device    *Device
	}
	pops, devices = slices.Clone(pops), slices.Clone(devices)
	all := make([]claim, 0, len(pops)+len(devices))
	for i := range pops {
		p := &pops[i]
		h := holder{p.Name, true}
		all = append(all, claim{holder: h, incumbent: held[p.Key] == h, at: p.Claimed, pop: p})
	}
	for i := range devices {
		d := &devices[i]
		h := holder{d.Name, false}
		all = append(all, claim{holder: h, incumbent: held[d.Key] == h, at: d.Claimed, device: d})
	}
	order := func(a, b claim) int {
		return cmp.Or(rank(a.holder.pop, b.holder.pop), cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name))
	}
	c := claims{held: held, keys: map[Key]holder{}, addrs: map[netip.Addr]holder{}, routes: map[netip.Prefix]holder{}, outside: map[netip.Addr]string{}}
	// Keys first, in the order of who held them, and those in use before those that
	// somebody says he will use; then addresses, in the order of the claims alone.
	slices.SortFunc(all, func(a, b claim) int { return cmp.Or(rank(a.incumbent, b.incumbent), order(a, b)) })
	names := map[string]bool{}
	for _, x := range all {
		names[x.name] = names[x.name] || x.pop != nil
	}
	all = slices.DeleteFunc(all, func(x claim) bool {
		if x.pop != nil {
			return !c.take(x.pop.Key, x.holder)
		}
		if names[x.name] {
			c.refuse(x.holder, "has the name of a POP: refused; add it under another")
			return true
		}
		return !c.take(x.device.Key, x.holder)
	})
	for _, x := range all {
		if x.pop != nil {
			c.next(x.pop, x.holder)
		}
	}
	slices.SortFunc(all, order)
	for _, x := range all {
		if x.pop != nil {
			c.endpoint(&x.pop.Endpoint, x.holder, networks)
		} else {
			c.endpoint(&x.device.Endpoint, x.holder, networks)
		}
	}
	var r Roster
	for _, x := range all {
		if x.pop != nil {
			c.popAddresses(x.pop, x.holder, networks)
			r.POPs = append(r.POPs, *x.pop)
		} else {
			c.deviceAddresses(x.device, x.holder, networks)
			r.Devices = append(r.Devices, *x.device)
		}
	}
	slices.SortFunc(r.POPs, func(a, b POP) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(r.Devices, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
	return r, c.problems
}

// rank puts those first of whom it holds.
func rank(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (c *claims) refuse(h holder, format string, args ...any) {
	c.problems = append(c.problems, Problem{Name: h.name, Message: fmt.Sprintf(format, args...)})
}

// next takes the key that a POP is about to change to, unless it is or was another's.
func (c *claims) next(p *POP, h holder) {
	if p.Next == (Key{}) || p.Next == p.Key {
		return
	}
	if !c.take(p.Next, h) {
		p.Next = Key{}
	}
}

// endpoint is where packets go outside the overlay: inside it they would go round
// and round.
func (c *claims) endpoint(at *netip.AddrPort, h holder, n Networks) {
	if n.Contains(at.Addr()) {
		c.refuse(h, "says that it is reached at %s, which is in the overlay itself: refused", at)
		*at = netip.AddrPort{}
	}
	if at.IsValid() {
		c.outside[at.Addr().Unmap()] = h.String()
	}
}

func (c *claims) take(k Key, h holder) bool {
	other, taken := c.keys[k]
	if was, known := c.held[k]; !taken && known && was != h {
		other, taken = was, true
	}
	if taken {
		c.refuse(h, "claims the key of %s, %s: refused; give it a key of its own (\"edgeproxy wg rotate\" on a POP)", other, k)
		return false
	}
	c.keys[k] = h
	return true
}

func (c *claims) popAddresses(p *POP, h holder, n Networks) {
	if want := n.POPSix(p.Name); p.Six.IsValid() && p.Six != want { // it may have none: some machines have no IPv6
		c.refuse(h, "says that its IPv6 address is %s, by its name it is %s: do all POPs have the same --wg-networks?", p.Six, want)
		p.Six = want
	}
	if p.Six.IsValid() {
		c.addrs[p.Six] = h // of its name alone: of 2^64, so no other has it
	}
	p.Four = c.address(p.Four, h, n)
}

func (c *claims) deviceAddresses(d *Device, h holder, n Networks) {
	d.Six, d.Four = c.address(d.Six, h, n), c.address(d.Four, h, n)
	var routes []netip.Prefix
	for _, r := range d.Routes {
		if c.route(r, h, n) {
			routes = append(routes, r)
		}
	}
	d.Routes = routes
}

// address is a, or none where it does not hold.
func (c *claims) address(a netip.Addr, h holder, n Networks) netip.Addr {
	if !a.IsValid() {
		return a
	}
	if !n.Contains(a) {
		c.refuse(h, "claims the address %s, which is in none of the overlay's networks: do all POPs have the same --wg-networks?", a)
		return netip.Addr{}
	}
	if other, taken := c.addrs[a]; taken {
		c.refuse(h, "claims the address %s of %s: refused; it is to take another", a, other)
		return netip.Addr{}
	}
	c.addrs[a] = h
	return a
}

// route takes a network behind a device, which may overlap with no other and
// not with the overlay itself.
func (c *claims) route(r netip.Prefix, h holder, n Networks) bool {
	least := 8 // shorter ones are most of the internet
	if r.Addr().Is6() {
		least = 16
	}
	at := r.Addr()
	if !r.IsValid() || r != r.Masked() || r.Bits() < least || at.Is4In6() || at.IsLoopback() || at.IsLinkLocalUnicast() || at.IsMulticast() || at.IsUnspecified() {
		c.refuse(h, "cannot have the route %s: want a network of one site, like 192.168.7.0/24", r)
		return false
	}
	for at, who := range c.outside {
		if r.Contains(at) {
			c.refuse(h, "cannot have the route %s: %s is reached at %s, outside the overlay", r, who, at)
			return false
		}
	}
	if n.Four.IsValid() && r.Overlaps(n.Four) || r.Overlaps(n.Six) {
		c.refuse(h, "cannot have the route %s: it overlaps with the overlay's own network", r)
		return false
	}
	for other, who := range c.routes {
		if other.Overlaps(r) {
			c.refuse(h, "cannot have the route %s: it overlaps with %s of %s; remove one of the two", r, other, who)
			return false
		}
	}
	c.routes[r] = h
	return true
}
