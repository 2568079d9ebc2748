package main

import (
	"container/heap"
	"time"
)

// clock is virtual time, and what is still to happen in it.
type clock struct {
	now    time.Time
	events events
}

func (c *clock) after(d time.Duration, do func()) {
	c.events.n++
	heap.Push(&c.events, event{c.now.Add(d), c.events.n, do})
}

// pass lets a while pass. What is due in it happens at its end.
func (c *clock) pass(d time.Duration) {
	c.now = c.now.Add(d)
	for len(c.events.list) > 0 && !c.events.list[0].at.After(c.now) {
		heap.Pop(&c.events).(event).do()
	}
}

// event is something that happens at a time; those of the same time happen in
// the order in which they were made.
type event struct {
	at time.Time
	n  uint64
	do func()
}

type events struct {
	list []event
	n    uint64
}

func (e *events) Len() int { return len(e.list) }
func (e *events) Less(i, j int) bool {
	a, b := e.list[i], e.list[j]
	return a.at.Before(b.at) || a.at.Equal(b.at) && a.n < b.n
}
func (e *events) Swap(i, j int) { e.list[i], e.list[j] = e.list[j], e.list[i] }
func (e *events) Push(x any)    { e.list = append(e.list, x.(event)) }
func (e *events) Pop() any {
	last := e.list[len(e.list)-1]
	e.list = e.list[:len(e.list)-1]
	return last
}
