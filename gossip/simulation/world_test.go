package simulation

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

var (
	seed    = flag.Uint64("seed", 1, "of everything random in tests")
	verbose = flag.Bool("mesh-log", false, "show what the POPs log")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	way    = 80 * time.Millisecond // one way between any two POPs
	jitter = 10 * time.Millisecond
	// spread is the longest for a write to be everywhere: the way and 50 ms.
	spread = way + jitter + 50*time.Millisecond
)

// patience is for membership: a look around for who is missing (15 s), and
// where news missed a POP, which may happen to it, a full exchange (15 s).
const patience = 35 * time.Second

// far is the network of all scenarios that do not say otherwise.
var far = memnet.Config{Latency: way, Jitter: jitter}

// world is POPs on a network in memory, in virtual time.
type world struct {
	t         *testing.T
	net       *memnet.Net
	dir       string
	all       []*pop
	conflicts atomic.Int64

	mu  sync.Mutex
	rnd *rand.Rand
}

// simulate runs f in a bubble.
func simulate(t *testing.T, cfg memnet.Config, f func(w *world)) {
	t.Helper()
	t.Logf("seed %d", *seed)
	dir := t.TempDir()
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		cfg.Seed = *seed
		w := &world{t: t, net: memnet.New(cfg), dir: dir, rnd: rand.New(rand.NewPCG(*seed, 7))}
		begin := time.Now()
		t.Cleanup(func() {
			var stop sync.WaitGroup
			for _, p := range w.all {
				stop.Go(p.stop)
			}
			stop.Wait()
			w.net.Close()
			time.Sleep(membership.Linger)
			if n := w.conflicts.Load(); n > 0 {
				t.Errorf("%d times two live POPs of one name were met", n)
			}
			t.Logf("%v of virtual time", time.Since(begin).Round(time.Second))
		})
		f(w)
	})
	t.Logf("%v of real time", time.Since(real).Round(time.Millisecond))
}

func (w *world) float64() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.Float64()
}

// intN is in [0, n).
func (w *world) intN(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rnd.IntN(n)
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.float64()*float64(most-least))
}

func clusterKey(t *testing.T, letter string) identity.Key {
	t.Helper()
	k, err := identity.ParseKey(strings.Repeat(letter, 43) + "=")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// pop adds a POP that is not started. All join by a, unless told otherwise.
func (w *world) pop(name string) *pop {
	w.t.Helper()
	key, _, err := identity.LoadNode(filepath.Join(w.dir, name+".key"))
	if err != nil {
		w.t.Fatal(err)
	}
	p := &pop{
		w: w, name: name, ip: fmt.Sprintf("10.0.0.%d", len(w.all)+1), join: []string{"10.0.0.1"}, node: key, disk: newDisk(name),
		changing: make(chan struct{}, 1), keyring: identity.NewKeyring(clusterKey(w.t, "A")), snapshot: filepath.Join(w.dir, name+".serf"),
	}
	p.roster.addrs = map[string]string{}
	if *verbose {
		p.failures.also = &zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: "04:05.000"}
	}
	w.all = append(w.all, p)
	return p
}

// mesh is POPs a, b, c ... that have joined by a.
func (w *world) mesh(n int) []*pop {
	w.t.Helper()
	for i := range n {
		w.pop(string(rune('a' + i)))
	}
	for _, p := range w.all {
		p.start()
	}
	w.within(patience, "joined", func() bool { return whole(w.all) })
	w.within(5*time.Second, "equal", func() bool { return equal(w.all) })
	return w.all
}

// whole says whether each of the POPs sees all of them alive, and nobody else,
// and has a stream to each.
func whole(pops []*pop) bool {
	for _, p := range pops {
		l := p.live.Load()
		if l == nil {
			return false
		}
		alive, streams := map[string]bool{}, map[string]bool{}
		for _, m := range l.ring.Members() {
			alive[m.Name] = m.Status == membership.StatusAlive
		}
		for _, s := range l.streams.Peers() {
			streams[s.Node] = s.Connected
		}
		for _, q := range pops {
			if !alive[q.name] || p != q && !streams[q.name] {
				return false
			}
		}
	}
	return true
}

// equal says whether these POPs hold the same rows.
func equal(pops []*pop) bool {
	first := pops[0].disk.heads()
	for _, p := range pops[1:] {
		if h := p.disk.heads(); !h.Covers(first) || !first.Covers(h) {
			return false
		}
	}
	_, sum, _, _ := pops[0].disk.content()
	return !slices.ContainsFunc(pops, func(p *pop) bool {
		_, s, _, held := p.disk.content()
		return s != sum || held > 0
	})
}

// within waits for a condition in virtual time, and says how long it took.
func (w *world) within(limit time.Duration, what string, ok func() bool) time.Duration {
	w.t.Helper()
	begin := time.Now()
	for !ok() {
		if time.Since(begin) > limit {
			w.state()
			w.t.Fatalf("not %s within %v (seed %d)", what, limit, *seed)
		}
		time.Sleep(max(time.Millisecond, time.Since(begin)/100)) // looking costs real time
		synctest.Wait()
	}
	return time.Since(begin)
}

// state prints a line about each POP.
func (w *world) state() {
	w.t.Helper()
	for _, p := range w.all {
		w.t.Log(p.status())
	}
}

// spreads writes on a POP and says how long the write took to all of the others.
func (w *world) spreads(limit time.Duration, from *pop, to []*pop) time.Duration {
	w.t.Helper()
	stamp := from.write("probe-"+from.name, w.intN(1<<30))
	return w.within(limit, "at "+names(to)+" from "+from.name, func() bool { return have(to, "probe-"+from.name, stamp) })
}

func have(pops []*pop, id string, stamp crdt.Stamp) bool {
	return !slices.ContainsFunc(pops, func(p *pop) bool { return p.cell(id).Stamp != stamp })
}

func names(pops []*pop) string {
	var all []string
	for _, p := range pops {
		all = append(all, p.name)
	}
	return strings.Join(all, " ")
}

// verdicts is how often these POPs have called one failed.
func verdicts(pops []*pop) (n int64) {
	for _, p := range pops {
		n += p.failures.n.Load()
	}
	return n
}

func without(pops []*pop, out ...*pop) (rest []*pop) {
	for _, p := range pops {
		if !slices.Contains(out, p) {
			rest = append(rest, p)
		}
	}
	return rest
}

func ips(pops []*pop) (all []string) {
	for _, p := range pops {
		all = append(all, p.ip)
	}
	return all
}

func quantiles(all []time.Duration) (median, worst time.Duration) {
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}
