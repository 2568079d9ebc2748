package dns

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
)

// mostPerSecond is how many answers of any length a network of clients gets by
// UDP in a second. Whoever writes somebody else's address on queries has the
// server send there what is longer than the queries; beyond this, answers are
// not, and say that TCP has the rest.
const mostPerSecond = 200

// rateBits is how many bits number the counters.
const rateBits = 14

// rate counts answers. Networks share counters by chance, which nobody outside
// can choose: its multiplier is random and odd. One with a busy neighbour asks by TCP.
type rate struct {
	multiplier uint64
	counters   [1 << rateBits]atomic.Uint64 // second<<32 | answers in it
}

// over counts one answer to the network of an address, a /24 or /56, and says
// whether it is one too many.
func (r *rate) over(a netip.Addr, now time.Time) bool {
	b := a.As16()
	key := binary.BigEndian.Uint64(b[:8]) >> 8
	if a.Is4() {
		key = uint64(binary.BigEndian.Uint32(b[12:]) >> 8)
	}
	c := &r.counters[key*r.multiplier>>(64-rateBits)]
	for second := uint64(now.Unix()) << 32; ; {
		was := c.Load()
		next := was + 1
		if was>>32 != second>>32 {
			next = second | 1
		}
		if c.CompareAndSwap(was, next) {
			return uint32(next) > mostPerSecond
		}
	}
}

// network is which connections by TCP are taken for one client's: an IPv6
// client has many addresses.
func network(a netip.Addr) netip.Addr {
	if p, err := a.Prefix(56); err == nil && a.Is6() {
		return p.Addr()
	}
	return a
}
