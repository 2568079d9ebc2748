package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
	"github.com/edgeproxy/edgeproxy/gossip"
	"github.com/edgeproxy/edgeproxy/proxy/route"
)

// report tells the other POPs how many connections this one has and what its
// checks say, four times a second and when it cannot wait, until ctx ends.
func (m *replication) report(ctx context.Context) {
	ticker := time.NewTicker(route.UrgentEvery)
	defer ticker.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			if now.Before(next) {
				continue
			}
			begun := time.Now()
			rep, due := m.router.Report(&m.told, now)
			// It looks at every backend: where there are very many, less often.
			next = time.Now().Add(9 * time.Since(begun))
			if !due {
				continue
			}
			l := m.loadOf(rep)
			m.vigil.news(&l, now)
			m.streams.PublishLoad(l)
		}
	}
}

// wholeLoad is for a peer whose stream has just begun.
func (m *replication) wholeLoad() gossip.Load {
	now := time.Now()
	l := m.loadOf(m.router.Whole(&m.told, now))
	m.vigil.all(&l, now)
	return l
}

func (m *replication) loadOf(rep route.Report) gossip.Load {
	l := gossip.Load{Life: m.vigil.life, Whole: rep.Whole, Counts: rep.Counts}
	for id, n := range l.Counts {
		l.Counts[id] = min(max(n, 0), gossip.MaxLoadCount)
	}
	for place, rate := range rep.Rates {
		l.Rates = append(l.Rates, gossip.LoadRate{App: place.App, Region: string(place.Region), Rate: min(rate, gossip.MaxLoadRate)})
	}
	slices.SortFunc(l.Rates, func(a, b gossip.LoadRate) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Region, b.Region))
	})
	return l
}

// tookLoad is told what another POP says of its connections and checks.
func (m *replication) tookLoad(peer string, l gossip.Load) {
	now := time.Now()
	rep := route.Report{
		POP: peer, Incarnation: l.Life, Seq: l.Seq, At: now.Add(-l.Age), Whole: l.Whole, Counts: l.Counts,
		Rates: make(map[route.AppRegion]float64, len(l.Rates)),
	}
	for _, r := range l.Rates {
		rep.Rates[route.AppRegion{App: r.App, Region: geo.Region(r.Region)}] = r.Rate
	}
	m.router.Learn(rep, now)
	m.vigil.took(peer, l, now)
}
