package node

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/wg"
)

// incumbents are who held which key before. This POP has its own, whoever else
// may have claimed it while it was off.
func (o *overlay) incumbents() wg.Roster {
	own := wg.POP{Name: o.node}
	own.Key, own.Next = o.keys.public()
	before := wg.Roster{POPs: []wg.POP{own}, Devices: o.roster.Devices}
	for _, p := range o.roster.POPs {
		if p.Name != o.node && p.Key != own.Key && p.Next != own.Key {
			before.POPs = append(before.POPs, p)
		}
	}
	return before
}

// settled is the roster as it was last settled, for what is asked of it.
func (o *overlay) settled() wg.Roster {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.roster
}

// complain logs problems that are new.
func (o *overlay) complain(problems []wg.Problem) {
	for _, p := range problems {
		if !slices.Contains(o.problems, p) {
			o.log.Warn().Str("peer", p.Name).Str("what", p.Message).Msg("overlay claim refused")
		}
	}
}

// heardNewKeys notes which POPs use the key that they said they would change to:
// their traffic goes there from then on, before their row says so.
func (o *overlay) heardNewKeys(rows *overlayRows) {
	if !slices.ContainsFunc(rows.pops, func(p wg.POP) bool { return p.Next != (wg.Key{}) }) {
		clear(o.changed)
		return
	}
	peers, err := o.device.Peers()
	if err != nil {
		return
	}
	for _, p := range rows.pops {
		if slices.ContainsFunc(peers, func(s wg.Status) bool { return s.Key == p.Next && !s.Handshake.IsZero() }) {
			o.changed[p.Name] = p.Next
		}
	}
}

// seen is the rows with what is known of the POPs beside them. One that has
// left the mesh is not among them; of one that has no row yet counts what its
// tags say, without which the record streams could not go through the overlay.
func (o *overlay) seen(rows *overlayRows, members []membership.Member, streams []gossip.PeerStatus, now time.Time) (pops []wg.POP) {
	heard, lease := map[string]time.Time{}, map[string]time.Duration{}
	for _, r := range o.router.Reported(now) {
		heard[r.POP] = r.At
	}
	for _, s := range streams {
		if !s.Connected {
			lease[s.Node] = overlayLost
		}
	}
	status := map[string]string{}
	for _, x := range members {
		status[x.Name] = x.Status
		if _, has := rows.own(x.Name); !has && !x.Self {
			if p, ok := o.tagged(x); ok {
				pops = append(pops, p)
			}
		}
	}
	pops = append(pops, rows.pops...)
	if o.cfg.SyncOver == "overlay" {
		o.changedKeys(pops, members)
	}
	if _, has := rows.own(o.node); !has { // it is on its way
		own := wg.POP{Name: o.node, Region: o.cfg.Region, Topology: o.layout.Topology, Endpoint: o.endpoint(members), Claimed: math.MaxInt64}
		own.Key, own.Next = o.keys.public()
		own.Six = o.six()
		pops = append(pops, own)
	}
	pops = slices.DeleteFunc(pops, func(p wg.POP) bool { return status[p.Name] == membership.StatusLeft })
	for i := range pops {
		p := &pops[i]
		at, known := heard[p.Name]
		p.Alive = p.Name == o.node || status[p.Name] == membership.StatusAlive && (!known || now.Sub(at) < cmp.Or(lease[p.Name], overlayLease))
		p.Changed = p.Next != (wg.Key{}) && o.changed[p.Name] == p.Next
	}
	return pops
}
