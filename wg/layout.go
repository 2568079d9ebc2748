package wg

import (
	"cmp"
	"net/netip"
	"slices"
)

// Topology says which POPs have tunnels with each other.
type Topology string

const (
	FullMesh     Topology = "full-mesh"    // all
	HubSpoke     Topology = "hub-spoke"    // each with the hubs, of which there are two in the whole mesh
	Hierarchical Topology = "hierarchical" // each with the two hubs of its region, and the hubs with each other
)

// hubsEach is how many hubs a group of POPs has: one may die.
const hubsEach = 2

// Layout is how the roster becomes tunnels. All POPs have the same.
type Layout struct {
	Topology Topology
	Hubs     []string // POPs that are to be hubs; where none of them is alive in a group, it elects its own
	Networks Networks
}

// Plan is what the device of one of the roster's POPs should be; the zero Plan
// where it is not in it.
//
// A POP that is no hub has one carrier, a hub of its group: everything between
// it and the others passes there, both ways. The group's other hub is a peer
// too, with nothing assigned, so that its tunnel is warm when it has to carry.
//
//	spoke A ── carrier(A) ── carrier(B) ── spoke B       a hub carries itself
func (l Layout) Plan(self string, r Roster) Plan {
	v := l.view(self, r)
	me, ok := v.pop(self)
	if !ok {
		return Plan{}
	}
	b := builder{view: v, tunnels: map[string]*Peer{}}
	b.neighbours(me)
	for i := range r.POPs {
		if p := &r.POPs[i]; p.Name != self {
			b.assign(p.Name, addressesOf(p.Four, p.Six)...)
		}
	}
	for i := range r.Devices {
		b.device(me, &r.Devices[i])
	}
	return b.plan(me)
}

func addressesOf(addrs ...netip.Addr) (list []netip.Prefix) {
	for _, a := range addrs {
		if a.IsValid() {
			list = append(list, alone(a))
		}
	}
	return list
}

// view is the roster with what follows from it for everybody.
type view struct {
	Layout
	self    string
	roster  Roster
	carrier map[string]string // of each POP; itself for a hub; none where its group has no hub
}

func (v *view) pop(name string) (*POP, bool) {
	i, ok := slices.BinarySearchFunc(v.roster.POPs, name, func(p POP, name string) int { return cmp.Compare(p.Name, name) })
	if !ok {
		return nil, false
	}
	return &v.roster.POPs[i], true
}

func (v *view) alive(p *POP) bool { return p.Alive || p.Name == v.self }
func (v *view) hub(name string) bool {
	return v.carrier[name] == name
}

// group is whose hubs a POP uses.
func (l Layout) group(p *POP) string {
	if l.Topology == Hierarchical {
		return p.Region
	}
	return ""
}

func (l Layout) view(self string, r Roster) *view {
	v := &view{Layout: l, self: self, roster: r, carrier: make(map[string]string, len(r.POPs))}
	if l.Topology != HubSpoke && l.Topology != Hierarchical {
		for _, p := range r.POPs {
			v.carrier[p.Name] = p.Name
		}
		return v
	}
	groups := map[string][]*POP{}
	for i := range r.POPs {
		p := &r.POPs[i]
		groups[l.group(p)] = append(groups[l.group(p)], p)
	}
	for name, pops := range groups {
		hubs := v.elect(name, pops)
		for _, p := range pops {
			if slices.Contains(hubs, p.Name) {
				v.carrier[p.Name] = p.Name
			} else if len(hubs) > 0 {
				v.carrier[p.Name] = highest(p.Name, hubs)
			}
		}
	}
	return v
}

// elect finds the hubs of a group: those that the operator names, else the two
// that rendezvous hashing (Thaler, Ravishankar 1998) has first, so that the
// death of one moves nobody but its own. Only who is alive and can be reached counts.
func (v *view) elect(group string, pops []*POP) []string {
	var able, named []string
	for _, p := range pops {
		if v.alive(p) && p.Endpoint.IsValid() {
			able = append(able, p.Name)
			if slices.Contains(v.Hubs, p.Name) {
				named = append(named, p.Name)
			}
		}
	}
	if len(named) > 0 {
		return named
	}
	slices.SortFunc(able, func(a, b string) int {
		return cmp.Or(cmp.Compare(hash(group, b), hash(group, a)), cmp.Compare(a, b))
	})
	return able[:min(hubsEach, len(able))]
}

func highest(name string, hubs []string) string {
	return slices.MaxFunc(hubs, func(a, b string) int {
		return cmp.Or(cmp.Compare(hash(name, a), hash(name, b)), cmp.Compare(a, b))
	})
}

