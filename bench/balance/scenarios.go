package main

import (
	"fmt"
	"strings"
	"time"
)

// scenario is a mesh, what its clients do, and what must come of it.
type scenario struct {
	name             string
	pops, backends   int
	load             float64 // ρ: offered concurrent connections / Σ soft
	staleness        time.Duration
	warmUp, measured time.Duration
	short            bool    // sessions of 50 ms, exponential; otherwise Pareto 1.5 of median 10 s
	weighted         bool    // weights 1, 2, 4 × soft 50, 100, 200, hard 2·soft
	surge            float64 // region 0 gets so many times its clients from 25 to 55 s
	backendDies      bool    // backend 0, from 25 to 45 s
	popDies          bool    // POP 0, from 25 to 45 s
	sticky           bool    // half of the connections
	strict           bool    // limits, by rights
	target           result
}

// result is what came of a run, and also what is allowed.
type result struct {
	imbalance       float64 // p99 of largest load/C over the region's ΣLoad/ΣC
	peak            float64 // largest (load - hard)/hard
	outside         float64 // of the connections, outside tier 0 though it had room
	refused         float64 // of the connections
	refusedWithRoom float64 // though there was room somewhere
	returned        float64 // load of the backend that came back, by the mean
	delayed         float64 // of the connections, by the wait for a right
}

const unbounded = 1e9

func base(name string, staleness time.Duration, imbalance float64) scenario {
	return scenario{
		name: name, pops: 20, backends: 50, load: 0.8, staleness: staleness, warmUp: 20 * time.Second, measured: 60 * time.Second,
		target: result{imbalance: imbalance, peak: unbounded, outside: unbounded, refused: 0, refusedWithRoom: 0, returned: unbounded, delayed: 0},
	}
}

var scenarios = func() []scenario {
	ms := time.Millisecond
	list := []scenario{
		base("S=0.004 (fresh)", 4*ms, 1.030),
		base("S=0.1", 100*ms, 1.055),
		base("S=0.5", 500*ms, 1.070),
		base("S=1", time.Second, 1.075),
		base("S=5", 5*time.Second, 1.100),
	}
	add := func(name string, imbalance float64, change func(*scenario)) {
		sc := base(name, time.Second, imbalance)
		change(&sc)
		list = append(list, sc)
	}
	add("S=1 P3 B9 R3", 1.045, func(s *scenario) { s.pops, s.backends = 3, 9 })
	add("S=1 weights", 1.200, func(s *scenario) { s.weighted = true })
	add("S=1 short sessions", 1.100, func(s *scenario) { s.short, s.warmUp, s.measured = true, 10*time.Second, 15*time.Second })
	add("S=1 rho 0.2, region 0 x10: must spill", 1.170, func(s *scenario) {
		s.load, s.surge = 0.2, 10
		s.target.peak, s.target.outside = 0.10, 0.07
	})
	add("S=1 rho 0.2, region 0 x10, strict limits", 1.220, func(s *scenario) {
		s.load, s.surge, s.strict = 0.2, 10, true
		s.target.peak, s.target.outside, s.target.delayed = 0, 0.07, 0.08
	})
	add("S=1 rho 1.3: above hard", 1.065, func(s *scenario) {
		s.load = 1.3
		s.target.peak, s.target.refused, s.target.refusedWithRoom = 0.12, 0.06, unbounded
	})
	add("S=1 backend 0 dies and returns", 1.075, func(s *scenario) { s.backendDies = true; s.target.returned = 1.10 })
	add("S=1 rho 1.1, POP 0 dies and returns", 1.070, func(s *scenario) {
		s.load, s.popDies = 1.1, true
		s.target.refused, s.target.refusedWithRoom = unbounded, 0.003
	})
	add("S=1 half sticky", 1.085, func(s *scenario) { s.sticky = true })
	return list
}()

// missed says which of the scenario's targets are missed.
func (r result) missed(sc scenario) string {
	var why []string
	check := func(what string, got, most float64) {
		if got > most+1e-9 {
			why = append(why, fmt.Sprintf("%s %.4g above %.4g", what, got, most))
		}
	}
	check("imbalance", r.imbalance, sc.target.imbalance)
	check("peak", r.peak, sc.target.peak)
	check("outside", r.outside, sc.target.outside)
	check("refused", r.refused, sc.target.refused)
	check("refused with room", r.refusedWithRoom, sc.target.refusedWithRoom)
	check("returned", r.returned, sc.target.returned)
	check("delayed", r.delayed, sc.target.delayed)
	return strings.Join(why, ", ")
}
