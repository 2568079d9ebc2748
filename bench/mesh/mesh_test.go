package main

import (
	"flag"
	"math/rand/v2"
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

// small has all that can happen at once.
var small = scenario{
	name: "small", pops: 40, every: 5 * time.Second, lasting: 40 * time.Second, loss: 0.02, late: 4, mends: true,
	happens: func(w *world) { tenthDies(w); cut(w) },
}

// TestSmallMesh: with loss, a partition, deaths and POPs that join, all that
// live hold the same in the end, and a seed says all.
func TestSmallMesh(t *testing.T) {
	nobody := func(float64) {}
	r := small.run(1, nobody)
	if why := r.missed(small); why != "" {
		t.Errorf("%s: %+v", why, r)
	}
	if r.writes < 100 || r.rate == 0 || r.pulls == 0 {
		t.Errorf("nothing was measured: %+v", r)
	}
	if again := small.run(1, nobody); again != r {
		t.Errorf("%+v, and the second time %+v", r, again)
	}
	if other := small.run(2, nobody); other == r {
		t.Errorf("two seeds, and both %+v", r)
	}
}

// TestWholeMesh: where nothing happens, the targets hold.
func TestWholeMesh(t *testing.T) {
	sc := scenario{name: "whole", pops: 40, every: 5 * time.Second, lasting: 20 * time.Second}
	r := sc.run(1, func(float64) {})
	if why := r.missed(sc); why != "" || r.pulls > 0 {
		t.Errorf("%s: %+v", why, r)
	}
}

// TestEvents: the earliest comes first, of one moment the one planned first.
func TestEvents(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var q events
	for i := range 1000 {
		q.push(event{at: time.Duration(rnd.IntN(100)), order: uint64(i)})
	}
	for last := (event{}); len(q) > 0; {
		e := q.pop()
		if e.before(last) {
			t.Fatalf("%v after %v", e, last)
		}
		last = e
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
