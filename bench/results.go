//go:build linux

package main

import (
	"math"
	"slices"
	"time"
)

// results is what a run has found so far: a value per figure, target and round.
type results struct {
	env      environment
	measures []measure
	values   map[string]map[string][]float64 // by figure key, then target
	troubles []trouble
	busy     map[string]float64
}

// trouble is errors that a measure met on the way.
type trouble struct {
	Measure string `json:"measure"`
	Target  string `json:"target"`
	Errors  int64  `json:"errors"`
	First   string `json:"first"`
}

func newResults(measures []measure, env environment) *results {
	return &results{env: env, measures: measures, values: make(map[string]map[string][]float64), busy: make(map[string]float64)}
}

func (r *results) add(m measure, target string, out outcome) {
	for key, v := range out.figures {
		if r.values[key] == nil {
			r.values[key] = make(map[string][]float64)
		}
		r.values[key][target] = append(r.values[key][target], v)
	}
	r.addLoad(target, out)
	if out.errors == 0 {
		return
	}
	i := slices.IndexFunc(r.troubles, func(t trouble) bool { return t.Measure == m.name && t.Target == target })
	if i < 0 {
		r.troubles = append(r.troubles, trouble{Measure: m.name, Target: target, First: out.first})
		i = len(r.troubles) - 1
	}
	r.troubles[i].Errors += out.errors
}

// Shares of CPU time, each the highest seen.
const (
	busyLoad    = "load"    // of the load generator's threads; direct does not count, it is there to show the limit
	busyBackend = "backend" // of the backend's threads
	busyOthers  = "others"  // of the machine, by what does not belong to bench
)

func (r *results) addLoad(target string, out outcome) {
	if out.window == 0 {
		return
	}
	share := func(key string, used time.Duration, threads int) {
		r.busy[key] = max(r.busy[key], float64(used)/float64(out.window)/float64(threads))
	}
	if target != direct {
		share(busyLoad, out.cpu[groupLoad], workers())
		share(busyBackend, out.cpu[groupBackend], workers())
	}
	share(busyOthers, out.cpu[groupMachine]-out.cpu[groupLoad]-out.cpu[groupBackend]-out.cpu[groupProxy], r.env.CPUs)
}

// row is one figure of one target over all rounds. Ratios are this target's value over the other's, NaN where there is none.
type row struct {
	target           string
	rounds           []float64
	median, min, max float64
	peer             string  // the best of the other proxies
	vsPeer           float64 // to it
	vsHAProxy        float64
}

// rows are the targets of figure f, in the order in which they were asked for, direct first.
func (r *results) rows(f figure) []row {
	byTarget := r.values[f.key]
	order := append([]string{direct}, slices.DeleteFunc(slices.Clone(r.env.Targets), func(s string) bool { return s == direct })...)
	var out []row
	for _, name := range order {
		v := byTarget[name]
		if len(v) == 0 {
			continue
		}
		w := row{target: name, rounds: v, median: median(v), min: slices.Min(v), max: slices.Max(v), vsPeer: math.NaN(), vsHAProxy: math.NaN()}
		if name != direct {
			if w.peer = bestPeer(f, byTarget, order, name); w.peer != "" {
				w.vsPeer = ratio(v, byTarget[w.peer])
			}
			if name != haproxy {
				w.vsHAProxy = ratio(v, byTarget[haproxy])
			}
		}
		out = append(out, w)
	}
	return out
}

// bestPeer is the proxy other than name with the best median; ours are no peers of each other.
func bestPeer(f figure, byTarget map[string][]float64, order []string, name string) string {
	best := ""
	for _, other := range order {
		if other == name || other == direct || len(byTarget[other]) == 0 || ours(name) && ours(other) {
			continue
		}
		if best == "" {
			best = other
			continue
		}
		a, b := median(byTarget[other]), median(byTarget[best])
		if f.more && a > b || !f.more && a < b {
			best = other
		}
	}
	return best
}

// ours says whether a target is this project's proxy, in whatever way it relays.
func ours(name string) bool { return name == edgeproxy || name == goroutine }

// ratio is the median over the rounds of a's value over b's. Values of one round were measured side by side, so that what
// the machine did in that minute cancels out. NaN if b has fewer than half of its values above zero.
func ratio(a, b []float64) float64 {
	var quotients []float64
	n := min(len(a), len(b))
	for i := range n {
		if b[i] > 0 {
			quotients = append(quotients, a[i]/b[i])
		}
	}
	if len(quotients)*2 < n {
		return math.NaN()
	}
	return median(quotients)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}
