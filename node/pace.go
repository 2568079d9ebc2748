package node

import "time"

// How often the database is asked whether it changed, at a few microseconds each
// and what it costs to wake up for it: seldom where the kernel tells when it is
// written, and often for a moment after that: first at once, as a commit is to be
// seen a little after its last byte. A change is in the routing decision 10 ms
// later at most, or pollIdle where the kernel says nothing (of a write that takes
// longer than the moment, or by another machine).
const (
	pollEvery = 10 * time.Millisecond
	pollIdle  = 100 * time.Millisecond
	pollFirst = time.Millisecond
	stirring  = 100 * time.Millisecond
)

// retryEvery is how long a database that cannot be read is left alone, whoever
// writes it: to open one that is no good writes beside it.
const retryEvery = 250 * time.Millisecond

// pace says when to look at the database next. It is told of what happens, and
// waits for nothing itself.
type pace struct {
	often    time.Duration // between two looks while the database stirs
	lookedAt time.Time     // when the last look ended
	stirred  time.Time     // when the kernel last told of a change
	failed   bool          // the last look
}

func newPace() pace { return pace{often: pollEvery} }

// noticed is told when the kernel tells of a change. It says how long the look
// for it waits, as writes may come in thousands; 0 or less: not at all.
func (p *pace) noticed(now time.Time) time.Duration {
	if now.Sub(p.stirred) > stirring {
		p.often = pollFirst
	}
	p.stirred = now
	if p.failed {
		return retryEvery - now.Sub(p.lookedAt)
	}
	return p.often - now.Sub(p.lookedAt)
}

// outcome is how a look at the database ended.
type outcome struct {
	failed  bool // it cannot be read
	left    bool // something changed that has not been read or taken over yet
	notices bool // the kernel tells of changes
}

// looked is told when a look ended, and how. It says how long the next one
// waits, where nothing is noticed before.
func (p *pace) looked(now time.Time, o outcome) time.Duration {
	p.lookedAt, p.failed = now, o.failed
	wait := p.often
	p.often = min(2*p.often, pollEvery)
	switch {
	case o.failed:
		return retryEvery
	case o.notices && !o.left && now.Sub(p.stirred) > stirring:
		return pollIdle
	}
	return wait
}
