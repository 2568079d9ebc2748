package node

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
	"github.com/edgeproxy/edgeproxy/wg"
)

// overlayRows are the tables wg_pops and wg_peers, as much as makes sense.
type overlayRows struct {
	pops     []wg.POP // by name
	devices  []wg.Device
	problems []wg.Problem

	rawPOPs, rawPeers [][]any // what that was made of
}

// same says whether it was made of these rows.
func (r *overlayRows) same(pops, peers [][]any) bool {
	return sqlite.SameRows(r.rawPOPs, pops) && sqlite.SameRows(r.rawPeers, peers)
}

// readOverlay reads the rows, whose columns are those of the tables. Who wrote
// nonsense is named, and has no part in the overlay.
func readOverlay(pops, peers [][]any) *overlayRows {
	r := &overlayRows{rawPOPs: pops, rawPeers: peers}
	for _, row := range pops {
		p := rowReader{row: row}
		pop := wg.POP{
			Name: p.name(), Region: p.text(1), Key: p.key(2, true), Next: p.key(3, false), Four: p.addr(4), Six: p.addr(5),
			Endpoint: p.addrPort(6), Topology: wg.Topology(p.text(7)), Claimed: p.integer(8),
		}
		if r.sound(pop.Name, pop.Region, p.err) {
			r.pops = append(r.pops, pop)
		}
	}
	for _, row := range peers {
		p := rowReader{row: row}
		d := wg.Device{
			Name: p.name(), Region: p.text(1), Key: p.key(2, true), Four: p.addr(3), Six: p.addr(4),
			Endpoint: p.addrPort(5), Via: p.list(6), Claimed: p.integer(8),
		}
		if d.Claimed == 0 {
			d.Claimed = math.MaxInt64 // nobody says when: after all others
		}
		for _, text := range p.list(7) {
			route, err := netip.ParsePrefix(text)
			p.fail(err)
			d.Routes = append(d.Routes, route)
		}
		if r.sound(d.Name, d.Region, p.err) {
			r.devices = append(r.devices, d)
		}
	}
	slices.SortFunc(r.pops, func(a, b wg.POP) int { return strings.Compare(a.Name, b.Name) })
	return r
}

// sound says whether a row counts. Names are written into files for wg-quick,
// which runs what stands in them.
func (r *overlayRows) sound(name, region string, err error) bool {
	switch {
	case err != nil:
	case !peerName.MatchString(name):
		err = errors.New("its name is not 1 to 63 of A-Z, a-z, 0-9, dot, _ and -")
	case region != "" && !regionCode.MatchString(region):
		err = errors.New("its region is not 1 to 32 of a-z, 0-9, _ and -")
	}
	if err != nil {
		r.problems = append(r.problems, wg.Problem{Name: name, Message: strings.ToValidUTF8(err.Error(), "\uFFFD")})
	}
	return err == nil
}

// own is this POP's row, as it is there.
func (r *overlayRows) own(node string) (wg.POP, bool) {
	i := slices.IndexFunc(r.pops, func(p wg.POP) bool { return p.Name == node })
	if i < 0 {
		return wg.POP{}, false
	}
	return r.pops[i], true
}

// taken says whether anybody but this POP claims an address.
func (r *overlayRows) taken(node string) func(netip.Addr) bool {
	all := map[netip.Addr]bool{}
	for _, p := range r.pops {
		if p.Name != node {
			all[p.Four] = true
		}
	}
	for _, d := range r.devices {
		all[d.Four] = true
	}
	return func(a netip.Addr) bool { return all[a] }
}

// rowReader reads one row; the first thing wrong is its error.
type rowReader struct {
	row []any
	err error
}

func (p *rowReader) fail(err error) { p.err = cmp.Or(p.err, err) }

// name is the first column, the key. A blob would be another row than the text
// of the same bytes.
func (p *rowReader) name() string {
	if len(p.row) > 0 {
		if _, is := p.row[0].(string); !is {
			p.fail(fmt.Errorf("its name is %T, want text", p.row[0]))
		}
	}
	return p.text(0)
}

// text is a column of text, empty for NULL.
func (p *rowReader) text(i int) string {
	if i >= len(p.row) {
		p.fail(fmt.Errorf("row has %d columns", len(p.row)))
		return ""
	}
	switch v := p.row[i].(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	default:
		p.fail(fmt.Errorf("column %d is %T, want text", i+1, v))
		return ""
	}
}

func (p *rowReader) integer(i int) int64 {
	if i >= len(p.row) || p.row[i] == nil {
		return 0
	}
	n, ok := p.row[i].(int64)
	if !ok {
		p.fail(fmt.Errorf("column %d is %T, want an integer", i+1, p.row[i]))
	}
	return n
}

func (p *rowReader) key(i int, required bool) wg.Key {
	text := p.text(i)
	if text == "" && !required {
		return wg.Key{}
	}
	key, err := wg.ParseKey(text)
	p.fail(err)
	return key
}

func (p *rowReader) addr(i int) netip.Addr {
	text := p.text(i)
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err == nil && (a.Is4In6() || a.Zone() != "") {
		err = fmt.Errorf("address %q: want a plain IPv4 or IPv6 address", text)
	}
	p.fail(err)
	return a
}

// addrPort is where to send to. What nobody should send to is an error: a peer
// could have us shout at others.
func (p *rowReader) addrPort(i int) netip.AddrPort {
	text := p.text(i)
	if text == "" {
		return netip.AddrPort{}
	}
	a, err := parseEndpoint(text)
	p.fail(err)
	return a
}

// parseEndpoint takes the address and port of one host. A zone is whatever
// somebody writes behind a percent sign, ends of lines too, and means nothing on
// another machine.
func parseEndpoint(text string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(text)
	if err == nil && (a.Addr().Zone() != "" || a.Port() == 0 || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().Unmap() == netip.AddrFrom4([4]byte{255, 255, 255, 255})) {
		err = fmt.Errorf("endpoint %q: want the address and port of one host", text)
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

func (p *rowReader) list(i int) (list []string) {
	for item := range strings.SplitSeq(p.text(i), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
