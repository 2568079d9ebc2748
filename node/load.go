package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// Load implements api.Mesh, for a POP that is in no mesh too.
func (n *Node) Load(ctx context.Context) (api.Load, error) {
	now := time.Now()
	list, err := n.Backends(ctx)
	if err != nil {
		return api.Load{}, err
	}
	members := []api.Member{{Name: n.life.Node, Region: n.cfg.Region, Status: membership.StatusAlive, RTT: new(float64)}}
	own := ownLoad(n.router, now)
	own.POP = n.life.Node
	reported := []route.Reported{own}
	if m := n.mesh(); m != nil {
		members, reported = m.members(), m.reported(now)
	}
	l := api.Load{Node: n.life.Node, Time: now.UTC(), POPs: popLoads(reported, members, now), Backends: make([]api.BackendLoad, len(list.Backends))}
	rates := n.router.SlotRates(now)
	for i, b := range list.Backends {
		load := api.BackendLoad{Backend: b, Rate: rates[b.ID], ByPOP: map[string]int64{}}
		for _, r := range reported {
			if c := r.Counts[b.ID]; c > 0 {
				load.ByPOP[r.POP] = c
			}
		}
		if b.HardLimit > 0 {
			load.Headroom = new(b.HardLimit - b.Connections)
		}
		l.Backends[i] = load
	}
	slices.SortFunc(l.Backends, func(a, b api.BackendLoad) int { return cmp.Compare(a.ID, b.ID) })
	return l, nil
}

// popLoads are the POPs that report, the first one first, and after them those
// that are members and do not.
func popLoads(reported []route.Reported, members []api.Member, now time.Time) []api.POPLoad {
	var all []api.POPLoad
	byName := map[string]api.Member{}
	for _, m := range members {
		byName[m.Name] = m
	}
	for _, r := range reported {
		m := byName[r.POP]
		lag := max(0, milliseconds(now.Sub(r.At)))
		all = append(all, api.POPLoad{
			Node: r.POP, Region: m.Region, Status: m.Status, RTT: m.RTT, Lag: &lag, Connections: r.Connections(), Rate: r.Rate,
		})
		delete(byName, r.POP)
	}
	for _, m := range members {
		if _, silent := byName[m.Name]; silent && m.Tags[tagRole] == roleOurs {
			all = append(all, api.POPLoad{Node: m.Name, Region: m.Region, Status: m.Status, RTT: m.RTT})
		}
	}
	return all
}
