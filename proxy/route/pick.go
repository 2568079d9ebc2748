// Package route decides which backend serves a client: the seed's score over
// an immutable snapshot, with affinity and limits.
//
//	score = region_score·100 + (connections/soft_limit)/weight        lowest wins
//	region_score = 0  the client's region
//	               1  the POP's own region
//	               2  any other, plus distance/20,000 km
//
//	router := route.NewRouter(bindings)
//	router.Update(snapshot)
//	choice := router.Pick(query, nil, now, random) // takes a place on choice.Slot
//	router.Bind(query, choice, now)                // once the connect succeeded
//	choice.Slot.Release()                          // when it ended
//
// Regions come strictly before load: a backend of a nearer tier is taken
// until it is at its hard limit. Among equals chance decides, never the order
// of a list. Pick, the DNS server and Explain share one function. The package
// opens no socket, reads no clock and writes no log: times and random numbers
// are arguments.
package route

import (
	"github.com/edgeproxy/edgeproxy/geo"
)

// tiers is how many region scores there are: client's, POP's own, other.
const tiers = 3

// farAway is the distance in km that adds 1 to the region score of tier 2;
// about half the circumference of the Earth, so that tier 2 stays between 2 and 3.
const farAway = 20000.0

// Reason says why a backend was chosen.
type Reason string

const (
	ReasonAffinity     Reason = "affinity"      // the client had it before
	ReasonClientRegion Reason = "client_region" // lowest score, tier 0
	ReasonPOPRegion    Reason = "pop_region"    // lowest score, tier 1
	ReasonOtherRegion  Reason = "other_region"  // lowest score, tier 2
	ReasonNone         Reason = "no_backend"    // none is healthy and below its hard limit
)

var tierReasons = [tiers]Reason{ReasonClientRegion, ReasonPOPRegion, ReasonOtherRegion}

// region is where the client counts as being: its own region, or the POP's
// where its country is not known. A known country without a region (such as
// Antarctica) has none.
func (t *Table) region(client geo.Place) geo.Region {
	if client.Country == "" {
		return t.Snapshot.Self.Region
	}
	return client.Region
}

// regionScore is the tier of a region for a client, and its region_score.
// The client's position is taken to be the POP's where it is not known; where
// that is not known either, all other regions are alike. A region whose
// position is not known is the farthest of them.
func (t *Table) regionScore(client geo.Place, region geo.Region, at geo.Vector) (tier int, score float64) {
	switch region {
	case t.region(client):
		return 0, 0
	case t.Snapshot.Self.Region:
		return 1, 1
	}
	from := client.At
	if !from.Known() {
		from = t.Snapshot.Self.Position
	}
	switch {
	case !from.Known():
		return 2, 2
	case !at.Known():
		return 2, 3
	}
	if score = 2 + from.Distance(at)/farAway; score < 3 {
		return 2, score
	}
	return 2, 3
}

// pick finds the routable target of lowest score that is below its hard limit
// and not among tried. It takes no place. Nil when there is none.
func (t *Table) pick(app string, client geo.Place, tried []*Slot, random uint64) (*Target, int) {
	p := t.pool(app)
	if p == nil {
		return nil, 0
	}
	own, clients := t.Snapshot.Self.Region, t.region(client)
	best := best{random: random}
	if best.consider(p.byRegion[clients], 0, tried); best.target != nil {
		return best.target, 0
	}
	if own != clients {
		if best.consider(p.byRegion[own], 1, tried); best.target != nil {
			return best.target, 1
		}
	}
	for _, g := range p.groups {
		if g.region == own || g.region == clients {
			continue
		}
		_, score := t.regionScore(client, g.region, g.at)
		best.consider(g, score, tried)
	}
	return best.target, 2
}

// best is the target of lowest (region score, load) seen so far.
type best struct {
	target *Target
	score  float64
	load   float64
	ties   uint64 // targets seen that are equal to the best one, itself included
	random uint64
}

func (b *best) consider(g *group, score float64, tried []*Slot) {
	if g == nil || b.target != nil && score > b.score {
		return
	}
	for i := range g.targets {
		t := &g.targets[i]
		n := t.Slot.own.Load()
		if t.hard > 0 && n >= t.hard || isGone(n) {
			continue
		}
		// The seed's load_factor / weight. Divided, not multiplied by an inverse: so
		// equal shares of different capacities are equal, and chance decides.
		load := float64(n) / t.capacity
		if b.target != nil && score == b.score && load > b.load {
			continue
		}
		if len(tried) > 0 && wasTried(t.Slot, tried) {
			continue
		}
		if b.target == nil || score < b.score || load < b.load {
			b.target, b.score, b.load, b.ties = t, score, load, 1
			continue
		}
		// An equal: take it with probability 1/ties, which leaves each of
		// the equals with the same chance (reservoir sampling).
		b.ties++
		b.random = mix(b.random)
		if b.random%b.ties == 0 {
			b.target = t
		}
	}
}

func wasTried(s *Slot, tried []*Slot) bool {
	for _, t := range tried {
		if t == s {
			return true
		}
	}
	return false
}

// mix is SplitMix64 (Steele, Lea, Flood 2014), which makes further random
// numbers out of the one that the caller gave.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
