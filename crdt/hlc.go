package crdt

import "fmt"

// Time is a hybrid logical clock reading (Kulkarni et al. 2014): 48 bits of
// milliseconds since 1970 above a 16-bit counter, so that readings compare as
// integers. The zero Time is before every write.
type Time uint64

const counterBits = 16

// Floor is the time of rows that were adopted from a file which edgeproxy had
// not written: above nothing, below every real write.
const Floor Time = 1

// maxMilli is the last millisecond that a Time can hold, in the year 10889.
const maxMilli = 1<<48 - 1

// At is the first reading of a millisecond since 1970. What lies outside the
// 48 bits is clamped to them.
func At(milli int64) Time {
	return Time(min(max(milli, 0), maxMilli)) << counterBits
}

// Milli is the reading's millisecond since 1970.
func (t Time) Milli() int64 { return int64(t >> counterBits) }

func (t Time) String() string {
	return fmt.Sprintf("%d.%d", t.Milli(), uint16(t))
}

// Clock hands out the times of one origin's writes: each later than every one
// before, and as close to the wall clock as that allows. It is not safe for
// concurrent use.
type Clock struct {
	Last Time // the latest time handed out or observed
}

// Next is the time of a write made at the wall clock's now to a row whose
// newest stamp is above. A wall clock that stands or goes back costs nothing
// but precision: the counter, and at its end the millisecond, goes on.
func (c *Clock) Next(now, above Time) Time {
	c.Last = max(now, c.Last+1, above+1)
	return c.Last
}

// Observe takes note of a time that came from another origin, so that what is
// written here from now on is later than what was seen. The caller has checked
// that it is not too far ahead: a wild one would carry this clock with it.
func (c *Clock) Observe(t Time) { c.Last = max(c.Last, t) }
