package clustertests

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSQLiteBesideTheDaemon: at 20 changes a second from elsewhere, fewer
// than one in a hundred writes by a bare sqlite3, which waits for no lock, is
// refused, and none by one with .timeout.
func TestSQLiteBesideTheDaemon(t *testing.T) {
	needs(t, "long") // hundreds of writes, each with a pause
	t.Parallel()
	m := newMesh(t, 2)
	from, p := m.pops[0], m.pops[1]
	from.sql(t, insert(at("far", "sa", refusing(t)), at("near", "sa", refusing(t))))
	settle(t, converged, m.pops...)

	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	changes := 0
	began := time.Now()
	all.Go(func() {
		tick := time.NewTicker(time.Second / 20)
		defer tick.Stop()
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			changes++
			if err := from.change("PATCH", "backends/far", fmt.Sprintf(`{"weight":%d}`, 1+changes%1000)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	// refused counts the writes that find the database locked.
	refused := func(writes int, write func(statement string) error, pause func() time.Duration) (n int) {
		for i := range writes {
			<-time.After(pause())
			err := write(fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='near'", i+2))
			if err != nil && !strings.Contains(err.Error(), "locked") {
				t.Error(err)
			} else if err != nil {
				n++
			}
		}
		return n
	}
	bare := func(statement string) error {
		out, err := cli(p.db, statement).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}
	atOnce := func() time.Duration { return 0 }
	r := pick(t)
	// Somebody who types, at any moment within some changes. A loop meets the
	// daemon as well, which takes over the write before.
	typed := func() time.Duration {
		return 30*time.Millisecond + time.Duration(r.Int64N(int64(100*time.Millisecond)))
	}

	// 100 writes on a machine that does other things too tell a daemon that
	// keeps the file locked from one that does not, and no more.
	writes, most := often(100, 1000), 50 // percent
	if thorough() {
		most = 1
	}
	n := refused(writes, bare, typed)
	waiting := refused(100, p.write, atOnce)
	loop := refused(100, bare, atOnce)
	took := time.Since(began)
	stop()
	all.Wait()
	t.Logf("beside %.1f changes/s from elsewhere: %d of %d bare writes refused; in a loop %d of 100, with a timeout %d of 100",
		float64(changes)/took.Seconds(), n, writes, loop, waiting)
	if 100*n >= most*writes {
		t.Errorf("%d of %d bare writes were refused, want below %d %%", n, writes, most)
	}
	if waiting > 0 {
		t.Errorf("%d of 100 writes with .timeout were refused", waiting)
	}
	settle(t, converged, m.pops...)
}