// builder collects the peers of one POP.
type builder struct {
	*view
	tunnels map[string]*Peer // by name, devices with a slash before it
	more    []Peer           // keys that peers are about to change to
}

// neighbours has a tunnel for every POP that this one has one with.
func (b *builder) neighbours(me *POP) {
	for i := range b.roster.POPs {
		if p := &b.roster.POPs[i]; p.Name != me.Name && b.adjacent(me, p) {
			b.tunnel(p)
		}
	}
}

// adjacent says whether two POPs have a tunnel: two hubs, and the POPs of a group with its hubs.
func (b *builder) adjacent(p, q *POP) bool {
	switch ph, qh := b.hub(p.Name), b.hub(q.Name); {
	case ph && qh:
		return true
	case ph || qh:
		return b.group(p) == b.group(q)
	}
	return false
}

func (b *builder) tunnel(p *POP) {
	now, next := p.Key, p.Next
	if p.Changed && next != (Key{}) {
		now, next = next, now
	}
	b.tunnels[p.Name] = &Peer{Name: p.Name, Key: now, Endpoint: p.Endpoint, Keepalive: keepalive(p.Endpoint)}
	if next != (Key{}) && next != now {
		b.more = append(b.more, Peer{Name: p.Name, Key: next, Endpoint: p.Endpoint})
	}
}

// hop is the peer that leads to a POP, nil where none does.
func (b *builder) hop(name string) *Peer {
	at := name
	if c, ok := b.carrier[b.self]; ok && c != b.self {
		at = c // a spoke sends everything to its carrier
	} else if c, ok := b.carrier[name]; ok && c != b.self {
		at = c
	}
	return b.tunnels[at]
}

func (b *builder) assign(name string, prefixes ...netip.Prefix) {
	if p := b.hop(name); p != nil {
		p.AllowedIPs = append(p.AllowedIPs, prefixes...)
	}
}

// device has a tunnel with a plain device, or sends what is for it to its gateway.
func (b *builder) device(me *POP, d *Device) {
	prefixes := append(addressesOf(d.Four, d.Six), d.Routes...)
	if d.Tunnels(me.Name) {
		b.tunnels["/"+d.Name] = &Peer{Name: d.Name, Key: d.Key, Endpoint: d.Endpoint, AllowedIPs: prefixes, Keepalive: keepalive(d.Endpoint)}
		return
	}
	b.assign(b.gateway(d), prefixes...)
}

func (b *builder) plan(me *POP) Plan {
	plan := Plan{Forwards: b.forwards(me), Peers: make([]Peer, 0, len(b.tunnels)+len(b.more))}
	for _, a := range []netip.Addr{me.Four, me.Six} {
		if a.IsValid() {
			plan.Addresses = append(plan.Addresses, b.Networks.own(a))
		}
	}
	for _, d := range b.roster.Devices {
		plan.Routes = append(plan.Routes, d.Routes...)
	}
	slices.SortFunc(plan.Routes, comparePrefix)
	for _, p := range b.tunnels {
		slices.SortFunc(p.AllowedIPs, comparePrefix)
		plan.Peers = append(plan.Peers, *p)
	}
	plan.Peers = append(plan.Peers, b.more...)
	slices.SortFunc(plan.Peers, func(a, b Peer) int { return a.Key.compare(b.Key) })
	return plan
}

// forwards says whether anybody's packets pass through a POP.
func (b *builder) forwards(me *POP) bool {
	for name, c := range b.carrier {
		if c == me.Name && name != me.Name {
			return true
		}
	}
	return slices.ContainsFunc(b.roster.Devices, func(d Device) bool { return b.gateway(&d) == me.Name || slices.Contains(d.Via, me.Name) })
}

// gateway is the POP through which a plain device reaches what it has no tunnel
// with, and through which those reach it: the first of its Via, else the POP that
// can be reached and has been there longest. It does not depend on who is alive,
// since nobody changes the device's file.
func (v *view) gateway(d *Device) string {
	for _, name := range d.Via {
		if _, ok := v.pop(name); ok {
			return name
		}
	}
	if len(d.Via) > 0 || len(v.roster.POPs) == 0 {
		return ""
	}
	return slices.MinFunc(v.roster.POPs, func(a, b POP) int {
		return cmp.Or(rank(a.Endpoint.IsValid(), b.Endpoint.IsValid()), cmp.Compare(a.Claimed, b.Claimed), cmp.Compare(a.Name, b.Name))
	}).Name
}

// Hub says whether a POP is one now.
func (l Layout) Hub(self string, r Roster) bool { return l.view(self, r).hub(self) }
