// Command mesh simulates the record plane of large meshes in virtual time, with
// the overlay's own code, on a network with the latencies between 19 metros, and
// compares what comes of it with its targets.
//
//	go run ./bench/mesh                  # every scenario
//	go run ./bench/mesh --only 100 --seed 2
//
// Membership is scripted. A run is the same for the same seed. It exits with 1
// where a target is missed. The figures are those of docs/performance.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

func main() {
	seed := flag.Uint64("seed", 1, "of everything random")
	only := flag.String("only", "", "run only the scenarios whose name contains this")
	flag.Parse()
	debug.SetGCPercent(300) // of 1,000 replicas little is ever garbage
	fmt.Printf("longest round trip %v; memory of a POP with 10,000 rows of 1,000 writers: %.1f MB, want at most 64\n", longest(), float64(memory(10_000, 1000))/1e6)
	fmt.Printf("%-34s %8s %8s %8s %9s %8s %8s %9s\n", "scenario", "writes", "p50", "p99", "longest", "copies", "pulls", "kB/s")
	var chosen []scenario
	for _, sc := range scenarios {
		if strings.Contains(sc.name, *only) {
			chosen = append(chosen, sc)
		}
	}
	missed := false
	for i, found := range runAll(chosen, *seed) {
		r, sc := <-found, chosen[i]
		why := r.missed(sc)
		missed = missed || why != ""
		fmt.Printf("%-34s %8d %8v %8v %9v %8.3f %8d %9.1f  %s\n", sc.name, r.writes, r.p50.Round(time.Millisecond), r.p99.Round(time.Millisecond),
			r.longest.Round(time.Millisecond), r.copies, r.pulls, r.rate/1e3, why)
	}
	if missed {
		os.Exit(1)
	}
}

// runAll runs two scenarios at a time, each of which is alone in its world, and
// tells how far they are. Each sends its result once.
func runAll(list []scenario, seed uint64) []chan result {
	results := make([]chan result, len(list))
	turns := make(chan struct{}, 2)
	for i, sc := range list {
		results[i] = make(chan result, 1)
		go func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			told := time.Now()
			results[i] <- sc.run(seed, func(done float64) {
				if time.Since(told) > 5*time.Second {
					told = time.Now()
					fmt.Fprintf(os.Stderr, "%s: %.0f %%\n", sc.name, 100*done)
				}
			})
		}()
	}
	return results
}
