//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What the load generator can be asked for.
const (
	jobConnect = "connect" // connections one after the other: connect, request, reply, close
	jobRequest = "request" // requests one after the other on connections that stay
	jobStream  = "stream"  // take what the backend streams
	jobLatency = "latency" // one request at a time, in turns over all addresses
	jobHold    = "hold"    // open connections, exchange one request on each and keep them
	jobRelease = "release" // close what is held
)

// Groups of processes whose CPU time a job asks for.
const (
	groupProxy   = "proxy"
	groupBackend = "backend"
)

// loadJob is one thing for the load generator to do.
type loadJob struct {
	Kind    string
	Addrs   []netip.AddrPort // where to connect, in turns
	Sources []netip.Addr     // from where, in turns
	Conns   int              // at a time; for jobHold: in all
	Workers int
	Reset   bool // close with a reset (SO_LINGER 0) instead of a FIN
	Warm    time.Duration
	Window  time.Duration    // what happens within is counted; for jobHold: the longest it may take
	PIDs    map[string][]int // processes whose CPU time over the window is wanted, by group
}

// loadResult is the answer to a loadJob. Latencies are in ns.
type loadResult struct {
	Err    string // nothing was measured
	Ops    int64
	Bytes  int64
	Errors int64
	First  string // what the first error was
	Held   int    // connections held, or for jobRelease: still alive
	Window time.Duration
	CPU    map[string]time.Duration // by group of PIDs, groupLoad and groupMachine
	P50    []float64                // one for all, or for jobLatency one per address
	P99    []float64
	P999   []float64
}

// Phases of a job.
const (
	warming int32 = iota
	measuring
	ending
)

// patience is how much longer than asked a phase may take on a machine so busy that nothing has come through in time.
const patience = 10 * time.Second

// course is what the generator and the workers of a job tell each other.
type course struct {
	phase atomic.Int32 // set by the generator alone
	came  atomic.Bool  // set by workers: something came through in this phase
}

// arrived says that something came through in the given phase, if that is not over.
func (c *course) arrived(phase int32) {
	if c.phase.Load() == phase && !c.came.Load() { // a read that is nearly always true keeps the cache line shared
		c.came.Store(true)
	}
}

// pass begins a phase and waits for d, and then until something has come through.
func (c *course) pass(phase int32, d time.Duration) {
	c.came.Store(false)
	c.phase.Store(phase)
	time.Sleep(d)
	for limit := time.Now().Add(patience); !c.came.Load() && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
}

// tally is what one worker has counted.
type tally struct {
	ops, bytes, errors int64
	first              string
	hist               []*histogram
}

func (t *tally) fail(what string, err error) {
	t.errors++
	if t.first == "" {
		t.first = fmt.Sprintf("%s: %v", what, err)
	}
}

// worker runs on a thread of its own until the phase is ending.
type worker interface {
	run(*course)
	result() *tally
}

// generator is the load process. It does one job at a time.
type generator struct{ held []int }

func (g *generator) do(j loadJob) loadResult {
	var res loadResult
	var err error
	switch j.Kind {
	case jobHold:
		res, err = g.hold(j)
	case jobRelease:
		res.Held = g.release()
	default:
		res, err = g.measure(j)
	}
	if err != nil {
		return loadResult{Err: err.Error()}
	}
	return res
}

func (g *generator) measure(j loadJob) (loadResult, error) {
	workers, err := newWorkers(j)
	if err != nil {
		return loadResult{}, err
	}
	var c course
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { w.run(&c) })
	}
	c.pass(warming, j.Warm)
	before, err := cpuTimes(j.PIDs)
	start := time.Now()
	if err == nil {
		c.pass(measuring, j.Window)
	}
	window := time.Since(start)
	after, err2 := cpuTimes(j.PIDs)
	c.phase.Store(ending)
	wg.Wait()
	if err == nil {
		err = err2
	}
	if err != nil {
		return loadResult{}, err
	}
	res := sum(workers)
	res.Window = window
	res.CPU = make(map[string]time.Duration)
	for group := range after {
		res.CPU[group] = after[group] - before[group]
	}
	return res, nil
}

