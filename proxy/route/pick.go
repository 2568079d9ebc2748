// Package route decides which backend serves a client: the seed's score over
// an immutable snapshot, with affinity and limits.
//
//	score = region_score·100 + (connections/soft_limit)/weight        lowest wins
//	region_score = 0  the client's region
//	               1  the POP's own region
//	               2  any other, plus distance/20,000 km
//
//	router := route.NewRouter(bindings)
//	router.Update(snapshot, now)
//	choice := router.Pick(query, nil, now, random) // takes a place on choice.Slot
//	router.Bind(query, choice, now)                // once the connect succeeded
//	choice.Slot.Release(held)                      // when it ended
//
// Regions come strictly before load: a backend of a nearer tier is taken
// until it is at its hard limit. Among equals chance decides, never the order
// of a list. Pick, the DNS server and Explain share one function. The package
// opens no socket, reads no clock and writes no log: times and random numbers
// are arguments.
package route

import (
	"math"

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

// pick finds the target that is next for the client among those of the
// nearest regions that have room. It takes no place. Nil when there is none.
func (t *Table) pick(q Query, s *step) (*Target, int) {
	p := t.pool(q.App)
	if p == nil {
		return nil, 0
	}
	s.tryFrom = p.tryFrom.Load()
	own, clients := t.Snapshot.Self.Region, t.region(q.Place)
	left := len(p.groups)
	for tier, r := range [...]geo.Region{clients, own} {
		g := p.byRegion[r]
		if g == nil || tier == 1 && own == clients {
			continue
		}
		left--
		if !s.dry {
			g.demand.tried.Add(1)
		}
		if target := g.plan.choose(s, left == 0); target != nil || q.Waits && s.offered.target != nil {
			return target, tier
		}
	}
	score := 0.0
	for left > 0 {
		next, first, n := math.Inf(1), (*group)(nil), 0
		for _, g := range p.groups {
			if g.region == own || g.region == clients {
				continue
			}
			switch _, far := t.regionScore(q.Place, g.region, g.at); {
			case far <= score || far > next:
			case far < next:
				next, first, n = far, g, 1
			default:
				n++
			}
		}
		plan := first.plan
		if n > 1 {
			plan = p.set(setKey{own, clients, next}, func() (alike []*group) {
				for _, g := range p.groups {
					if g.region == own || g.region == clients {
						continue
					}
					if _, far := t.regionScore(q.Place, g.region, g.at); far == next {
						alike = append(alike, g)
					}
				}
				return alike
			})
		}
		left -= n
		if target := plan.choose(s, left == 0); target != nil || q.Waits && s.offered.target != nil {
			if !s.dry && target != nil {
				target.demand.tried.Add(1)
			}
			return target, 2
		}
		score = next
	}
	return nil, 2
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
