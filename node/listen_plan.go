package node

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Bounds of what rows can cost a POP: an address has a few descriptors and a
// worker for each core.
const (
	mostListeners = 256
	mostNames     = 4096 // of TLS clients, at one address
)

// planned is one address and the services that listen there.
type planned struct {
	addr     string
	services []mesh.Service
	names    map[string]string // of TLS clients, and whose they are
}

// planListeners finds which services listen at which address. Services with TLS
// share one; others have theirs alone. Of two that want the same address or the
// same name there the first by app has it. The rest are faults.
func planListeners(services []mesh.Service, reserved map[string]string) (plan []planned, faults faultList) {
	s := sites{reserved: reserved, at: map[string]*planned{}, ports: map[string][]*planned{}}
	for _, service := range services {
		for _, addr := range service.Listen {
			p, why := s.find(addr, service)
			if why == "" {
				why = p.take(service)
			}
			if why != "" {
				faults.add(service.App, addr, why)
			}
		}
	}
	for _, p := range s.plan {
		plan = append(plan, *p)
	}
	return plan, faults
}

// clash is the first fault that services have with another, or with one as it is
// to be, and do not have without; nil: none.
func clash(services []mesh.Service, with mesh.Service, reserved map[string]string) *mesh.Fault {
	_, faults := planListeners(services, reserved)
	before := faults.list()
	i, is := slices.BinarySearchFunc(services, with, func(a, b mesh.Service) int { return strings.Compare(a.App, b.App) })
	next := slices.Clone(services)
	if is {
		next[i] = with
	} else {
		next = slices.Insert(next, i, with)
	}
	_, after := planListeners(next, reserved)
	for _, f := range after.list() {
		if !slices.Contains(before, f) {
			return &f
		}
	}
	return nil
}

// sites are the addresses that are given to services, in their order.
type sites struct {
	reserved map[string]string // addresses of this POP's own, and what they are
	plan     []*planned
	at       map[string]*planned   // by address
	ports    map[string][]*planned // by port
}

// find is the place of a service at an address, or why there is none for it.
func (s *sites) find(addr string, service mesh.Service) (p *planned, why string) {
	for _, own := range slices.Sorted(maps.Keys(s.reserved)) { // the same one each time
		if overlap(own, addr) {
			return nil, "the address is this POP's " + s.reserved[own]
		}
	}
	if p := s.at[addr]; p != nil {
		if first := p.services[0]; !service.Mode.TLS() || !first.Mode.TLS() {
			return nil, fmt.Sprintf("the address is app %s's, and only services with TLS can share one", first.App)
		}
		return p, ""
	}
	port := portOf(addr)
	for _, other := range s.ports[port] {
		if overlap(other.addr, addr) {
			return nil, fmt.Sprintf("app %s listens at %s, which is part of the same address", other.services[0].App, other.addr)
		}
	}
	if len(s.plan) >= mostListeners {
		return nil, fmt.Sprintf("this POP listens at %d addresses already, which is as many as it may", mostListeners)
	}
	p = &planned{addr: addr, names: map[string]string{}}
	s.at[addr], s.plan, s.ports[port] = p, append(s.plan, p), append(s.ports[port], p)
	return p, ""
}

// take has the service listen here, and says by which of its names clients do
// not find it.
func (p *planned) take(service mesh.Service) (why string) {
	p.services = append(p.services, service)
	var lost []string
	for _, name := range service.SNI {
		if _, taken := p.names[name]; taken || len(p.names) >= mostNames {
			lost = append(lost, name)
			continue
		}
		p.names[name] = service.App
	}
	if len(lost) == 0 {
		return ""
	}
	whose := "there are as many names as there may be"
	if app, ok := p.names[lost[0]]; ok {
		whose = "it is app " + app + "'s there"
	}
	return fmt.Sprintf("clients do not find it by the name %s: %s", andMore(lost), whose)
}

func portOf(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }

// overlap says whether one of two addresses is the other, or is every address
// with the same port.
func overlap(a, b string) bool {
	if portOf(a) != portOf(b) {
		return false
	}
	every := func(addr string) bool {
		host, _, _ := net.SplitHostPort(addr)
		return host == "" || host == "0.0.0.0" || host == "::"
	}
	return every(a) || every(b) || sameAddr(a, b)
}

// andMore is the first of some names, and how many others there are.
func andMore(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// faultList collects faults up to as many as a POP may tell.
type faultList struct {
	all  []mesh.Fault
	more int
}

func (f *faultList) add(app, listen, why string) {
	if len(f.all) >= mesh.MaxFaults-1 {
		f.more++
		return
	}
	f.all = append(f.all, mesh.NewFault(app, listen, why))
}

// list is all of them, and that there are more.
func (f *faultList) list() []mesh.Fault {
	if f.more == 0 {
		return f.all
	}
	return append(f.all, mesh.NewFault("", "", fmt.Sprintf("and %d more faults", f.more)))
}