// newWorkers shares the job's connections out.
func newWorkers(j loadJob) ([]worker, error) {
	if len(j.Addrs) == 0 || len(j.Sources) == 0 {
		return nil, fmt.Errorf("job %s without addresses", j.Kind)
	}
	if j.Kind == jobLatency {
		return []worker{newPinger(j)}, nil
	}
	var out []worker
	n := min(max(j.Workers, 1), j.Conns)
	for i := range n {
		part := j
		part.Conns = (j.Conns + n - 1 - i) / n
		w, err := newClients(part, i)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// sum puts the workers' tallies together.
func sum(workers []worker) loadResult {
	var res loadResult
	var hist []*histogram
	for _, w := range workers {
		t := w.result()
		res.Ops += t.ops
		res.Bytes += t.bytes
		res.Errors += t.errors
		if res.First == "" {
			res.First = t.first
		}
		for i, h := range t.hist {
			if i == len(hist) {
				hist = append(hist, new(histogram))
			}
			hist[i].merge(h)
		}
	}
	for _, h := range hist {
		res.P50 = append(res.P50, h.quantile(0.50))
		res.P99 = append(res.P99, h.quantile(0.99))
		res.P999 = append(res.P999, h.quantile(0.999))
	}
	return res
}

// hold opens connections and leaves them to release.
func (g *generator) hold(j loadJob) (loadResult, error) {
	w, err := newClients(j, 0)
	if err != nil {
		return loadResult{}, err
	}
	w.limit = time.Now().Add(j.Window)
	w.run(new(course))
	g.held = append(g.held, w.kept...)
	res := sum([]worker{w})
	res.Held = len(g.held)
	return res, nil
}

// release closes what is held and tells how many of them the other side had kept open and silent.
func (g *generator) release() (alive int) {
	var b [1]byte
	for _, fd := range g.held {
		if _, errno := read(fd, b[:]); errno == unix.EAGAIN {
			alive++
		}
		_ = unix.Close(fd)
	}
	g.held = nil
	return alive
}

// Groups of cpuTimes beside those that the job names.
const (
	groupLoad    = "load"    // the generator itself
	groupMachine = "machine" // everything that runs, and what the hypervisor took
)

// cpuTimes sums user and system time, of all threads, per group of processes.
func cpuTimes(groups map[string][]int) (map[string]time.Duration, error) {
	out := make(map[string]time.Duration)
	for group, pids := range groups {
		for _, pid := range pids {
			// The clock of another process, see clock_getcpuclockid(3): exact to the nanosecond, where
			// /proc/<pid>/stat counts ticks of 10 ms, and it keeps the time of threads that have ended.
			const cpuClockSched = 2
			d, err := clock(int32(^pid)<<3 | cpuClockSched)
			if err != nil {
				return nil, fmt.Errorf("cpu time of process %d (%s), which has ended?: %w", pid, group, err)
			}
			out[group] += d
		}
	}
	var err error
	if out[groupLoad], err = clock(unix.CLOCK_PROCESS_CPUTIME_ID); err != nil {
		return nil, err
	}
	out[groupMachine], err = machineTime()
	return out, err
}

// machineTime reads the first line of /proc/stat, see proc(5): user nice system idle iowait irq softirq steal, in ticks of 10 ms.
func machineTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	var f [8]int64
	if _, err := fmt.Sscanf(string(b), "cpu %d %d %d %d %d %d %d %d", &f[0], &f[1], &f[2], &f[3], &f[4], &f[5], &f[6], &f[7]); err != nil {
		return 0, fmt.Errorf("/proc/stat: %w", err)
	}
	return time.Duration(f[0]+f[1]+f[2]+f[5]+f[6]+f[7]) * 10 * time.Millisecond, nil
}

func clock(id int32) (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(id, &ts)
	return time.Duration(ts.Nano()), err
}
