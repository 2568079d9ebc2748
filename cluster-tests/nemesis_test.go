package clustertests

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	nemesisSeed    = flag.Uint64("seed", 0, "of TestNemesis; 0 is a new one")
	nemesisMinutes = flag.Float64("minutes", 0, "how long TestNemesis goes on (0 is some seconds), or TestSoak with each relay (0 is 30 minutes), or TestDNSLoad (0 is one)")
)

// TestNemesis torments a mesh that has clients and is written to: POPs are
// killed, paused, restarted and upgraded, with wrong clocks and full disks, and links
// are cut in many ways, lossy and late. Then all is healed, and all POPs must
// hold the same soon, with nothing lost, resurrected or invented.
//
//	go test ./cluster-tests -run Nemesis -seed 7 -minutes 5
//	EDGEPROXY_TEST=netns go test ./cluster-tests -run Nemesis -minutes 5
//	EDGEPROXY_FANOUT_LIMIT=2 EDGEPROXY_TEST=netns go test ./cluster-tests -run Nemesis -minutes 5
//
// What is done is the words of a scenario, in an order that its seed decides,
// so that what it finds can be made one. When they come is not: two runs of
// one seed are alike, not the same.
func TestNemesis(t *testing.T) {
	t.Parallel()
	seed, lasts, pops := *nemesisSeed, time.Duration(*nemesisMinutes*float64(time.Minute)), 5
	if seed == 0 {
		seed = rand.Uint64()
	}
	if lasts == 0 {
		lasts, pops = 5*time.Second, 3
	}
	t.Logf("-seed %d", seed)
	s := newStage(t, torment(t, seed), seed)
	n := &nemesis{stage: s, pace: min(lasts/10, 4*time.Second), ill: map[string]string{}}
	n.play(fmt.Sprintf("start %d", pops), "backends", "serving", "writing", "writes 20")
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		n.strike()
		<-time.After(n.pace/4 + time.Duration(s.rand.Int64N(int64(n.pace))))
	}
	healed := time.Now()
	n.cureAll()
	s.note("all is healed")
	// What takes longest is a POP that has only just been started.
	n.play("within 30s together", "quiet")
	whole := time.Since(healed)
	n.play("within 10s equal")
	t.Logf("seed %d: %d strikes in %s; a mesh again %s after healing, equal %s after that; %s",
		seed, n.strikes, lasts, whole.Round(time.Millisecond), (time.Since(healed) - whole).Round(time.Millisecond), s.rec.counts())
	n.play("no-loss", "served")
	for _, name := range s.names() {
		n.play("connect " + name + " gets *")
	}
}

// nemesis decides what is done next.
type nemesis struct {
	*stage
	pace    time.Duration
	ill     map[string]string // what cures a POP, by its name
	links   bool              // some are not well
	skewed  string            // whose clock is wrong; one at a time, for most clocks decide
	strikes int
}

func (n *nemesis) play(lines ...string) {
	n.t.Helper()
	steps, err := parseScript(strings.Join(lines, "\n"))
	if err != nil {
		n.t.Fatal(err)
	}
	n.stage.play("nemesis", steps)
}

// strike does some harm, or heals some that was done.
func (n *nemesis) strike() {
	n.t.Helper()
	n.strikes++
	switch well := n.well(); {
	case n.links && n.rand.IntN(3) == 0:
		n.play("heal")
		n.links = false
	case len(n.ill) > 0 && (n.rand.IntN(2) == 0 || len(well) < 2):
		n.cure(one(n.rand, sorted(n.ill)))
	case n.rand.IntN(2) == 0 && n.on.refuses("cut") == "":
		n.strikeLinks()
	default:
		n.strikePOP(one(n.rand, well))
	}
}

// well are the POPs to which nothing is done now.
func (n *nemesis) well() []string {
	return slices.DeleteFunc(n.names(), func(name string) bool { return n.ill[name] != "" })
}

func one(r *rand.Rand, of []string) string { return of[r.IntN(len(of))] }

func (n *nemesis) strikePOP(name string) {
	n.t.Helper()
	kind := one(n.rand, []string{"kill", "kill", "stop", "pause", "restart", "upgrade", "skew", "disk"})
	switch {
	case kind == "kill" || kind == "stop":
		n.play(kind + " " + name)
		n.ill[name] = "run " + name
	case kind == "upgrade" && n.on.refuses("upgrade") == "":
		n.play("upgrade " + name)
	case kind == "pause":
		n.play("pause " + name)
		n.ill[name] = "resume " + name
	case kind == "skew" && n.on.refuses("skew") == "":
		if n.skewed != "" {
			name = n.skewed
		}
		if n.ill[name] != "" {
			return
		}
		by := time.Duration(n.rand.Int64N(int64(2*time.Minute))) - time.Minute
		if n.skewed != "" {
			by, n.skewed = 0, ""
		} else {
			n.skewed = name
		}
		n.play(fmt.Sprintf("skew %s %s", name, by), "restart "+name)
	case kind == "disk" && n.on.refuses("disk") == "":
		n.play("fill-disk " + name)
		n.ill[name] = "free-disk " + name
	default:
		n.play("restart " + name)
	}
}

func (n *nemesis) strikeLinks() {
	n.t.Helper()
	n.links = true
	names := n.names()
	n.rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	all := strings.Join(names, " ")
	half := len(names) / 2
	halves := "cut " + strings.Join(names[:half], " ") + " from " + strings.Join(names[half:], " ")
	switch n.rand.IntN(7) {
	case 0:
		n.play(halves)
	case 1:
		n.play("cut " + names[0] + " from " + strings.Join(names[1:], " "))
	case 2: // a ring: each sees its two neighbours only
		for i := range names {
			for j := i + 2; j < len(names); j++ {
				if i > 0 || j < len(names)-1 {
					n.play("cut " + names[i] + " from " + names[j])
				}
			}
		}
	case 3:
		n.play("cut " + names[0] + " to " + names[1])
	case 4: // flapping
		for range 3 {
			n.play(halves)
			<-time.After(n.pace / 4)
			n.play("heal")
			<-time.After(n.pace / 8)
		}
	case 5:
		n.play(fmt.Sprintf("lose %d %s from %s", 5+n.rand.IntN(40), all, all))
	case 6:
		n.play(fmt.Sprintf("delay %dms %s from %s", 10+n.rand.IntN(200), all, all))
	}
}

func (n *nemesis) cure(name string) {
	n.t.Helper()
	n.play(n.ill[name])
	delete(n.ill, name)
}

func (n *nemesis) cureAll() {
	n.t.Helper()
	n.play("heal")
	for _, name := range sorted(n.ill) {
		n.cure(name)
	}
}
