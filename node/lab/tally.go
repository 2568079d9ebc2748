package lab

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// tally counts visits.
type tally struct {
	mu       sync.Mutex
	began    time.Time
	tried    map[string]bool // countries
	up       time.Time       // when the first was served
	served   int
	failed   int
	broke    int   // connections that broke with their backend
	astray   int   // of those served
	failure  error // the last one
	strayed  string
	first    sample
	clients  map[string]map[string]int // by country and backend
	backends map[string]int
	pops     map[string]int
	watches  map[*watch]bool
}

func newTally() *tally {
	return &tally{began: time.Now(), tried: map[string]bool{}, clients: map[string]map[string]int{}, backends: map[string]int{}, pops: map[string]int{}, watches: map[*watch]bool{}}
}

func (t *tally) add(v *visit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.watches {
		w.add(v)
	}
	country := v.client.place.Country
	t.tried[country] = true
	switch {
	case v.broke:
		t.broke++
		return
	case v.err != nil:
		t.failed++
		t.failure = fmt.Errorf("%s by %s at %s: %w", country, v.pop.name, t.when(v), v.err)
		return
	}
	if t.served++; t.served == 1 {
		t.up = time.Now()
	}
	t.first.add(v.first)
	if t.clients[country] == nil {
		t.clients[country] = map[string]int{}
	}
	t.clients[country][v.backend]++
	t.backends[v.backend]++
	t.pops[v.pop.name]++
	if v.astray {
		t.astray++
		t.strayed = fmt.Sprintf("%s by %s to %s at %s", country, v.pop.name, v.backend, t.when(v))
	}
}

// when says at which time of the lab a visit began.
func (t *tally) when(v *visit) string { return fmt.Sprintf("%.2fs", v.began.Sub(t.began).Seconds()) }

// watch counts what happens to some visits from now on.
type watch struct {
	t        *tally
	match    func(*visit) bool
	n        int // served
	failed   int
	backends map[string]int
}

func (t *tally) watch(match func(*visit) bool) *watch {
	w := &watch{t: t, match: match, backends: map[string]int{}}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.watches[w] = true
	return w
}

func (w *watch) add(v *visit) {
	switch {
	case !w.match(v) || v.broke:
	case v.err != nil:
		w.failed++
	default:
		w.n++
		w.backends[v.backend]++
	}
}

// count is how many were served and failed so far.
func (w *watch) count() (served, failed int) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	return w.n, w.failed
}

// to is how many were served, and by one backend.
func (w *watch) to(backend string) (all, by int) {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	return w.n, w.backends[backend]
}

// stop ends it and says where they went.
func (w *watch) stop() map[string]int {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	delete(w.t.watches, w)
	return maps.Clone(w.backends)
}

// mostSamples bounds what a lab that runs for days remembers.
const mostSamples = 100_000

// sample is durations; of more than fit, the latest.
type sample struct {
	all  []time.Duration
	next int
}

func (s *sample) add(d time.Duration) {
	if len(s.all) < mostSamples {
		s.all = append(s.all, d)
		return
	}
	s.all[s.next] = d
	s.next = (s.next + 1) % mostSamples
}

// Quantiles are in milliseconds.
type Quantiles struct {
	P50     float64 `json:"p50"`
	P99     float64 `json:"p99"`
	Samples int     `json:"samples"`
}

func (s *sample) quantiles() Quantiles {
	if len(s.all) == 0 {
		return Quantiles{}
	}
	sorted := slices.Sorted(slices.Values(s.all))
	ms := func(q float64) float64 { return float64(sorted[int(q*float64(len(sorted)-1))].Microseconds()) / 1000 }
	return Quantiles{P50: ms(0.5), P99: ms(0.99), Samples: len(sorted)}
}
