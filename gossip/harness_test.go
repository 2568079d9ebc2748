package gossip

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt"
	"github.com/edgeproxy/edgeproxy/gossip/identity"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

var (
	seed    = flag.Uint64("seed", 1, "of everything random in tests")
	verbose = flag.Bool("mesh-log", false, "show what the POPs log")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keys of the test nodes, made once, outside of all bubbles.
var keys = struct {
	sync.Mutex
	dir   string
	nodes map[string]*identity.Node
}{nodes: map[string]*identity.Node{}}

func nodeKey(t testing.TB, name string) *identity.Node {
	t.Helper()
	keys.Lock()
	defer keys.Unlock()
	if n := keys.nodes[name]; n != nil {
		return n
	}
	n, _, err := identity.LoadNode(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	keys.nodes[name] = n
	return n
}

func clusterKey(t testing.TB, letter string) identity.Key {
	t.Helper()
	k, err := identity.ParseKey(strings.Repeat(letter, 43) + "=")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func credentials(t testing.TB, name string, key identity.Key) *identity.Credentials {
	t.Helper()
	c, err := identity.NewCredentials(name, nodeKey(t, name), identity.NewKeyring(key))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// lab is POPs on a network in memory.
type lab struct {
	t     *testing.T
	net   *memnet.Net
	names []string
	pops  map[string]*pop
	log   zerolog.Logger
}

type pop struct {
	lab     *lab
	name    string
	ip      string
	store   *memStore
	mesh    *Mesh
	cfg     Config
	cancel  context.CancelFunc
	done    sync.WaitGroup
	life    int
	counted int // records, see forgetTraffic

	mu      sync.Mutex
	applied []crdt.Applied
	clashes []Conflict
	writing sync.Mutex
}

// bubble runs f in virtual time with POPs of these names that know each other.
// change may edit their Config.
func bubble(t *testing.T, cfg memnet.Config, names string, change func(*Config), f func(t *testing.T, l *lab)) {
	t.Helper()
	log := zerolog.Nop()
	if *verbose {
		log = zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, NoColor: true, TimeFormat: "05.000"}).With().Timestamp().Logger()
	}
	key := clusterKey(t, "A")
	creds := map[string]*identity.Credentials{}
	for _, name := range strings.Fields(names) {
		creds[name] = credentials(t, name, key)
	}
	t.Logf("seed %d", *seed)
	synctest.Test(t, func(t *testing.T) {
		cfg.Seed = *seed
		l := &lab{t: t, net: memnet.New(cfg), pops: map[string]*pop{}, log: log, names: strings.Fields(names)}
		defer l.net.Close()
		rnd := rand.New(rand.NewPCG(*seed, 1))
		var mu sync.Mutex
		for i, name := range l.names {
			p := &pop{lab: l, name: name, ip: fmt.Sprintf("10.0.0.%d", i+1), store: newMemStore(name)}
			host := l.net.Host(p.ip)
			p.cfg = Config{
				Node: name, Credentials: creds[name], Store: p.store, Dial: host.Dial,
				Rand: func() float64 {
					mu.Lock()
					defer mu.Unlock()
					return rnd.Float64()
				},
				Applied: func(_ string, a crdt.Applied) {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.applied = append(p.applied, a)
				},
				Conflict: func(c Conflict) {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.clashes = append(p.clashes, c)
				},
			}
			if change != nil {
				change(&p.cfg)
			}
			l.pops[name] = p
		}
		f(t, l)
		for _, p := range l.pops {
			p.stop()
		}
	})
}

func (l *lab) roster() (all []Peer) {
	for _, name := range l.names {
		all = append(all, Peer{Node: name, Addr: l.pops[name].ip + ":7947"})
	}
	return all
}

func (l *lab) startAll() {
	l.t.Helper()
	for _, name := range l.names {
		l.pops[name].start()
	}
	l.within(10*time.Second, "connected", func() bool { return l.connected() == len(l.names)*(len(l.names)-1) })
}

// connected counts the streams, each from both sides.
func (l *lab) connected() (n int) {
	for _, p := range l.pops {
		if p.mesh == nil {
			continue
		}
		for _, st := range p.mesh.Peers() {
			if st.Connected {
				n++
			}
		}
	}
	return n
}

// within waits for a condition in virtual time, and says how long it took.
func (l *lab) within(limit time.Duration, what string, ok func() bool) time.Duration {
	l.t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > limit {
			l.t.Errorf("not %s within %v", what, limit)
			for _, name := range l.names {
				p := l.pops[name]
				if p.mesh == nil {
					continue
				}
				l.t.Errorf("  %s: heads %v, %+v", name, p.store.replica.Heads(), p.mesh.Stats())
				for _, st := range p.mesh.Peers() {
					l.t.Errorf("    %+v", st)
				}
			}
			l.t.FailNow()
		}
		time.Sleep(max(time.Millisecond, time.Since(start).Truncate(time.Second)/10)) // looking costs real time
		synctest.Wait()
	}
	return time.Since(start)
}

// equal says whether these POPs, or all, hold the same.
func (l *lab) equal(names ...string) func() bool {
	if len(names) == 0 {
		names = l.names
	}
	return func() bool {
		first := l.pops[names[0]].store
		for _, name := range names[1:] {
			s := l.pops[name].store
			a, b := first.heads(), s.heads()
			if !a.Covers(b) || !b.Covers(a) {
				return false
			}
		}
		return !slices.ContainsFunc(names, func(name string) bool { return l.pops[name].store.sum() != first.sum() })
	}
}
