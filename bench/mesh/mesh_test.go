package main

import (
	"flag"
	"os"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

// TestLatencies: the committed table is what follows from the coordinates.
func TestLatencies(t *testing.T) {
	const file = "testdata/latencies.txt"
	if *update {
		if err := os.WriteFile(file, []byte(table()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := table(); got != string(want) {
		t.Errorf("the table has changed (go test ./bench/mesh -update):\n%s", got)
	}
	// London to New York's region is 5,900 km, and some 75 ms in practice.
	if rtt := 2 * oneWay(metros[11], metros[8]); rtt < 65*time.Millisecond || rtt > 100*time.Millisecond {
		t.Errorf("London to Ashburn: %v", rtt)
	}
}

var small = []scenario{
	{name: "whole", pops: 40, every: 5 * time.Second, lasting: 10 * time.Second},
	{name: "loss", pops: 40, every: 5 * time.Second, lasting: 10 * time.Second, loss: 0.02, mends: true},
	{name: "deaths", pops: 40, every: 5 * time.Second, lasting: 10 * time.Second, happens: tenthDies, mends: true},
	{name: "cut", pops: 40, every: 5 * time.Second, lasting: 30 * time.Second, happens: cut, mends: true},
}

// TestSmallMesh: the targets hold, whatever happens, and a seed says all.
func TestSmallMesh(t *testing.T) {
	for _, sc := range small {
		t.Run(sc.name, func(t *testing.T) {
			r := sc.run(1)
			if why := r.missed(sc); why != "" {
				t.Errorf("%s: %+v", why, r)
			}
			if r.writes == 0 || r.rate == 0 || sc.loss > 0 && r.pulls == 0 {
				t.Errorf("nothing was measured: %+v", r)
			}
			if again := sc.run(1); again != r {
				t.Errorf("%+v, and the second time %+v", r, again)
			}
		})
	}
}

// TestMissed: a target that is missed is named.
func TestMissed(t *testing.T) {
	ok := result{copies: 1, p99: longest()}
	for name, change := range map[string]func(*result){
		"heads":  func(r *result) { r.left = 1 },
		"bytes":  func(r *result) { r.rate = 151e3 },
		"delay":  func(r *result) { r.p99 = longest() + time.Second },
		"copies": func(r *result) { r.copies = 1.4 },
	} {
		r := ok
		if change(&r); r.missed(scenario{}) == "" {
			t.Errorf("%s: not missed", name)
		}
	}
	if why := ok.missed(scenario{}); why != "" {
		t.Error(why)
	}
}
