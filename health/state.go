// Package health decides what is known of backends from checks: who checks
// which, when a backend counts as up or down to one checker, and what it is to
// the mesh when checkers disagree.
//
//	health.NewDuty(pops).Checkers(backend.ID, backend.Region, at)   // at most two POPs
//	state = state.Next(check, result)               // rise and fall
//	board.Learn(report, now)                        // another POP's verdicts
//	down := board.Down("sa-node-1")                 // every verdict says so
//
// A backend is down when every POP that checks it says down: one that cannot
// reach it does not take it away from the others, who can. Nobody's verdict
// outlives its POP's lease. The package computes only; package checker asks.
package health

import (
	"time"

	"github.com/edgeproxy/edgeproxy/mesh"
)

// Result is the outcome of one check.
type Result struct {
	OK  bool
	Why string    // of a failure, short: "connection refused"
	At  time.Time // when it was known
}

// State is what one checker knows of one backend. The zero State knows nothing.
//
//	          ok                      rise times ok
//	unknown ─────▶ up ◀────────────────────────────── down
//	   │           └──────────────────────────────────▶ ▲
//	   │ failed             fall times failed           │
//	   └────────────────────────────────────────────────┘
//
// As in HAProxy the first result decides: a backend that is dead when the POP
// starts must not get clients until it has failed three times.
type State struct {
	Known bool
	Up    bool
	Since time.Time // of Up
	Why   string    // of the failure that made it down

	Against int // results in a row that say otherwise
}

// Next is the state after one more result.
func (s State) Next(c mesh.Check, r Result) State {
	if s.Known && s.Up == r.OK {
		s.Against = 0
		if !r.OK {
			s.Why = r.Why
		}
		return s
	}
	s.Against++
	need := c.Fall
	if r.OK {
		need = c.Rise
	}
	if s.Known && s.Against < need {
		return s
	}
	return State{Known: true, Up: r.OK, Since: r.At, Why: r.Why}
}

// fast is the pause between checks while results go against the state, so that
// a verdict takes a second or two, not three intervals.
const fast = 500 * time.Millisecond

// Pause is how long to wait for the next check.
func (s State) Pause(c mesh.Check) time.Duration {
	if s.Against > 0 {
		return min(fast, c.Interval)
	}
	return c.Interval
}
