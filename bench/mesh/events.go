package main

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// event is something that happens at a moment of virtual time; of one moment in
// the order in which it was planned.
type event struct {
	at    time.Duration
	order uint64
	do    func()
	msg   *message // instead of do
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// clock is virtual time.
type clock struct {
	now   time.Duration
	order uint64
	queue events
	rnd   *rand.Rand
}

func (c *clock) after(d time.Duration, do func()) {
	c.order++
	heap.Push(&c.queue, event{at: c.now + d, order: c.order, do: do})
}

func (c *clock) deliver(d time.Duration, m *message) {
	c.order++
	heap.Push(&c.queue, event{at: c.now + d, order: c.order, msg: m})
}

// around is a duration ± 50 %.
func (c *clock) around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.5 + c.rnd.Float64()))
}
