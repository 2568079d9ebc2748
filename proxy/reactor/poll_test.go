package reactor_test

import (
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/proxy/reactor"
)

// TestPolling: short sleeps make it poll for up to 50 µs, one long sleep makes
// it look three times and sleep.
func TestPolling(t *testing.T) {
	var p reactor.Polling
	after := func(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
	for _, step := range []struct {
		slept time.Duration // before, 0: nothing
		looks int
		since time.Duration
		want  bool
	}{
		{looks: 2, want: false},
		{looks: 3, want: true},
		{slept: 49 * time.Microsecond, looks: 3, want: false},
		{looks: 100, since: 9 * time.Microsecond, want: false},
		{looks: 3, since: 10 * time.Microsecond, want: true},
		{slept: time.Microsecond, looks: 3, since: 19 * time.Microsecond, want: false},
		{slept: time.Microsecond, looks: 3, since: 39 * time.Microsecond, want: false},
		{slept: time.Microsecond, looks: 3, since: 50 * time.Microsecond, want: true},
		{slept: time.Microsecond, looks: 3, since: 50 * time.Microsecond, want: true},
		{looks: 2, since: time.Second, want: false},
		{slept: 50 * time.Microsecond, looks: 3, want: true},
	} {
		if step.slept > 0 {
			p.Slept(step.slept)
		}
		if got := p.Enough(step.looks, after(step.since)); got != step.want {
			t.Errorf("%+v: enough is %v", step, got)
		}
	}
}
