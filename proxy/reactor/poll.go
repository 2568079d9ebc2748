package reactor

import "time"

// How long a worker polls before it sleeps. To wake a thread costs several
// microseconds and, on a busy machine, its place in the kernel's queue.
const (
	polls     = 3 // looks, at least: on a busy machine others run between them
	pollFirst = 10 * time.Microsecond
	pollMost  = 50 * time.Microsecond
)

// Polling adapts for how long to poll, as Linux does for virtual machines
// (docs.kernel.org/virt/kvm/halt-polling.html): longer while sleeps turn out
// so short that polling would have spared them, not at all after a long one.
// The zero value is ready.
type Polling struct{ window time.Duration }

// Enough says whether to sleep after so many looks. since is how long it has
// been polling; it is called only where that matters.
func (p *Polling) Enough(looks int, since func() time.Duration) bool {
	return looks >= polls && (p.window == 0 || since() >= p.window)
}

// Slept tells how long a sleep was.
func (p *Polling) Slept(d time.Duration) {
	if d >= pollMost {
		p.window = 0
		return
	}
	p.window = min(max(2*p.window, pollFirst), pollMost)
}
