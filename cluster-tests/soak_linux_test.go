package clustertests

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is clients of a POP: so many at a time, each with one connection after
// the other, paced or as fast as they can.
type load struct {
	pop    *pop
	served atomic.Int64
	failed atomic.Int64
	mu     sync.Mutex
	first  error // of those that failed
}

const loadClients = 16

// run lasts until stop is closed. rate is connections a second of all clients, 0: as many as can be.
func (l *load) run(rate float64, stop <-chan struct{}) {
	var all sync.WaitGroup
	for client := range loadClients {
		all.Go(func() {
			pace := make(<-chan time.Time)
			if rate > 0 {
				tick := time.NewTicker(time.Duration(loadClients / rate * float64(time.Second)))
				defer tick.Stop()
				pace = tick.C
			}
			for i := client; ; i += loadClients {
				if rate > 0 {
					select {
					case <-stop:
						return
					case <-pace:
					}
				}
				select {
				case <-stop:
					return
				default:
				}
				if err := l.visit(i); err != nil {
					l.failed.Add(1)
					l.mu.Lock()
					l.first = cmp.Or(l.first, err)
					l.mu.Unlock()
					continue
				}
				l.served.Add(1)
			}
		})
	}
	all.Wait()
}

// visit is a connection of one of 5,000 clients with a question and its
// answer: of 64 bytes, now and then of a megabyte. It ends in one of several ways.
func (l *load) visit(i int) error {
	n := i % 5000
	c, err := l.pop.dial(header(2, fmt.Sprintf("200.160.%d.%d", n/250, 1+n%250)))
	if err != nil {
		return err
	}
	defer c.Close()
	chunk, chunks := 64, 1
	if i%50 == 0 {
		chunk, chunks = 64<<10, 16
	}
	buf := make([]byte, chunk)
	for range chunks {
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
	}
	switch i % 4 {
	case 0:
		return c.SetLinger(0) // a reset
	case 1: // the end is waited for
		if err := c.CloseWrite(); err != nil {
			return err
		}
		if n, err := c.Read(buf); n > 0 || err != io.EOF {
			return fmt.Errorf("%d bytes after the end, %w", n, err)
		}
	}
	return nil
}

// during runs the load for so long and returns how many were served.
func (l *load) during(rate float64, lasts time.Duration, meanwhile func()) float64 {
	before, began, stop := l.served.Load(), time.Now(), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { l.run(rate, stop) })
	if meanwhile != nil {
		meanwhile()
	}
	<-time.After(lasts - time.Since(began))
	took := time.Since(began)
	close(stop)
	running.Wait()
	return float64(l.served.Load()-before) / took.Seconds()
}

// held is what a POP's process has at a moment.
type held struct{ memory, descriptors, goroutines int }

func (h held) String() string {
	return fmt.Sprintf("%.1f MB, %d descriptors, %d goroutines", float64(h.memory)/(1<<20), h.descriptors, h.goroutines)
}

// figures asks the kernel and the process, which needs a token for it.
func (p *pop) figures(t testing.TB) (h held) {
	t.Helper()
	h.memory, h.descriptors = p.resident(t), p.descriptors(t)
	body := p.ask(t, "GET", "/debug/pprof/goroutine?debug=1", "").body
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &h.goroutines); err != nil {
		t.Fatalf("number of goroutines in %.100q: %v", body, err)
	}
	return h
}

// middle is the median of each figure.
func middle(all []held) held {
	of := func(figure func(held) int) int {
		var list []int
		for _, h := range all {
			list = append(list, figure(h))
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	return held{of(func(h held) int { return h.memory }), of(func(h held) int { return h.descriptors }), of(func(h held) int { return h.goroutines })}
}

// level fails the test where one has grown beyond the other by more than chance.
func level(t *testing.T, when string, from, to held) {
	t.Helper()
	if to.memory > from.memory+from.memory/10+4<<20 || to.descriptors > from.descriptors+32 || to.goroutines > from.goroutines+32 {
		t.Errorf("%s: %v has become %v", when, from, to)
	}
}

// TestSoak: under 60 % of the load that it bears at most, for half an hour or
// -minutes, a POP's memory, descriptors and goroutines are level, nobody fails
// to be served, and in the end all has been given back.
//
//	EDGEPROXY_TEST=soak go test ./cluster-tests -run Soak -timeout 90m -minutes 30
func TestSoak(t *testing.T) {
	needs(t, "soak")
	lasts := 30 * time.Minute
	if *nemesisMinutes > 0 {
		lasts = time.Duration(*nemesisMinutes * float64(time.Minute))
	}
	if end, ok := t.Deadline(); ok && time.Until(end) < 2*lasts+time.Minute {
		t.Fatalf("this lasts twice %v: give -timeout", lasts)
	}
	for _, relay := range []string{"reactor", "goroutine"} {
		t.Run(relay, func(t *testing.T) { soak(t, lasts, "EDGEPROXY_RELAY="+relay) })
	}
}

func soak(t *testing.T, lasts time.Duration, env ...string) {
	echo := func(c *net.TCPConn) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 16<<10))
	}
	rows := []row{at("sa-1", "sa", startHandler(t, echo)), at("us-1", "us", startHandler(t, echo)), at("sa-2", "sa", startHandler(t, echo))}
	env = append(slices.Concat(env, trusting), unchecked, "EDGEPROXY_LOG_LEVEL=info", "EDGEPROXY_API_TOKEN=soak")
	p := newPOP(t, env...)
	p.token = "soak"
	p.seed(t, rows...)
	p.start(t)
	l := &load{pop: p}
	most := l.during(0, max(5*time.Second, min(lasts/10, 15*time.Second)), nil)
	p.settled(t)
	rested := p.figures(t)

	var samples []held
	served := l.during(0.6*most, lasts, func() {
		const parts = 60
		for range parts {
			<-time.After(lasts / parts)
			samples = append(samples, p.figures(t))
		}
	})
	p.settled(t)
	after := p.figures(t)
	third := len(samples) / 3
	early, late := middle(samples[:third]), middle(samples[2*third:])
	t.Logf("%.0f connections a second for %v, %d in all, of at most %.0f", served, lasts, l.served.Load(), most)
	t.Logf("under load at first %v; at last %v", early, late)
	t.Logf("at rest before %v; after %v", rested, after)
	if n := l.failed.Load(); n > 0 {
		t.Errorf("%d were not served: %v", n, l.first)
	}
	level(t, "under load", early, late)
	level(t, "at rest", rested, after)
}
