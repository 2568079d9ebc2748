//go:build linux

package main

import (
	"context"
	"database/sql"
	"math"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edgeproxy/edgeproxy/crdt/sqlite"
)

// A quantile is within 0.4 % of the exact one, over the whole range.
func TestHistogram(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var parts [2]histogram
	var all []float64
	for range 20_000 {
		ns := math.Exp(rnd.Float64() * math.Log(60e9)) // 1 ns to 60 s
		d := time.Duration(ns)
		all = append(all, float64(d))
		parts[rnd.IntN(2)].add(d)
	}
	slices.Sort(all)
	var h histogram
	h.merge(&parts[0])
	h.merge(&parts[1])
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(q*float64(len(all))), len(all)-1)]
		if got := h.quantile(q); math.Abs(got-want) > 0.004*want+0.5 {
			t.Errorf("quantile %g: %g, want %g", q, got, want)
		}
	}
	if got := new(histogram).quantile(0.5); got != 0 {
		t.Errorf("empty: %g", got)
	}
	for i := range bucketsLen { // every bucket holds its own middle
		if got := bucket(uint64(middle(i))); got != i {
			t.Fatalf("middle of bucket %d, %g, falls into %d", i, middle(i), got)
		}
	}
	if got := bucket(math.MaxUint64); got != bucketsLen-1 {
		t.Errorf("the longest falls into %d", got)
	}
}

func TestRows(t *testing.T) {
	f := figure{key: "x.rate", more: true}
	less := figure{key: "x.cpu"}
	m := measure{name: "x", figures: []figure{f, less}}
	r := newResults([]measure{m}, environment{Targets: []string{edgeproxy, goroutine, haproxy, nginx}, CPUs: 2})
	for _, round := range []map[string]sample{
		{direct: {"x.rate": 900}, goroutine: {"x.rate": 150}, edgeproxy: {"x.rate": 200, "x.cpu": 10}, haproxy: {"x.rate": 100, "x.cpu": 20}, nginx: {"x.rate": 50, "x.cpu": 40}},
		{direct: {"x.rate": 900}, goroutine: {"x.rate": 150}, edgeproxy: {"x.rate": 30, "x.cpu": 30}, haproxy: {"x.rate": 10, "x.cpu": 20}, nginx: {"x.rate": 20, "x.cpu": 0}},
		{direct: {"x.rate": 900}, goroutine: {"x.rate": 150}, edgeproxy: {"x.rate": 100, "x.cpu": 20}, haproxy: {"x.rate": 100, "x.cpu": 20}, nginx: {"x.rate": 90, "x.cpu": 0}},
	} {
		for name, s := range round {
			r.add(m, name, outcome{figures: s})
		}
	}
	for _, tc := range []struct {
		f                      figure
		target, peer           string
		median, min, max       float64
		toPeer, toHAProxy      float64
		hasPeer, hasHAProxyRow bool
	}{
		{f, direct, "", 900, 900, 900, 0, 0, false, false},
		{f, edgeproxy, haproxy, 100, 30, 200, 2, 2, true, true}, // per round 2, 3, 1
		{f, haproxy, goroutine, 100, 10, 100, 2. / 3, 0, true, false},
		{f, nginx, goroutine, 50, 20, 90, 1. / 3, 0.9, true, true},
		{less, edgeproxy, nginx, 20, 10, 30, 0, 1, false, true}, // nginx is 0 in two of three rounds: no ratio
	} {
		rows := r.rows(tc.f)
		i := slices.IndexFunc(rows, func(w row) bool { return w.target == tc.target })
		if i < 0 {
			t.Errorf("%s %s: no row", tc.f.key, tc.target)
			continue
		}
		w := rows[i]
		if w.peer != tc.peer || w.median != tc.median || w.min != tc.min || w.max != tc.max {
			t.Errorf("%s %s: %+v, want %+v", tc.f.key, tc.target, w, tc)
		}
		check := func(what string, got, want float64, has bool) {
			if has != !math.IsNaN(got) || has && math.Abs(got-want) > 1e-9 {
				t.Errorf("%s %s %s: %g, want %g (%v)", tc.f.key, tc.target, what, got, want, has)
			}
		}
		check("to peer", w.vsPeer, tc.toPeer, tc.hasPeer)
		check("to haproxy", w.vsHAProxy, tc.toHAProxy, tc.hasHAProxyRow)
	}
}

