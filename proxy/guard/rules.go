package guard

import (
	"net/netip"
	"slices"
	"time"
)

// rules are Rules made ready.
type rules struct {
	lists    map[netip.Prefix]bool // whether it is allowed
	lengths  [2][]int              // of those prefixes, longest first; IPv4, IPv6
	closed   bool                  // who is in no list is denied
	most     int32
	interval time.Duration // between connections, in the long run; 0: no bound
	burst    time.Duration // how far ahead of that a client may be
	v4, v6   int
}

// compile returns nil where the rules say nothing.
func compile(r Rules) *rules {
	if len(r.Allow) == 0 && len(r.Deny) == 0 && r.Connections <= 0 && r.Rate <= 0 {
		return nil
	}
	c := &rules{lists: map[netip.Prefix]bool{}, closed: len(r.Allow) > 0, v4: r.IPv4Bits, v6: r.IPv6Bits}
	c.most = int32(min(max(r.Connections, 0), 1<<30))
	if r.Rate > 0 {
		// Below one a day nothing is gained, and above one a nanosecond there is no bound.
		c.interval = time.Duration(min(max(float64(time.Second)/r.Rate, 1), float64(24*time.Hour)))
		c.burst = max(time.Second-c.interval, 0)
	}
	if c.v4 <= 0 || c.v4 > 32 {
		c.v4 = 32
	}
	if c.v6 <= 0 || c.v6 > 128 {
		c.v6 = 64
	}
	for i, list := range [][]netip.Prefix{r.Allow, r.Deny} { // denied is said last
		for _, p := range list {
			p = p.Masked()
			c.lists[p] = i == 0
			f := family(p.Addr())
			if !slices.Contains(c.lengths[f], p.Bits()) {
				c.lengths[f] = append(c.lengths[f], p.Bits())
			}
		}
	}
	for f := range c.lengths {
		slices.Sort(c.lengths[f])
		slices.Reverse(c.lengths[f])
	}
	return c
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// denies looks an address up in the lists.
func (r *rules) denies(addr netip.Addr) bool {
	for _, bits := range r.lengths[family(addr)] {
		p, err := addr.Prefix(bits)
		if err != nil {
			continue
		}
		if allowed, ok := r.lists[p]; ok {
			return !allowed
		}
	}
	return r.closed
}

// bits is how long the prefix is that counts as one client.
func (r *rules) bits(addr netip.Addr) int {
	if addr.Is4() {
		return r.v4
	}
	return r.v6
}
