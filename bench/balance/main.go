// Command balance simulates a mesh of POPs that choose backends with counts
// that are a little old, in virtual time and with the real code of package
// route, and compares what comes of it with its targets.
//
//	go run ./bench/balance                       # every scenario, five seeds, some minutes
//	go run ./bench/balance --seeds 1 --only 'S=1'
//
// It exits with 1 where a target is missed. The scenarios and figures are those
// of docs/performance.md.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

func main() {
	seeds := flag.Int("seeds", 5, "runs of each scenario, of which the mean counts")
	first := flag.Uint64("seed", 1, "first seed")
	only := flag.String("only", "", "run only the scenarios whose name contains this")
	flag.Parse()
	fmt.Printf("%-52s %9s %9s %7s %7s %9s %9s %9s  %s\n", "scenario", "imbalance", "target", "peak %", "out %", "refused %", "returned", "delayed %", "")
	missed := false
	for _, sc := range scenarios {
		if !strings.Contains(sc.name, *only) {
			continue
		}
		r := runAll(sc, *first, *seeds)
		why := r.missed(sc)
		missed = missed || why != ""
		fmt.Printf("%-52s %9.3f %9.3f %7.1f %7.2f %9.2f %9.2f %9.2f  %s\n", sc.name, r.imbalance, sc.target.imbalance,
			100*r.peak, 100*r.outside, 100*r.refused, r.returned, 100*r.delayed, why)
	}
	if missed {
		os.Exit(1)
	}
}

// runAll is the mean over several seeds; of the peak, the greatest.
func runAll(sc scenario, first uint64, seeds int) result {
	results := make([]result, seeds)
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[i] = run(sc, first+uint64(i))
		})
	}
	wg.Wait()
	var sum result
	for _, r := range results {
		n := float64(seeds)
		sum.imbalance += r.imbalance / n
		sum.outside += r.outside / n
		sum.refused += r.refused / n
		sum.refusedWithRoom += r.refusedWithRoom / n
		sum.returned += r.returned / n
		sum.delayed += r.delayed / n
		sum.peak = max(sum.peak, r.peak)
	}
	return sum
}
