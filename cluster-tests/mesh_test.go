package clustertests

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// slots bound how many POPs of meshes run at a time, for the tests share two
// cores with whatever else there is.
var slots = semaphore.NewWeighted(allSlots)

// allSlots are taken by a mesh of more POPs than that, too.
const allSlots = 8

// converged is how long a mesh may take for what should take a second.
const converged = 10 * time.Second

// mesh is some POPs with one cluster key. The first is the seed of the others.
type mesh struct {
	key  string
	pops []*pop
}

// newMesh starts one of n POPs, each in a region of its own (sa, us, eu, ap,
// af), and waits until all know each other. Clients are not bound to backends.
func newMesh(t testing.TB, n int, env ...string) *mesh {
	t.Helper()
	m := planMesh(t, n, env...)
	m.start(t)
	return m
}

// planMesh is newMesh that starts nothing yet.
func planMesh(t testing.TB, n int, env ...string) *mesh {
	t.Helper()
	taken := int64(min(n, allSlots))
	if err := slots.Acquire(t.Context(), taken); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slots.Release(taken) })
	m := &mesh{key: newKey()}
	for range n {
		m.add(t, env...)
	}
	return m
}

// newKey is a cluster key as "edgeproxy keygen" prints one; TestKeygen sees to that.
func newKey() string {
	secret := make([]byte, 32)
	rand.Read(secret)
	return base64.StdEncoding.EncodeToString(secret)
}

// add makes one more POP. It starts nothing.
func (m *mesh) add(t testing.TB, env ...string) *pop {
	t.Helper()
	gossip, sync := ownAddrs(t)
	all := []string{
		"EDGEPROXY_CLUSTER_KEY=" + m.key, "EDGEPROXY_GOSSIP_ADDR=" + gossip, "EDGEPROXY_SYNC_ADDR=" + sync,
		"EDGEPROXY_REGION=" + []string{"sa", "us", "eu", "ap", "af"}[len(m.pops)%5], noAffinity,
	}
	if len(m.pops) > 0 {
		all = append(all, "EDGEPROXY_JOIN="+m.seed())
	}
	p := newPOP(t, append(all, env...)...)
	m.pops = append(m.pops, p)
	return p
}

// seed is where the first POP gossips.
func (m *mesh) seed() string { return m.pops[0].setting("EDGEPROXY_GOSSIP_ADDR") }

// setting is what a POP is given for a variable.
func (p *pop) setting(name string) (value string) {
	for _, e := range p.env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// set gives a POP another value from its next start on.
func (p *pop) set(name, value string) { p.env = append(p.env, name+"="+value) }

// ownAddrs are addresses for gossip and records that a POP keeps over
// restarts. On Linux all of 127.0.0.0/8 is this machine, and no other process
// comes upon an address in it by chance.
func ownAddrs(t testing.TB) (gossip, sync string) {
	if runtime.GOOS != "linux" {
		return freeAddress(t), freeAddress(t)
	}
	host := ownHost()
	return host + ":7946", host + ":7947"
}

// ownHost is an address of this machine that is nobody else's, where it has more than one.
func ownHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.%d.%d.%d", 1+mathrand.N(254), mathrand.N(256), 1+mathrand.N(254))
}

// start runs all, the first one first.
func (m *mesh) start(t testing.TB) {
	t.Helper()
	m.pops[0].start(t)
	startAll(t, m.pops[1:]...)
	together(t, m.pops...)
}

// startAll starts some at the same time and waits until all are ready.
func startAll(t testing.TB, pops ...*pop) {
	t.Helper()
	for _, p := range pops {
		p.launch(t)
	}
	for _, p := range pops {
		p.reaches(t, p.isReady)
	}
}

// stopAll ends some at the same time, in an orderly way.
func stopAll(t testing.TB, pops ...*pop) {
	t.Helper()
	for _, p := range pops {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range pops {
		if code := p.wait(t, soon); code != 0 {
			t.Fatalf("exit code %d after SIGTERM, want 0", code)
		}
	}
}

// pick is a random source that prints its seed, and takes it from CLUSTERTESTS_SEED.
func pick(t testing.TB) *mathrand.Rand {
	t.Helper()
	return mathrand.New(mathrand.NewPCG(seedOf(t), 1))
}

// seedOf is the seed that CLUSTERTESTS_SEED says, or a new one; it is printed.
func seedOf(t testing.TB) uint64 {
	t.Helper()
	seed, err := strconv.ParseUint(os.Getenv("CLUSTERTESTS_SEED"), 10, 64)
	if err != nil {
		seed = mathrand.Uint64()
	}
	t.Logf("CLUSTERTESTS_SEED=%d", seed)
	return seed
}

// wanted says whether EDGEPROXY_TEST names a kind of tests that needs more
// than time and Go: long (minutes), soak (an hour, with the machine for itself,
// on Linux), netns (root on Linux), lab (Docker and root on Linux). Comma-separated.
func wanted(kind string) bool {
	return slices.Contains(strings.Split(os.Getenv("EDGEPROXY_TEST"), ","), kind)
}

// needs skips a test that nobody asked for.
func needs(t testing.TB, kind string) {
	t.Helper()
	if !wanted(kind) {
		t.Skip("EDGEPROXY_TEST=" + kind + " runs this")
	}
}

// thorough says that time does not matter: long, and not -short.
func thorough() bool { return wanted("long") && !testing.Short() }

// often is how many rounds a test does: few by default, all where time does not matter.
func often(few, all int) int {
	if thorough() {
		return all
	}
	return few
}

// quantiles are p50, p99 and the longest.
func quantiles(d []time.Duration) string {
	s := slices.Sorted(slices.Values(d))
	if len(s) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration {
		return s[min(len(s)-1, int(q*float64(len(s))))].Round(100 * time.Microsecond)
	}
	return fmt.Sprintf("p50 %s p99 %s max %s of %d", at(0.5), at(0.99), at(1), len(s))
}

// sorted are the keys in order.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// TestKeygen: what it prints is a key, another one each time.
func TestKeygen(t *testing.T) {
	t.Parallel()
	p := newPOP(t)
	_, one, _ := p.run(t, "keygen")
	_, other, _ := p.run(t, "keygen")
	if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(one)); err != nil || len(b) != 32 || one == other {
		t.Errorf("keygen printed %d bytes, %v, and again the same: %v", len(b), err, one == other)
	}
	p.set("EDGEPROXY_CLUSTER_KEY", strings.TrimSpace(one))
	p.start(t)
}
