package dns

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/miekg/dns"
)

// Words that stand directly below the domain. An app of such a name has none.
const (
	wordBackends = "backends"
	wordPOPs     = "pops"
	wordPeers    = "peers"
	wordRegions  = "regions"
	wordNearest  = "nearest"
	wordNS       = "ns"
	wordTCP      = "_tcp"
)

var reserved = []string{wordBackends, wordPOPs, wordPeers, wordRegions, wordNearest, wordNS, wordTCP}

// kind is what is found at a name.
type kind byte

const (
	nothing kind = iota // but names below it (RFC 8020)
	apex                // of a zone
	fixed               // records that are in the entry
	set                 // backends, ranked for whoever asks
	service             // the same, with ports: SRV records
)

// entry is one name.
type entry struct {
	kind  kind
	is    string       // the POP or device
	addrs []netip.Addr // A and AAAA
	texts []string     // TXT, a record each, escaped
	names []string     // PTR

	app    string     // of a set or service
	region geo.Region // of a set: only of this region
	most   int        // of a set: how many addresses
	has    families   // of a set: which kinds of addresses there are

	age *age
}

// families are kinds of addresses. Who has one asks for the other too, and need
// not have all backends ranked to hear that there is none.
type families byte

const (
	four families = 1 << iota
	six
)

func familyOf(a netip.Addr) families {
	if a.Is4() {
		return four
	}
	return six
}

// index is every name that there is at a moment. It never changes.
type index struct {
	snap   *mesh.Snapshot
	roster *Roster
	zones  []*zone
	serial uint32 // of the zones
	names  map[string]*entry
	owner  map[string]string // the name of a backend, by its id
}

// newIndex makes the index of a picture. Names whose records are the same as in
// the index before are as old as they were there.
func newIndex(zones []*zone, snap *mesh.Snapshot, roster *Roster, before *index, now time.Time) *index {
	x := &index{snap: snap, roster: roster, zones: zones, serial: uint32(now.Unix()), names: make(map[string]*entry, 4*len(snap.Backends)+16), owner: make(map[string]string, len(snap.Backends))}
	for _, z := range zones {
		x.names[z.name] = &entry{kind: apex}
	}
	x.reserve()
	x.pops()
	x.peers()
	x.backends()
	x.apps()
	x.reverse()
	for name, e := range x.names {
		e.grow(before, name, now)
	}
	return x
}

func (x *index) domain() string { return x.zones[0].name }

// add puts an entry at a name, where nothing but names below it has been put
// before. It says whether it is there now.
func (x *index) add(name string, e *entry) bool {
	if _, ok := dns.IsDomainName(name); !ok || wireLen(name) > mostName {
		return false // too long, or a label of it is
	}
	if old := x.names[name]; old != nil && old.kind != nothing {
		return false
	}
	x.names[name] = e
	for up := parent(name); x.names[up] == nil && up != "."; up = parent(up) {
		x.names[up] = &entry{}
	}
	return true
}

// addForms puts an entry at all forms of text in front of a suffix, and returns
// the name to call it by: of those that it got the one most people would write.
func (x *index) addForms(text, suffix string, e *entry) (name string) {
	for _, form := range forms(text) {
		if full := form + "." + suffix; x.add(full, e) {
			name = full
		}
	}
	return name
}

// lowerFirst are all, those first that are in lower case already: of two that
// differ in the case of letters only, those have the name, and else the first.
func lowerFirst[T any](all []T, name func(*T) string) []*T {
	list := make([]*T, len(all))
	for i := range all {
		list[i] = &all[i]
	}
	slices.SortStableFunc(list, func(a, b *T) int { return cmp.Compare(upperCase(name(a)), upperCase(name(b))) })
	return list
}

// upperCase is 1 for text that has ASCII letters in upper case, else 0.
func upperCase(text string) int {
	if strings.ContainsFunc(text, func(r rune) bool { return 'A' <= r && r <= 'Z' }) {
		return 1
	}
	return 0
}

func lastLabel(form string) string {
	starts := dns.Split(form)
	return form[starts[len(starts)-1]:]
}

func (x *index) reserve() {
	own := &entry{kind: fixed}
	for _, p := range x.roster.POPs {
		if p.Node == x.snap.Self.Node {
			own.addrs = p.Addrs
		}
	}
	x.add(wordNS+"."+x.domain(), own)
	for _, word := range []string{wordBackends, wordPeers, wordTCP} {
		if name := word + "." + x.domain(); x.names[name] == nil {
			x.names[name] = &entry{}
		}
	}
	x.add(wordRegions+"."+x.domain(), &entry{kind: fixed, texts: x.regions()})
}

// regions lists those that have POPs or backends, in as few texts as hold them.
func (x *index) regions() []string {
	all := map[geo.Region]bool{}
	for _, p := range x.roster.POPs {
		all[p.Region] = all[p.Region] || p.Alive && p.Region != ""
	}
	for i := range x.snap.Backends {
		if b := &x.snap.Backends[i]; !b.Deleted {
			all[b.Region] = true
		}
	}
	var texts []string
	for _, r := range slices.Sorted(maps.Keys(all)) {
		last := len(texts) - 1
		switch {
		case !all[r]:
		case last < 0 || len(texts[last])+1+len(r) > mostText:
			texts = append(texts, string(r))
		default:
			texts[last] += "," + string(r)
		}
	}
	return texts
}

const (
	mostText  = 255 // bytes of a string in a TXT record
	mostTexts = 400 // records of a name, so that a message holds them
)

