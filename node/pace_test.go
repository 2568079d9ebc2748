package node

import (
	"slices"
	"testing"
	"time"
)

const ms = time.Millisecond

// looks plays the loop of watch in virtual time, up to an end: the kernel
// notices writes at these times, and each look takes so long and ends so. It
// says when the looks began.
func looks(end time.Duration, notices []time.Duration, takes time.Duration, o outcome) (at []time.Duration) {
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	p := newPace()
	for now, next := time.Duration(0), pollEvery; ; {
		if len(notices) > 0 && notices[0] <= next {
			now = max(now, notices[0])
			for len(notices) > 0 && notices[0] <= now { // those of one look are one
				notices = notices[1:]
			}
			if rest := p.noticed(start.Add(now)); rest > 0 {
				next = now + rest
				continue
			}
		} else {
			now = next
		}
		if now >= end {
			return at
		}
		at = append(at, now)
		now += takes
		next = now + p.looked(start.Add(now), o)
	}
}

// gaps are the times from one look to the next.
func gaps(at []time.Duration) (all []time.Duration) {
	for i := 1; i < len(at); i++ {
		all = append(all, at[i]-at[i-1])
	}
	return all
}

// every are the times from one to another in even steps.
func every(step, from, to time.Duration) (all []time.Duration) {
	for ; from < to; from += step {
		all = append(all, from)
	}
	return all
}

var idle = outcome{notices: true}

// TestCommitAfterIdleIsSeenAtOnce: in 1 ms from the commit, whenever in the
// idle time the kernel noticed its first byte; in 2 ms where it noticed others, too.
func TestCommitAfterIdleIsSeenAtOnce(t *testing.T) {
	for begun := time.Second; begun < time.Second+2*pollIdle; begun += ms / 10 {
		for lasts := time.Duration(0); lasts <= ms; lasts += ms / 10 {
			committed := begun + lasts
			for most, notices := range map[time.Duration][]time.Duration{
				1 * ms: {begun},
				2 * ms: {begun, begun + lasts/2, committed},
			} {
				at := looks(begun+time.Second, notices, 0, idle)
				i, _ := slices.BinarySearch(at, committed)
				if late := at[i] - committed; late > most {
					t.Fatalf("noticed at %v, a commit at %v is seen after %v, want %v at most", notices, committed, late, most)
				}
			}
		}
	}
}

// TestLongCommitIsSeenSoon: one that takes longer than the first moment after its
// last notice is seen as soon as any other change.
func TestLongCommitIsSeenSoon(t *testing.T) {
	begun := time.Second
	at := looks(2*time.Second, []time.Duration{begun}, 0, idle)
	i, _ := slices.BinarySearch(at, begun)
	j, _ := slices.BinarySearch(at, begun+stirring)
	if longest := slices.Max(gaps(at[i : j+1])); longest > pollEvery {
		t.Errorf("no look for %v while a commit may be under way", longest)
	}
}

// TestStormIsLookedAtSeldom: once it lasts, there are 10 ms of rest between two
// looks, however long those take, and not more.
func TestStormIsLookedAtSeldom(t *testing.T) {
	const begun, lasts = 1050 * ms, 2 * time.Second
	for _, step := range []time.Duration{ms / 100, ms / 10, 3 * ms, 30 * ms} {
		for _, takes := range []time.Duration{0, 5 * ms, 50 * ms} {
			at := looks(begun+lasts, every(step, begun, begun+lasts), takes, idle)
			i, _ := slices.BinarySearch(at, begun)
			storm := gaps(at[i:])
			const first = 4 // looks are close together, for the first commit
			for _, gap := range storm[first:] {
				if rest := gap - takes; rest < pollEvery || rest > pollEvery+ms {
					t.Fatalf("a notice each %v, looks of %v: %v between two, want 10 ms", step, takes, rest)
				}
			}
		}
	}
}

// TestIdleIsLookedAtSeldom: each 100 ms where the kernel would tell, each 10 ms
// where it does not, or where there is work left.
func TestIdleIsLookedAtSeldom(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       outcome
		notices []time.Duration
		want    time.Duration
	}{
		{"the kernel tells", idle, nil, 100 * ms},
		{"it told of something, a while ago", idle, every(ms, 200*ms, 300*ms), 100 * ms},
		{"the kernel does not tell", outcome{}, nil, 10 * ms},
		{"there is work left", outcome{notices: true, left: true}, nil, 10 * ms},
	} {
		at := looks(10*time.Second, c.notices, 0, c.o)
		i, _ := slices.BinarySearch(at, time.Second)
		for _, gap := range gaps(at[i:]) {
			if gap != c.want {
				t.Fatalf("%s: looked at after %v, want %v", c.name, gap, c.want)
			}
		}
	}
}

// TestUnreadableIsLeftAlone: for 250 ms, also where the look itself, or anybody
// else, writes beside it.
func TestUnreadableIsLeftAlone(t *testing.T) {
	for _, o := range []outcome{{failed: true}, {failed: true, left: true}, {failed: true, notices: true}} {
		at := looks(10*time.Second, nil, 0, o)
		for _, gap := range gaps(at) {
			if gap != 250*ms {
				t.Fatalf("%+v: looked at after %v", o, gap)
			}
		}
	}
}
