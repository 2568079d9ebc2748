// Package progress tells a loop that has nothing to do from one that is stuck.
//
//	var l progress.Loop
//	for job := range jobs {
//		l.Begin()
//		work(job)
//		l.End()
//	}
//
// A Loop costs an atomic addition at either end of a piece of work, and starts
// no clock: a Watch counts how often it has looked and found the same piece.
// Looks, not time, so that a process that was stopped, or a machine that slept,
// does not wake up among loops that all seem stuck.
package progress

import (
	"context"
	"sync/atomic"
)

// Loop is one goroutine's. Its zero value has nothing to do.
type Loop struct{ n atomic.Uint64 } // odd: at work

// Begin is the start of a piece of work, and End its end.
func (l *Loop) Begin() { l.n.Add(1) }
func (l *Loop) End()   { l.n.Add(1) }

// Step is between two parts of a piece of work of which each may take long.
func (l *Loop) Step() { l.n.Add(2) }

// At is where the loop is: odd numbers are pieces of work.
func (l *Loop) At() uint64 { return l.n.Load() }

type key struct{}

// With has Step, of a context that comes from this one, be the loop's: for what
// works in steps, far from the loop.
func With(ctx context.Context, l *Loop) context.Context { return context.WithValue(ctx, key{}, l) }

// Step is the Step of the loop that the context belongs to, if any.
func Step(ctx context.Context) {
	if l, ok := ctx.Value(key{}).(*Loop); ok {
		l.Step()
	}
}

// Watch looks at one loop, or at whatever else counts as it does. Not safe for
// concurrent use.
type Watch struct {
	Name string
	At   func() uint64

	last  uint64
	still int
}

// Look returns for how many looks the same piece of work has gone on.
func (w *Watch) Look() int {
	now := w.At()
	if now%2 == 1 && now == w.last {
		w.still++
	} else {
		w.still = 0
	}
	w.last = now
	return w.still
}
