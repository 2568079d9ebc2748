//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// figure is one number that a measure yields.
type figure struct {
	key    string
	title  string
	unit   string
	digits int
	more   bool // more is better
}

// sample is what one measurement found, by figure key.
type sample map[string]float64

// outcome is one measurement of one target.
type outcome struct {
	figures sample
	errors  int64
	first   string                   // what the first error was
	cpu     map[string]time.Duration // within window, by group
	window  time.Duration
}

// measure is one thing to measure. It has each, or all where the targets must be measured in one go.
type measure struct {
	name     string
	windowed bool // lasts config.window; the others take about a second
	figures  []figure
	each     func(context.Context, *rig, *instance) (outcome, error)
	all      func(context.Context, *rig, []*instance) (map[string]outcome, error)
}

// allMeasures is in the order in which they run and are printed.
func allMeasures() []measure {
	return []measure{
		{
			name: "connections", windowed: true, each: churn("connections", false),
			figures: churnFigures("connections", "connect, request, reply, close"),
		},
		{
			name: "resets", windowed: true, each: churn("resets", true),
			figures: churnFigures("resets", "connect, request, reply, reset"),
		},
		{
			name: "requests", windowed: true, each: requests,
			figures: []figure{
				{"requests.rate", "requests over kept connections", "1/s", 0, true},
				{"requests.cpu", "  CPU per request", "µs", 2, false},
				{"requests.p50", "  p50", "µs", 0, false},
				{"requests.p99", "  p99", "µs", 0, false},
			},
		},
		{
			name: "latency", windowed: true, all: addedLatency,
			figures: []figure{
				{"latency.rtt", "one connection: round trip p50", "µs", 1, false},
				{"latency.added", "  of it added by the proxy", "µs", 1, false},
				{"latency.p99", "  added at p99", "µs", 1, false},
				{"latency.p999", "  added at p99.9", "µs", 1, false},
			},
		},
		{
			name: "bulk", windowed: true, each: bulk,
			figures: []figure{
				{"bulk.rate", "bulk", "GB/s", 2, true},
				{"bulk.cpu", "  CPU per GB", "s", 3, false},
			},
		},
		{
			name: "idle", each: idle,
			figures: []figure{
				{"idle.rss", "idle connections: memory each", "KB", 2, false},
				{"idle.fds", "  descriptors each", "", 2, false},
				{"idle.base", "  memory before the first", "MB", 1, false},
			},
		},
		{
			name: "curve", each: curve,
			figures: []figure{
				{"curve.800", "memory with 10 connections", "MB", 1, false},
				{"curve.80", "  100", "MB", 1, false},
				{"curve.8", "  1,000", "MB", 1, false},
				{"curve.1", "  8,000", "MB", 1, false},
			},
		},
		{
			name: "many", windowed: true, each: many,
			figures: []figure{
				{"many.few", "CPU per connection with 10 backends", "µs", 1, false},
				{"many.many", "  10,000", "µs", 1, false},
				{"many.times", "  times as much", "", 2, false},
			},
		},
		{
			name: "start", each: start,
			figures: []figure{
				{"start.accept", "start: exec to first accept", "ms", 1, false},
				{"start.reply", "  exec to first reply", "ms", 1, false},
			},
		},
	}
}

func churnFigures(key, title string) []figure {
	return []figure{
		{key + ".rate", title, "1/s", 0, true},
		{key + ".cpu", "  CPU per connection", "µs", 1, false},
		{key + ".p50", "  p50", "µs", 0, false},
		{key + ".p99", "  p99", "µs", 0, false},
	}
}

func measureNames() string {
	var out []string
	for _, m := range allMeasures() {
		out = append(out, m.name)
	}
	return strings.Join(out, ",")
}

// pickMeasures returns those that are named, in the order of allMeasures; all if none is.
func pickMeasures(wanted []string) ([]measure, error) {
	if len(wanted) == 0 {
		return allMeasures(), nil
	}
	asked := make(map[string]bool)
	for _, name := range wanted {
		asked[name] = true
	}
	var out []measure
	for _, m := range allMeasures() {
		if asked[m.name] {
			out = append(out, m)
			delete(asked, m.name)
		}
	}
	for name := range asked {
		return nil, fmt.Errorf("unknown measure %q; there are %s", name, measureNames())
	}
	return out, nil
}

