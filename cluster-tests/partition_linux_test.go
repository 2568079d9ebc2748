package clustertests

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestPartition: five POPs, each in a network namespace, cut into 2|3 for 30
// seconds with 200 writes on each side, 50 of them to the same rows. Both
// sides serve and accept all the time; they are equal soon after healing, and
// of two writes to one row the later one holds.
func TestPartition(t *testing.T) {
	needs(t, "netns")
	const (
		lasts  = 30 * time.Second
		writes = 200 // each side
		both   = 50  // of them to the same rows
	)
	m, net := newNetMesh(t, 5, "EDGEPROXY_APP=myapp")
	sides := [][]int{{0, 1}, {2, 3, 4}}
	addr := startBackendOn(t, "sa-1", "sa", net.here())
	rows := []row{at("sa-1", "sa", addr)}
	for i := range both {
		rows = append(rows, row{id: fmt.Sprintf("both-%02d", i), app: "w", region: "sa", addr: netip.MustParseAddrPort("10.9.9.9:80"), healthy: 0, weight: 1, soft: 10})
	}
	m.pops[0].sql(t, insert(rows...))
	settle(t, converged, m.pops...)

	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer stop()
	served := make([]int, len(m.pops))
	for i, p := range m.pops {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := p.goesTo("", "sa-1"); err != nil {
					t.Errorf("a client of %s, %d before it: %v", p.Node, served[i], err)
					return
				}
				served[i]++
				<-time.After(20 * time.Millisecond)
			}
		})
	}

	r := pick(t)
	net.cut(t, sides[0], sides[1])
	began := time.Now()
	winner := map[string]int{}
	var errs []error
	// write has side s write n: by sqlite3 or by API, on one of its POPs.
	write := func(s, n int, id string, weight int) {
		p := m.pops[sides[s][n%len(sides[s])]]
		var err error
		switch {
		case n%2 == 0 && strings.HasPrefix(id, "both"):
			err = p.write(fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='%s'", weight, id))
		case n%2 == 0:
			err = bySQL(p)(id, weight)
		case strings.HasPrefix(id, "both"):
			err = p.change("PATCH", "backends/"+id, fmt.Sprintf(`{"weight":%d}`, weight))
		default:
			err = byAPI(p)(id, weight)
		}
		errs = append(errs, err)
	}
	failed := time.Duration(0)
	every := lasts / writes
	for n := range writes {
		for s := range sides {
			if n >= both {
				write(s, n, fmt.Sprintf("side%d-%03d", s, n), 1+n%90)
			}
		}
		if n < both { // whoever writes second is later by more than a clock's mistake
			id, second := fmt.Sprintf("both-%02d", n), r.IntN(2)
			write(1-second, n, id, 1000+n)
			<-time.After(50 * time.Millisecond)
			write(second, n, id, 2000+n)
			winner[id] = 2000 + n
		}
		if failed == 0 && m.pops[0].sees(m.pops[4].Node, "failed") == nil {
			failed = time.Since(began)
		}
		<-time.After(time.Until(began.Add(time.Duration(n+1) * every)))
	}
	if err := errors.Join(errs...); err != nil {
		t.Errorf("writes during the partition: %v", err)
	}
	for s, side := range sides {
		for _, i := range side {
			got := strings.TrimSpace(m.pops[i].sql(t, fmt.Sprintf("SELECT count(*), sum(id LIKE 'side%d-%%') FROM backends WHERE id LIKE 'side%%'", s)))
			if want := fmt.Sprintf("%d|%d", writes-both, writes-both); got != want {
				t.Errorf("%s has %s rows of the partition's time, want %s of its own side", m.pops[i].Node, got, want)
			}
		}
	}
	net.heal(t)
	took := settle(t, 30*time.Second, m.pops...)
	t.Logf("cut for %s (the other side failed after %s): equal %s after healing; clients served %v", time.Since(began)-took, failed, took, served)
	together(t, m.pops...)
	stop()
	clients.Wait()

	for _, p := range m.pops {
		expectLines(t, "rows on "+p.Node, p.sql(t, "SELECT count(*) FROM backends WHERE id LIKE 'side%'"), fmt.Sprint(2*(writes-both)))
		for _, line := range sortedLines(p.sql(t, "SELECT id, weight FROM backends WHERE id LIKE 'both%'")) {
			id, _, _ := strings.Cut(line, "|")
			if want := fmt.Sprintf("%s|%d", id, winner[id]); line != want {
				t.Errorf("on %s the earlier write won: %s, want %s", p.Node, line, want)
			}
		}
	}
	goesOn(t, "healed", m.pops...)
}
