package clustertests

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
)

// TestDiskFaults: each of the first 100 calls in turn that a POP makes to write
// its database fails, and all after it, as with a full, a read-only and a
// broken disk. Traffic goes on, /ready says why, a write is refused and is not
// there, and without a restart all goes on once the disk is well. By default
// some of the 100.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		errno syscall.Errno
		few   []int // the calls that are taken by default
	}{"full": {syscall.ENOSPC, []int{1}}, "read-only": {syscall.EROFS, []int{2}}, "broken": {syscall.EIO, []int{1, 7}}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDiskTest(t)
			turns := fault.few
			if wanted("long") {
				turns = nil
				for n := range often(20, 100) {
					turns = append(turns, n+1)
				}
			}
			var back []time.Duration
			for _, n := range turns {
				back = append(back, d.turn(t, n, fault.errno))
			}
			settle(t, converged, d.pops...)
			t.Logf("%d turns; as good as any other POP again %s", len(turns), quantiles(back))
			if d.bad.log.says("panic") == nil {
				t.Error("it panicked")
			}
		})
	}
}

// diskTest is a POP with a disk that fails, and another that it takes rows of.
type diskTest struct {
	*mesh
	bad, good *pop
	disk      *ioFaults
	acked     map[string]bool // ids: true where a write was acknowledged
	wrote     int
}

func newDiskTest(t *testing.T, env ...string) *diskTest {
	t.Helper()
	m := planMesh(t, 2, env...)
	d := &diskTest{mesh: m, good: m.pops[0], bad: m.pops[1], disk: faulty(t, m.pops[1]), acked: map[string]bool{}}
	m.start(t)
	d.good.sql(t, insert(startBackend(t, "sa-1", "sa").row()))
	eventually(t, soon, func() error { return d.bad.goesTo("", "sa-1") })
	return d
}

// byAPI writes a row on the POP, and notes whether that was acknowledged.
func (d *diskTest) byAPI() error {
	d.wrote++
	id := fmt.Sprintf("api-%d", d.wrote)
	err := d.bad.changeSoon("POST", "backends", fmt.Sprintf(`{"id":"%s","app":"w","region":"sa","addr":"127.0.0.1:9","healthy":false}`, id), http.StatusCreated)
	d.acked[id] = err == nil
	return err
}

// byOther writes a row, which gets no clients, on the other POP.
func (d *diskTest) byOther(t *testing.T, id string) {
	t.Helper()
	d.good.sql(t, "INSERT INTO backends (id, app, region, wg_ip, port, healthy) VALUES ('"+id+"', 'w', 'sa', '127.0.0.1', 9, 0)")
}

// turn has the n-th call fail, and all after it until the disk is mended. It
// says how long the POP takes then.
func (d *diskTest) turn(t *testing.T, n int, errno syscall.Errno) time.Duration {
	t.Helper()
	d.disk.arm(n, errno)
	row := 0
	eventually(t, soon, func() error { // rows to apply, until the disk fails
		row++
		d.byOther(t, fmt.Sprintf("row-%d-%d", n, row))
		return d.disk.hit()
	})
	last := fmt.Sprintf("row-%d-last", n)
	d.byOther(t, last)
	eventually(t, soon, func() error { return d.bad.notReady("routing.db") })
	if err := d.byAPI(); err == nil {
		t.Errorf("call %d, %v: a write was acknowledged while nothing can be written", n, errno)
	}
	if err := d.bad.goesTo("", "sa-1"); err != nil {
		t.Errorf("call %d, %v: %v", n, errno, err)
	}

	d.disk.mend()
	began := time.Now()
	err := waitFor(soon, func() error {
		if got, err := d.bad.query("SELECT count(*) FROM backends WHERE id='" + last + "'"); err != nil || got != "1\n" {
			return fmt.Errorf("it has %q of %s: %v", got, last, err)
		}
		return d.bad.isReady()
	})
	if err != nil {
		t.Fatalf("call %d, %v: %v%s", n, errno, err, states(d.pops...))
	}
	took := time.Since(began)
	if err := d.byAPI(); err != nil {
		t.Errorf("call %d, %v: a write afterwards: %v", n, errno, err)
	}
	there := map[string]bool{}
	for id := range strings.FieldsSeq(d.bad.sql(t, "SELECT id FROM backends WHERE id LIKE 'api-%'")) {
		there[id] = true
	}
	for id, acked := range d.acked {
		switch {
		case acked && !there[id]:
			t.Errorf("call %d, %v: %s was acknowledged and is lost", n, errno, id)
		case !acked && there[id]:
			t.Errorf("call %d, %v: %s was refused and is there", n, errno, id)
		}
	}
	return took
}

// TestSlowSync: while each sync takes 300 ms, clients do not notice; writes are
// acknowledged late, and arrive.
func TestSlowSync(t *testing.T) {
	needs(t, "long") // many writes, each of which takes long
	t.Parallel()
	d := newDiskTest(t)
	clients := func(n int) (took []time.Duration) {
		for range n {
			began := time.Now()
			if err := d.bad.goesTo("", "sa-1"); err != nil {
				t.Error(err)
			}
			took = append(took, time.Since(began))
		}
		return took
	}
	rounds := often(100, 1000)
	before := clients(rounds)
	d.disk.slowSync(300 * time.Millisecond)
	ctx, end := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	var acks atomic.Int64
	writing.Go(func() {
		for ctx.Err() == nil {
			if err := d.byAPI(); err != nil {
				t.Error(err)
			}
			acks.Add(1)
		}
	})
	writing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := d.good.write(fmt.Sprintf("UPDATE backends SET weight=%d WHERE id='sa-1'", 1+i%2)); err != nil {
				t.Error(err)
			}
		}
	})
	var during []time.Duration
	for acks.Load() < 3 || len(during) < rounds {
		during = append(during, clients(10)...)
	}
	end()
	writing.Wait()
	syncs := d.disk.slowSync(0)
	t.Logf("clients before: %s; with syncs of 300 ms: %s; %d writes acknowledged, %d syncs", quantiles(before), quantiles(during), acks.Load(), syncs)
	if syncs == 0 {
		t.Error("nothing was synced")
	}
	if thorough() {
		if b, a := quantile(before, 0.99), quantile(during, 0.99); a > 2*b+50*time.Millisecond {
			t.Errorf("clients notice: p99 %s, before %s", a, b)
		}
	}
	settle(t, soon, d.pops...)
	st, err := look[api.Status](d.bad, "status")
	if err != nil || !st.Ready {
		t.Errorf("afterwards: %+v, %v", st.Reasons, err)
	}
}

// quantile of durations, for comparisons.
func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
