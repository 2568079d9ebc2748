//go:build linux

package main

import (
	"math/bits"
	"time"
)

const (
	subBits    = 8 // 128–255 steps per power of two: a quantile is at most 0.4 % off
	maxExp     = 40
	bucketsLen = maxExp<<(subBits-1) + 1<<subBits
)

// histogram counts durations in buckets of constant relative width, as HdrHistogram does. The zero value is empty. Add
// takes no memory and no lock: one histogram per worker, merged at the end.
type histogram struct {
	count   int64
	buckets [bucketsLen]int64
}

func bucket(ns uint64) int {
	exp := max(bits.Len64(ns)-subBits, 0)
	if exp > maxExp {
		return bucketsLen - 1
	}
	return exp<<(subBits-1) + int(ns>>exp)
}

// middle is the duration in the middle of bucket i, in ns.
func middle(i int) float64 {
	exp := max(i>>(subBits-1)-1, 0)
	low := uint64(i-exp<<(subBits-1)) << exp
	return float64(low) + float64(uint64(1)<<exp-1)/2
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucket(uint64(max(d, 0)))]++
	h.count++
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.count += o.count
}

// quantile returns the q-quantile (0 to 1) in ns, 0 if there is nothing.
func (h *histogram) quantile(q float64) float64 {
	rank := int64(q * float64(h.count))
	for i, n := range h.buckets {
		if rank -= n; rank < 0 {
			return middle(i)
		}
	}
	for i := len(h.buckets) - 1; i >= 0; i-- { // q = 1
		if h.buckets[i] > 0 {
			return middle(i)
		}
	}
	return 0
}