// warm is how long a load runs before its window of w begins.
func warm(w time.Duration) time.Duration {
	return min(max(w/10, 50*time.Millisecond), 500*time.Millisecond)
}

// windowed runs a job for one window and returns its result; without a single success there is no figure.
func (r *rig) windowed(ctx context.Context, in *instance, j loadJob) (loadResult, outcome, error) {
	j.Warm, j.Window = warm(r.cfg.window), r.cfg.window
	res, err := r.ask(ctx, in, j)
	if err == nil && res.Ops == 0 {
		err = fmt.Errorf("nothing came through; first of %d errors: %s", res.Errors, res.First)
	}
	return res, outcome{errors: res.Errors, first: res.First, cpu: res.CPU, window: res.Window}, err
}

// perOp puts CPU time of the proxy per operation into s, in units of one (time.Microsecond, …).
func (res loadResult) perOp(s sample, key string, ops float64, one time.Duration) {
	if cpu, ok := res.CPU[groupProxy]; ok {
		s[key] = float64(cpu) / float64(one) / ops
	}
}

// rates are the figures of connections and of requests.
func (res loadResult) rates(key string) sample {
	s := sample{
		key + ".rate": float64(res.Ops) / res.Window.Seconds(),
		key + ".p50":  res.P50[0] / 1e3,
		key + ".p99":  res.P99[0] / 1e3,
	}
	res.perOp(s, key+".cpu", float64(res.Ops), time.Microsecond)
	return s
}

func churn(key string, reset bool) func(context.Context, *rig, *instance) (outcome, error) {
	return func(ctx context.Context, r *rig, in *instance) (outcome, error) {
		if err := checkTracking(warm(r.cfg.window) + r.cfg.window); err != nil {
			return outcome{}, err
		}
		res, out, err := r.windowed(ctx, in, loadJob{Kind: jobConnect, Conns: r.cfg.conns, Reset: reset})
		if err == nil {
			out.figures = res.rates(key)
		}
		return out, err
	}
}

func requests(ctx context.Context, r *rig, in *instance) (outcome, error) {
	res, out, err := r.windowed(ctx, in, loadJob{Kind: jobRequest, Conns: r.cfg.conns})
	if err == nil {
		out.figures = res.rates("requests")
	}
	return out, err
}

func bulk(ctx context.Context, r *rig, in *instance) (outcome, error) {
	res, out, err := r.windowed(ctx, in, loadJob{Kind: jobStream, Conns: r.cfg.streams})
	if err == nil {
		gb := float64(res.Bytes) / 1e9
		out.figures = sample{"bulk.rate": gb / res.Window.Seconds()}
		res.perOp(out.figures, "bulk.cpu", gb, time.Second)
	}
	return out, err
}

// addedLatency asks all targets and one backend in turns, over one connection each. The machine's two moods (how deep its
// cores sleep) make anything else incomparable.
func addedLatency(ctx context.Context, r *rig, ins []*instance) (map[string]outcome, error) {
	backend := &instance{target: ins[0].target}
	j := loadJob{Kind: jobLatency, Conns: 1, Addrs: []netip.AddrPort{backend.backends[0]}, Sources: backend.sources[:1]}
	for _, in := range ins {
		j.Addrs = append(j.Addrs, in.addrs[0])
		j.Sources = append(j.Sources, in.sources[0])
	}
	res, _, err := r.windowed(ctx, backend, j)
	if err == nil && res.Errors > 0 {
		err = fmt.Errorf("%s", res.First)
	}
	if err != nil {
		return nil, err
	}
	out := map[string]outcome{direct: {figures: sample{"latency.rtt": res.P50[0] / 1e3}}}
	added := func(quantiles []float64, i int) float64 { return (quantiles[i+1] - quantiles[0]) / 1e3 }
	for i, in := range ins {
		if in.proc != nil {
			out[in.name] = outcome{figures: sample{"latency.rtt": res.P50[i+1] / 1e3, "latency.added": added(res.P50, i),
				"latency.p99": added(res.P99, i), "latency.p999": added(res.P999, i)}}
		}
	}
	return out, nil
}