func (x *index) pops() {
	suffix := wordPOPs + "." + x.domain()
	var texts []string
	regions, alive := map[geo.Region]*entry{}, map[geo.Region]bool{}
	for _, p := range x.roster.POPs {
		alive[p.Region] = alive[p.Region] || p.Alive
	}
	for _, p := range x.roster.POPs {
		if p.Alive && len(texts) < mostTexts {
			texts = append(texts, popText(p))
		}
		if p.Region == "" || !p.Alive && alive[p.Region] { // better an address that may be down than none
			continue
		}
		if regions[p.Region] == nil {
			regions[p.Region] = &entry{kind: fixed}
		}
		regions[p.Region].addrs = append(regions[p.Region].addrs, p.Addrs...)
	}
	x.add(suffix, &entry{kind: fixed, texts: texts})
	for _, r := range slices.Sorted(maps.Keys(regions)) {
		x.addForms(string(r), suffix, regions[r])
	}
	for _, p := range lowerFirst(x.roster.POPs, func(p *POP) string { return p.Node }) {
		x.addForms(p.Node, suffix, &entry{kind: fixed, is: p.Node, addrs: p.Addrs})
	}
}

func popText(p POP) string {
	text := "node=" + p.Node + ",region=" + string(p.Region)
	for _, a := range p.Addrs {
		text += ",ip=" + a.String()
	}
	return escapeText(text[:min(len(text), mostText)])
}

func (x *index) peers() {
	for _, d := range lowerFirst(x.roster.Devices, func(d *Device) string { return d.Name }) {
		x.addForms(d.Name, wordPeers+"."+x.domain(), &entry{kind: fixed, is: d.Name, addrs: d.Addrs})
	}
}

// mostAddrs is how many addresses of a set are answered.
const mostAddrs = 8

// backends are the names of the table's rows. What a region is called comes
// before a backend of that name: others rely on it.
func (x *index) backends() {
	suffix := wordBackends + "." + x.domain()
	regions := map[geo.Region]families{}
	for i := range x.snap.Backends {
		if b := &x.snap.Backends[i]; !b.Deleted {
			regions[b.Region] |= familyOf(b.Addr.Addr())
		}
	}
	for _, r := range slices.Sorted(maps.Keys(regions)) {
		x.addForms(string(r), suffix, &entry{kind: set, region: r, most: mostAddrs, has: regions[r]})
	}
	for _, b := range lowerFirst(x.snap.Backends, func(b *mesh.Backend) string { return b.ID }) {
		if !b.Deleted {
			x.owner[b.ID] = x.addForms(b.ID, suffix, &entry{kind: fixed, addrs: []netip.Addr{b.Addr.Addr()}})
		}
	}
}

// apps are the names of what the backends serve, and of the services that have
// none: those exist, and only have no address at the moment.
func (x *index) apps() {
	apps := map[string]map[geo.Region]families{}
	for i := range x.snap.Services {
		apps[x.snap.Services[i].App] = map[geo.Region]families{}
	}
	for i := range x.snap.Backends {
		b := &x.snap.Backends[i]
		if b.App == "" || b.Deleted {
			continue
		}
		if apps[b.App] == nil {
			apps[b.App] = map[geo.Region]families{}
		}
		apps[b.App][b.Region] |= familyOf(b.Addr.Addr())
	}
	sorted := slices.Sorted(maps.Keys(apps))
	slices.SortStableFunc(sorted, func(a, b string) int { return cmp.Compare(upperCase(a), upperCase(b)) })
	// In rounds, so that a form with dots never takes the name of something else.
	for _, app := range sorted {
		if one, ok := label(app); ok {
			x.app(one, app, apps[app])
		}
	}
	for _, app := range sorted {
		if all := forms(app); len(all) > 1 {
			x.app(all[1], app, apps[app])
		}
	}
}

func (x *index) app(form, app string, regions map[geo.Region]families) {
	if slices.Contains(reserved, lastLabel(form)) {
		return
	}
	var has families
	for _, f := range regions {
		has |= f
	}
	name := form + "." + x.domain()
	if !x.add(name, &entry{kind: set, app: app, most: mostAddrs, has: has}) {
		return
	}
	x.add(wordNearest+"."+name, &entry{kind: set, app: app, most: 1, has: has})
	for r, has := range regions {
		x.addForms(string(r), name, &entry{kind: set, app: app, region: r, most: mostAddrs, has: has})
	}
	x.add("_"+form+"."+wordTCP+"."+x.domain(), &entry{kind: service, app: app})
}

// content is a number that is the same for the same records of an entry.
func (e *entry) content() uint64 {
	h := fnv.New64a()
	part := func(s string) { h.Write([]byte(s)); h.Write([]byte{0}) }
	part(string([]byte{byte(e.kind)}))
	for _, a := range e.addrs {
		part(a.String())
	}
	part(strings.Join(e.texts, "\x01"))
	part(strings.Join(e.names, "\x01"))
	part(e.app + "\x01" + string(e.region))
	return h.Sum64()
}

// grow gives an entry its age: that of the same name in the index before,
// where it says the same.
func (e *entry) grow(before *index, name string, now time.Time) {
	if e.kind == nothing || e.kind == apex || e.age != nil {
		return
	}
	content := e.content()
	if before != nil {
		if old := before.names[name]; old != nil && old.age != nil && old.age.content == content {
			e.age = old.age
			return
		}
	}
	e.age = newAge(content, now)
}

// soa is the record of a zone. Whoever is told that there is nothing may keep
// that for the minimum (RFC 2308).
func (x *index) soa(z *zone) *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.name, dns.TypeSOA, leastTTL),
		Ns:  wordNS + "." + x.domain(), Mbox: "hostmaster." + x.domain(), Serial: x.serial,
		Refresh: 60, Retry: 10, Expire: 3600, Minttl: leastTTL,
	}
}

func header(name string, rtype uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rtype, Class: dns.ClassINET, Ttl: ttl}
}