func TestNotes(t *testing.T) {
	m := measure{name: "resets"}
	r := newResults(nil, environment{Targets: []string{nginx}, CPUs: 2})
	out := outcome{errors: 2, first: "connect: no ports", window: time.Second, cpu: map[string]time.Duration{
		groupLoad: 950 * time.Millisecond * time.Duration(workers()), groupBackend: 100 * time.Millisecond, groupMachine: 3 * time.Second}}
	r.add(m, nginx, out)
	r.add(m, nginx, out)
	r.add(m, direct, outcome{window: time.Second, cpu: map[string]time.Duration{groupBackend: time.Hour}})
	notes := r.notes()
	for _, want := range []string{"resets, nginx: 4 errors, the first: connect: no ports", "The load process used up to 95 %", "Others used up to"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes lack %q:\n%s", want, notes)
		}
	}
	if strings.Contains(notes, "The backend process") {
		t.Errorf("direct counts as load:\n%s", notes)
	}
}

func TestNumber(t *testing.T) {
	for _, tc := range []struct {
		v      float64
		digits int
		want   string
	}{
		{0, 0, "0"}, {999, 0, "999"}, {1000, 0, "1,000"}, {1234567.891, 2, "1,234,567.89"}, {-12.34, 1, "-12.3"}, {-0.01, 1, "0.0"}, {-1234, 0, "-1,234"},
	} {
		if got := number(tc.v, tc.digits); got != tc.want {
			t.Errorf("number(%g, %d) = %q, want %q", tc.v, tc.digits, got, tc.want)
		}
	}
}

func TestParse(t *testing.T) {
	cfg, err := parse(strings.Fields("-rounds 2 -seconds 0.5 -measures latency,connections -targets nginx,haproxy -json"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.rounds != 2 || cfg.window != 500*time.Millisecond || !cfg.json || !slices.Equal(cfg.targets, []string{"nginx", "haproxy"}) {
		t.Errorf("%+v", cfg)
	}
	if len(cfg.measures) != 2 || cfg.measures[0].name != "connections" || cfg.measures[1].name != "latency" {
		t.Errorf("measures %v", cfg.measures)
	}
	for args, want := range map[string]string{
		"-measures speed":  `unknown measure "speed"; there are connections,`,
		"-rounds 0":        "want 1 to 1000",
		"-seconds 0.001":   "want 0.05 to 600",
		"latency":          `unexpected argument "latency"`,
		"-seconds 3 -json": "",
	} {
		_, err := parse(strings.Fields(args))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if _, err := findTargets(t.Context(), config{targets: []string{"envoy"}}, ""); err == nil || !strings.Contains(err.Error(), `unknown target "envoy"`) {
		t.Errorf("findTargets: %v", err)
	}
}

// Every target has addresses of its own.
func TestPlace(t *testing.T) {
	seen := make(map[netip.Addr]bool)
	for n := range 4 {
		var tg target
		tg.place(n, 12345)
		if len(tg.backends) != 9 {
			t.Fatalf("%d backends", len(tg.backends))
		}
		addrs := slices.Clone(tg.sources)
		for _, b := range tg.backends {
			addrs = append(addrs, b.Addr())
		}
		for _, a := range addrs {
			if seen[a] || !a.IsLoopback() {
				t.Errorf("target %d: %s twice, or not loopback", n, a)
			}
			seen[a] = true
		}
	}
}

func TestRotate(t *testing.T) {
	list := []string{"A", "B", "C"}
	for by, want := range []string{"ABC", "BCA", "CAB", "ABC"} {
		if got := strings.Join(rotate(list, by), ""); got != want {
			t.Errorf("rotate by %d: %s, want %s", by, got, want)
		}
	}
}

func TestRoutingDB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routing.db")
	var tg target
	tg.place(0, 12345)
	for range 2 { // a second start finds the file and leaves it
		if err := writeRoutingDB(context.Background(), path, tg.backends); err != nil {
			t.Fatal(err)
		}
	}
	db, err := sql.Open(sqlite.Driver, path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows string
	err = db.QueryRow(`SELECT group_concat(id||' '||region||' '||wg_ip||':'||port||' '||healthy||' '||weight||' '||soft_limit||' '||hard_limit||' '||deleted, '; ')
		FROM (SELECT * FROM backends ORDER BY rowid)`).Scan(&rows)
	if err != nil {
		t.Fatal(err)
	}
	list := strings.Split(rows, "; ")
	if len(list) != 9 || list[0] != "sa-node-1 sa 127.20.0.1:12345 1 1 10000 0 0" || list[8] != "eu-node-3 eu 127.20.0.9:12345 1 1 10000 0 0" {
		t.Errorf("rows %q", list)
	}
}
