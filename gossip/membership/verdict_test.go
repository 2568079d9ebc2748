package membership_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/gossip/membership"
	"github.com/edgeproxy/edgeproxy/gossip/memnet"
)

// world is a mesh around the globe: 350 ms round trips and 2 % loss everywhere.
var world = memnet.Config{Latency: 175 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.02, Seed: 5}

// TestVerdicts: nobody is accused who lives, and who dies is failed to all
// soon. memberlist's randomness has no seed, so the bounds are those of many
// runs; with -v it prints this one's.
func TestVerdicts(t *testing.T) {
	for count, within := range map[int]time.Duration{3: 13 * time.Second, 10: 14 * time.Second, 30: 17 * time.Second} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			bubble(t, world, func(t *testing.T, net *memnet.Net) {
				nodes := mesh(t, net, count, membership.Timing{})
				time.Sleep(90 * time.Minute / time.Duration(count)) // the same work for all
				suspects := 0
				for _, n := range nodes {
					suspects += n.log.count("Suspect ")
					if n := n.log.count(`"status":"failed"`); n != 0 {
						t.Errorf("%d false verdicts", n)
					}
				}
				dead, rest := nodes[count-1], nodes[:count-1]
				dead.stop()
				begin := time.Now()
				var first time.Duration
				for i, n := range rest {
					eventually(t, n.name+" sees the failure", within-time.Since(begin), func() bool { return n.member(dead.name).Status == "failed" })
					if i == 0 {
						first = time.Since(begin)
					}
				}
				t.Logf("%d nodes: %d suspicions; failed to one after %v, to all after %v", count, suspects, first, time.Since(begin))
				var estimates []time.Duration
				for _, n := range rest {
					for _, m := range n.Members() {
						if !m.Self && m.Status == "alive" && m.HasRTT {
							estimates = append(estimates, m.RTT)
						}
					}
				}
				// Single ones are off by more while the coordinates settle.
				slices.Sort(estimates)
				if len(estimates) == 0 {
					t.Fatal("no round trip is known")
				}
				middle := estimates[len(estimates)/2]
				t.Logf("%d round trips, estimated at %v to %v, median %v", len(estimates), estimates[0], estimates[len(estimates)-1], middle)
				if middle < 320*time.Millisecond || middle > 400*time.Millisecond {
					t.Errorf("the median of the round trips is estimated at %v, is 350 to 370 ms", middle)
				}
			})
		})
	}
}

// A partition of any kind, short or long, ends in one mesh, soon.
func TestPartitionHeals(t *testing.T) {
	for name, side := range map[string][]int{"one apart": {4}, "two and three": {3, 4}, "the seed apart": {0}} {
		for _, length := range []time.Duration{10 * time.Second, 5 * time.Minute} {
			t.Run(fmt.Sprint(name, " ", length), func(t *testing.T) {
				bubble(t, memnet.Config{Latency: 80 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.01, Seed: 3}, func(t *testing.T, net *memnet.Net) {
					nodes := mesh(t, net, 5, membership.Timing{})
					time.Sleep(time.Minute)
					var hosts []string
					apart := map[int]bool{}
					for _, i := range side {
						hosts = append(hosts, host(i))
						apart[i] = true
					}
					net.Partition(hosts...)
					time.Sleep(length)
					for i, n := range nodes {
						if length < time.Minute {
							break // verdicts are still being found
						}
						var want []string
						for j := range nodes {
							want = append(want, fmt.Sprintf("n%02d=%s", j, map[bool]string{true: "alive", false: "failed"}[apart[i] == apart[j]]))
						}
						if got := n.sees(); got != strings.Join(want, " ") {
							t.Errorf("%s sees %s, want %s", n.name, got, want)
						}
					}
					net.HealAll()
					begin := time.Now()
					for _, n := range nodes {
						n.untilWithin(t, 10*time.Second, "n00=alive n01=alive n02=alive n03=alive n04=alive")
					}
					t.Logf("whole again %v after healing", time.Since(begin))
				})
			})
		}
	}
}

// A node that was killed is back within seconds of its start, by its snapshot;
// one that remembers nobody and has no seed is found by the others, who do.
func TestKilledNodeIsFoundAgain(t *testing.T) {
	for name, within := range map[string]time.Duration{"snapshot": 5 * time.Second, "nothing": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			bubble(t, world, func(t *testing.T, net *memnet.Net) {
				nodes := mesh(t, net, 4, membership.Timing{})
				cfg := membership.Config{Node: "n04", Transport: net.Host(host(4)).Transport(7946), Join: []string{host(0) + ":7946"}}
				if name == "snapshot" {
					cfg.Snapshot = filepath.Join(t.TempDir(), "members")
				}
				const whole = "n00=alive n01=alive n02=alive n03=alive n04=alive"
				killed := start(t, cfg)
				killed.until(t, whole)
				time.Sleep(time.Minute)
				killed.stop()
				for _, n := range nodes {
					n.untilWithin(t, 30*time.Second, "n00=alive n01=alive n02=alive n03=alive n04=failed")
				}
				cfg.Transport, cfg.Join = net.Host(host(4)).Transport(7946), nil
				back := start(t, cfg)
				t.Logf("back after %v", back.untilWithin(t, within, whole))
				for _, n := range nodes {
					n.untilWithin(t, within, whole)
				}
			})
		})
	}
}

// One line that lets nothing through in one direction must not part two nodes
// that the others can reach.
func TestOneWayLine(t *testing.T) {
	bubble(t, memnet.Config{Latency: 80 * time.Millisecond, Seed: 3}, func(t *testing.T, net *memnet.Net) {
		nodes := mesh(t, net, 5, membership.Timing{})
		net.CutOneWay(host(1), host(2))
		time.Sleep(10 * time.Minute)
		for _, n := range nodes {
			if strings.Contains(n.sees(), "failed") {
				t.Errorf("%s sees %s", n.name, n.sees())
			}
		}
	})
}
