package progress

import (
	"testing"
	"time"
)

// TestSpan: the longest piece of late counts, for as long as it took.
func TestSpan(t *testing.T) {
	noon := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }
	var s Span
	want := func(when, seconds float64) {
		t.Helper()
		if got := s.Takes(at(when)).Seconds(); got != seconds {
			t.Errorf("after %v s it takes %v s, want %v", when, got, seconds)
		}
	}
	want(0, 0)
	s.Begin(at(1))
	want(1.5, 0.5)
	want(5, 4)
	s.End(at(5))
	want(5, 4)
	s.Begin(at(6))
	want(7, 4) // what came meanwhile is not done yet
	want(8.5, 4)
	want(9.5, 3.5) // of this one
	s.End(at(9.5))
	want(9.5, 3.5)
	want(12.5, 3.5)
	want(13, 0)

	s.Begin(at(20))
	s.End(at(24))
	for i := range 8 { // short ones, of what came meanwhile
		s.Begin(at(24 + float64(i)/4))
		s.End(at(24 + float64(i)/4 + 0.125))
		want(24+float64(i)/4+0.25, 4)
	}
	want(27.5, 4)
	want(28, 0)
}
