package main

import (
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

func (e event) before(o event) bool { return e.at < o.at || e.at == o.at && e.order < o.order }

// events is a binary heap. That of the library would allocate for each event.
type events []event

func (q *events) push(e event) {
	*q = append(*q, e)
	all := *q
	for i := len(all) - 1; i > 0; {
		up := (i - 1) / 2
		if !all[i].before(all[up]) {
			return
		}
		all[i], all[up] = all[up], all[i]
		i = up
	}
}

// pop takes the earliest; there is one.
func (q *events) pop() event {
	all := *q
	first, last := all[0], len(all)-1
	all[0], all[last] = all[last], event{}
	all = all[:last]
	*q = all
	for i := 0; ; {
		next := 2*i + 1
		if next >= last {
			return first
		}
		if next+1 < last && all[next+1].before(all[next]) {
			next++
		}
		if !all[next].before(all[i]) {
			return first
		}
		all[i], all[next] = all[next], all[i]
		i = next
	}
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
	c.queue.push(event{at: c.now + d, order: c.order, do: do})
}

func (c *clock) deliver(d time.Duration, m *message) {
	c.order++
	c.queue.push(event{at: c.now + d, order: c.order, msg: m})
}

// around is a duration ± 50 %.
func (c *clock) around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.5 + c.rnd.Float64()))
}
