package clustertests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestThirtyPOPs: 800 rows, 20 to a transaction, are written on random POPs of
// thirty that were each told of a few others. From the moment at which sqlite3
// is started to the row in a POP's file it takes two seconds at most for 99 of
// 100 pairs of row and POP, and ten seconds after the last write all are equal.
func TestThirtyPOPs(t *testing.T) {
	needs(t, "long") // and the machine for itself: not parallel
	const pops, transactions, each = 30, 40, 20
	r := pick(t)
	m := planMesh(t, 1, unchecked, "EDGEPROXY_LOG_LEVEL=info")
	m.pops[0].start(t)
	for len(m.pops) < pops {
		p := m.add(t, unchecked, "EDGEPROXY_LOG_LEVEL=info", "EDGEPROXY_JOIN="+m.some(r, 3))
		p.start(t)
	}
	together(t, m.pops...)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	seen := make([]map[string]time.Time, pops)
	for i, p := range m.pops {
		seen[i] = map[string]time.Time{}
		w := newWatcher(t, p)
		all.Go(func() { w.arrivals(ctx, seen[i], transactions*each) })
	}
	written := map[string]time.Time{}
	for n := range transactions {
		var rows []row
		began := time.Now()
		for i := range each {
			x := at(fmt.Sprintf("row-%02d-%02d", n, i), "sa", refusing(t))
			x.healthy = 0
			written[x.id] = began
			rows = append(rows, x)
		}
		m.pops[r.IntN(pops)].sql(t, insert(rows...))
	}
	last := time.Now()
	if err := waitFor(converged, func() error { return agreed(m.pops...) }); err != nil {
		t.Errorf("%v%s", err, states(m.pops...))
	}
	equal := time.Since(last)
	settle(t, soon, m.pops...) // to read what is in thirty files takes longer than to bring it there
	all.Wait()

	var took []time.Duration
	for i := range m.pops {
		for id, began := range written {
			at, arrived := seen[i][id]
			if !arrived {
				t.Fatalf("%s never had %s", m.pops[i].Node, id)
			}
			took = append(took, at.Sub(began))
		}
	}
	slices.Sort(took)
	t.Logf("rows on %d POPs: %s; written within %s; all equal %s after the last", pops, quantiles(took), last.Sub(written["row-00-00"]).Round(time.Millisecond), equal.Round(time.Millisecond))
	if p99 := took[len(took)*99/100]; p99 > 2*time.Second {
		t.Errorf("p99 is %s, want at most 2 s", p99)
	}
}

// agreed is nil where all print one digest.
func agreed(pops ...*pop) error {
	digest := ""
	for _, p := range pops {
		st, err := look[api.Status](p, "status")
		if err != nil {
			return err
		}
		if digest != "" && st.Records.Digest != digest {
			return fmt.Errorf("%s has digest %q, %s %q", p.Node, st.Records.Digest, pops[0].Node, digest)
		}
		digest = st.Records.Digest
	}
	return nil
}

// some are the gossip addresses of a few POPs that there are.
func (m *mesh) some(r *rand.Rand, n int) string {
	var addrs []string
	for _, i := range r.Perm(len(m.pops)) {
		if len(addrs) < n {
			addrs = append(addrs, m.pops[i].setting("EDGEPROXY_GOSSIP_ADDR"))
		}
	}
	return strings.Join(addrs, ",")
}

// arrivals notes when each row came into the file, until there are so many.
func (w *watcher) arrivals(ctx context.Context, seen map[string]time.Time, want int) {
	for after := int64(0); len(seen) < want && ctx.Err() == nil; {
		rows, err := w.db.QueryContext(ctx, "SELECT rowid, id FROM backends WHERE rowid > ? ORDER BY rowid", after)
		now := time.Now()
		for err == nil && rows.Next() {
			var id string
			if err = rows.Scan(&after, &id); err == nil {
				seen[id] = now
			}
		}
		if rows != nil {
			rows.Close()
		}
		waitUntil(ctx, now.Add(4*poll))
	}
}
