package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// sessions is a distribution of how long connections last, in seconds.
type sessions interface {
	mean() float64
	length(rng *rand.Rand) float64
	// rest is how long one lasts that is met at any time: with as many of them as
	// are offered, the mesh is in its steady state from the start.
	rest(rng *rand.Rand) float64
}

func (sc scenario) sessions() sessions {
	if sc.short {
		return exponential(0.05 / math.Ln2) // median 0.05
	}
	return pareto(10 / math.Pow(2, 1/1.5)) // median 10
}

// exponential is a distribution, by its mean.
type exponential float64

func (e exponential) mean() float64                 { return float64(e) }
func (e exponential) length(rng *rand.Rand) float64 { return rng.ExpFloat64() * float64(e) }
func (e exponential) rest(rng *rand.Rand) float64   { return e.length(rng) } // it has no memory

// pareto is the distribution of exponent 1.5, by its shortest. It would take
// hours to reach its steady state.
type pareto float64

func (p pareto) mean() float64 { return 3 * float64(p) }

func (p pareto) length(rng *rand.Rand) float64 {
	return float64(p) / math.Pow(1-rng.Float64(), 1/1.5)
}

func (p pareto) rest(rng *rand.Rand) float64 {
	if u := rng.Float64(); u < 1.0/3 {
		return 3 * u * float64(p)
	}
	u := 1 - rng.Float64()
	return float64(p) / u / u
}

func seconds(s float64) time.Duration { return time.Duration(min(s, 1e6) * 1e9) }
