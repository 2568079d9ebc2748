package dns

import (
	"net/netip"
	"slices"
)

// mostNames is how many names of one address are answered.
const mostNames = 8

// reverse are the names of addresses in the overlay: POPs before backends
// before devices.
func (x *index) reverse() {
	put := func(a netip.Addr, target string) {
		name := reverseName(a)
		if target == "" || !slices.ContainsFunc(x.zones[1:], func(z *zone) bool { return z.within(name) && name != z.name }) {
			return
		}
		e := x.names[name]
		if e == nil || e.kind == nothing {
			e = &entry{kind: fixed}
			x.add(name, e)
		}
		if len(e.names) < mostNames && !slices.Contains(e.names, target) {
			e.names = append(e.names, target)
		}
	}
	for _, p := range x.roster.POPs {
		for _, a := range p.Overlay {
			put(a, x.called(p.Node, wordPOPs))
		}
	}
	for i := range x.snap.Backends {
		b := &x.snap.Backends[i]
		put(b.Addr.Addr(), x.owner[b.ID])
	}
	for _, d := range x.roster.Devices {
		for _, a := range d.Addrs {
			put(a, x.called(d.Name, wordPeers))
		}
	}
}

// called is the name of a POP or device; empty where something else has it.
func (x *index) called(text, word string) (name string) {
	for _, form := range forms(text) {
		full := form + "." + word + "." + x.domain()
		if e := x.names[full]; e != nil && e.is == text {
			name = full
		}
	}
	return name
}
