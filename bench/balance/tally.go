package main

import "slices"

// tally is what is counted while the world goes on.
type tally struct {
	opened, refused, refusedWithRoom, outside, delayed float64

	peak     float64   // largest (load - hard)/hard
	samples  []float64 // largest load/C of a region over its ΣLoad/ΣC, now and then
	returned []float64 // load of the backend that came back, by the mean, likewise
}

// sample adds how the load lies on the backends now.
func (w *world) sample() {
	for _, r := range w.regions {
		worst, load, capacity := 0.0, 0.0, 0.0
		for i, b := range w.rows {
			c := b.Capacity()
			if i == 0 && !w.back.IsZero() {
				c *= min(1, max(0.1, w.now.Sub(w.back).Seconds()/10)) // slow start
			}
			if b.Region != r || !b.Healthy {
				continue
			}
			n := float64(w.load[b.ID])
			worst, load, capacity = max(worst, n/c), load+n, capacity+c
		}
		if load > 0 {
			w.samples = append(w.samples, worst/(load/capacity))
		}
		if r == w.regions[0] && !w.back.IsZero() {
			w.returned = append(w.returned, float64(w.load[w.rows[0].ID])/w.rows[0].Capacity()/(load/capacity))
		}
	}
}

func (t *tally) result() result {
	slices.Sort(t.samples)
	r := result{
		imbalance: t.samples[len(t.samples)*99/100], peak: max(0, t.peak), outside: t.outside / t.opened,
		refused: t.refused / t.opened, refusedWithRoom: t.refusedWithRoom / t.opened, delayed: t.delayed / t.opened,
	}
	if len(t.returned) > 0 {
		slices.Sort(t.returned)
		r.returned = t.returned[len(t.returned)*99/100]
	}
	return r
}
