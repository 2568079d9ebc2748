package membership

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/serf/serf"
)

const (
	twinAgain   = 3 * time.Second  // between two looks at the same claim
	twinTold    = 30 * time.Second // between two reports of the same
	twinLasting = 10 * time.Second // a claim to our own address is believed when it is that old
	twinPings   = 3

	announceEvery = 3 * time.Second
	announceFor   = 20 * time.Second // a failure takes about ten to be known
)

// Conflict is another live node that has this node's name.
type Conflict struct {
	Name string
	Addr netip.AddrPort
	Tags map[string]string // of the other; by NonceTag the caller knows which is which
}

// Conflicts tells of another live node with this node's name, within seconds
// and again every half minute while it lasts. Both nodes learn of it if they
// talk to each other; where they only have friends in common, the one that
// came later, whom the others ignore.
func (r *Ring) Conflicts() <-chan Conflict { return r.conflicts }

// sighting is somebody's word that our name is alive somewhere else.
type sighting struct {
	addr  netip.AddrPort
	tags  map[string]string
	nonce string
}

// mergeGuard sees every claim that a node is alive before memberlist acts on
// it. It never refuses: one odd entry would refuse a whole join.
type mergeGuard struct{ ring *Ring }

// NotifyMerge runs under memberlist's lock: no waiting, no calls to it. A list
// of one is a claim that memberlist is about to believe; longer ones come
// before, with the dead among them, and each live entry comes again alone.
func (g *mergeGuard) NotifyMerge(members []*serf.Member) error {
	r := g.ring
	if len(members) != 1 || members[0].Name != r.cfg.Node || members[0].Status == serf.StatusLeft {
		return nil
	}
	m := members[0]
	at, nonce := addrPort(m.Addr, m.Port), m.Tags[NonceTag]
	r.mu.Lock()
	same := at == r.advertised && (nonce == "" || nonce == r.tags[NonceTag])
	r.mu.Unlock()
	if !same {
		select {
		case r.sightings <- sighting{at, m.Tags, nonce}:
		default:
		}
	}
	return nil
}

// claim is what became of sightings of one address and nonce.
type claim struct {
	first, last, looked, told time.Time
	times                     int
}

// settleConflicts tells live twins from echoes: after a restart the others
// still speak of the node as it was before.
//
//	claim -- other address, and a node of our name answers there --> conflict
//	      -- other address, nobody answers --> our past: announce ourselves for a while
//	      -- our address, other nonce, again and again for 10 s --> conflict
func (r *Ring) settleConflicts(ctx context.Context, s *serf.Serf) {
	claims := make(claims)
	var until time.Time // we announce ourselves
	again := time.NewTicker(announceEvery)
	defer again.Stop()
	for {
		var sg sighting
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			if time.Now().Before(until) {
				r.announce(s)
			}
			continue
		case sg = <-r.sightings:
		}
		now := time.Now()
		c := claims.of(sg, now)
		if now.Sub(c.looked) < twinAgain || now.Sub(c.told) < twinTold {
			continue
		}
		c.looked = now
		twin := false
		switch {
		case sg.addr == r.Advertised():
			twin = c.times >= 3 && now.Sub(c.first) >= twinLasting
		case r.isSelf(sg.addr):
		default:
			if twin = answers(ctx, s, r.cfg.Node, sg.addr); !twin {
				until = time.Now().Add(announceFor)
			}
		}
		if twin {
			c.told = now
			r.log.Warn().Str("node", r.cfg.Node).Stringer("addr", sg.addr).Str("nonce", sg.nonce).Msg("another live node has this name")
			select {
			case r.conflicts <- Conflict{Name: r.cfg.Node, Addr: sg.addr, Tags: sg.tags}:
			default:
			}
		}
	}
}

// claims are what was lately said of our name.
type claims map[claimKey]*claim

type claimKey struct {
	addr  netip.AddrPort
	nonce string
}

func (all claims) of(sg sighting, now time.Time) *claim {
	if len(all) > 64 {
		clear(all) // somebody invents them
	}
	k := claimKey{sg.addr, sg.nonce}
	c := all[k]
	if c == nil || now.Sub(c.last) > time.Minute {
		c = &claim{first: now}
		all[k] = c
	}
	c.last = now
	c.times++
	return c
}

// answers asks whether a node of that name is at that address; nodes of other
// names keep silent.
func answers(ctx context.Context, s *serf.Serf, name string, at netip.AddrPort) bool {
	for range twinPings {
		if ctx.Err() != nil {
			return false
		}
		if _, err := s.Memberlist().Ping(name, net.UDPAddrFromAddrPort(at)); err == nil {
			return true
		}
	}
	return false
}

// announce exchanges everything with one live member: the mesh believes our
// former address until it has failed there, and then whoever tells it of the
// new one.
func (r *Ring) announce(s *serf.Serf) {
	members := r.Members()
	rand.Shuffle(len(members), func(a, b int) { members[a], members[b] = members[b], members[a] })
	for _, m := range members {
		if !m.Self && m.Status == StatusAlive && !r.isLeaving() {
			if _, err := s.Join([]string{m.Addr.String()}, true); err == nil {
				return
			}
		}
	}
}
