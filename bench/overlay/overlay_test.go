//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == roleFlag {
		os.Exit(runRole(os.Args[2]))
	}
	flag.Parse()
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	cfg, err := parse([]string{"-seconds", "0.2", "-rounds", "7", "-modes", "tun, raw", "-streams", "4", "-up", "-json"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.window != 200*time.Millisecond || cfg.rounds != 7 || cfg.streams != 4 || !cfg.up || !cfg.json ||
		!slices.Equal(modeNames(cfg.modes), []string{"tun", "raw"}) {
		t.Errorf("%+v", cfg)
	}
	if cfg, err := parse(nil); err != nil || len(cfg.modes) != len(allModes) || cfg.rounds != 5 || cfg.window != 3*time.Second {
		t.Errorf("defaults: %+v, %v", cfg, err)
	}
	for _, bad := range []string{"-rounds 0", "-seconds 0", "-seconds nan", "-streams 0", "-modes wg", "-modes tun,tun", "more", "-unknown"} {
		if _, err := parse(strings.Fields(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

func TestMedianAndRatio(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{[]float64{3}, 3}, {[]float64{4, 1}, 2.5}, {[]float64{9, 1, 5}, 5}, {[]float64{1, 2, 3, 100}, 2.5}} {
		if got := median(c.v); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.v, got, c.want)
		}
	}
	// Round by round: the machine was twice as fast in the second.
	if got := ratio([]float64{2, 4, 9}, []float64{1, 2, 3}); got != 2 {
		t.Errorf("ratio %v, want 2", got)
	}
	for name, v := range map[string]float64{"none": median(nil), "no rounds": ratio([]float64{1}, nil), "zero": ratio([]float64{1}, []float64{0})} {
		if !math.IsNaN(v) {
			t.Errorf("%s: %v, want NaN", name, v)
		}
	}
}

func TestQuantile(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(100-i)*time.Microsecond)
	}
	got := summarize(took)
	if want := (roundTrips{N: 100, P50: 50 * time.Microsecond, P99: 99 * time.Microsecond}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := quantile([]time.Duration{7}, 0.99); got != 7 {
		t.Errorf("of one: %v", got)
	}
}

func TestParseProc(t *testing.T) {
	m, err := parseMachineTime("cpu  10 1 20 1000 5 2 3 4 9 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
	if want := (machineTime{busy: 36, all: 1045}); err != nil || m != want {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 x"} {
		if _, err := parseMachineTime(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if pid, parent, err := parseParent("321 (odd) (name) S 2 0 0 0 -1"); pid != 321 || parent != 2 || err != nil {
		t.Errorf("%d, %d, %v", pid, parent, err)
	}
	for _, bad := range []string{"", "1 name S 2", "x (name) S 2", "1 (name) S"} {
		if _, _, err := parseParent(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if used, err := cpuOf(os.Getpid()); err != nil || used <= 0 {
		t.Errorf("own CPU time %v, %v", used, err)
	}
	if got := firstVersion("wireguard-go v0.0.20220316\n\nUserspace\n"); got != "v0.0.20220316" {
		t.Errorf("version %q", got)
	}
}

func TestEvaluate(t *testing.T) {
	from := moment{bytes: 1e9, at: time.Second, cpu: time.Second, kernel: time.Second, machine: machineTime{100, 1000}}
	to := moment{bytes: 3e9, at: 5 * time.Second, cpu: 4 * time.Second, kernel: 2 * time.Second, machine: machineTime{600, 1800}}
	us := time.Microsecond
	s, err := evaluate(from, to, answer{Over: roundTrips{P50: 50 * us, P99: 90 * us}, Bare: roundTrips{P50: 20 * us, P99: 30 * us}})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range (sample{keyRate: 4, keyCPU: 1.5, keyKernel: 2, keyP50: 50, keyP99: 90, keyAdded50: 30, keyAdded99: 60, keyOthers: 0.125}) {
		if math.Abs(s[key]-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", key, s[key], want)
		}
	}
	if _, err := evaluate(from, from, answer{}); err == nil {
		t.Error("nothing arrived, and no error")
	}
}

// TestTable: what is compared, with what, and what is said of goals.
func TestTable(t *testing.T) {
	r := newResults(environment{Modes: []string{modeRaw, modeLibrary, modeTUN, modeStock, modeNetstack}})
	for mode, rate := range map[string]float64{modeRaw: 20, modeLibrary: 3, modeTUN: 2.7, modeStock: 1, modeNetstack: 1.6} {
		for i := range 3 {
			r.add(mode, sample{keyRate: rate * float64(i+1), keyAdded50: 10})
		}
	}
	var b bytes.Buffer
	if err := r.writeTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Goal: throughput of tun at least 0.95× library: 0.90×, missed.\n",
		"Goal: throughput of netstack at least 1.50× stock: 1.60×, met.\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("want %q in\n%s", want, b.String())
		}
	}
	line := func(start string) []string {
		for l := range strings.SplitSeq(b.String(), "\n") {
			if strings.HasPrefix(strings.TrimSpace(l), start) {
				return strings.Fields(l)
			}
		}
		return nil
	}
	if got, want := line("tun "), []string{"tun", "5.40", "2.70", "8.10", "-", "0.90×", "2.70×"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := line("added to raw p50"); len(got) < 6 || got[5] != modeLibrary {
		t.Errorf("%q, want no raw in it", got)
	}
	var out report
	b.Reset()
	if err := r.writeJSON(&b); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || len(out.Goals) != 2 || len(out.Figures) != 2 || len(out.Figures[0].Modes) != 5 {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestWholeRun makes namespaces: EDGEPROXY_TEST=netns go test ./bench/overlay, as root.
func TestWholeRun(t *testing.T) {
	if !slices.Contains(strings.Split(os.Getenv("EDGEPROXY_TEST"), ","), "netns") {
		t.Skip("EDGEPROXY_TEST=netns runs this")
	}
	if err := canMeasure(); err != nil {
		t.Fatal(err)
	}
	cfg, err := parse([]string{"-seconds", "0.2", "-rounds", "1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg.up = range []bool{false, true} {
		r, err := newRig(t.Context(), cfg, t.Output())
		if err != nil {
			t.Fatal(err)
		}
		res, err := r.measure(t.Context())
		r.close()
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range res.env.Modes {
			for _, key := range []string{keyRate, keyCPU, keyP50} {
				if v := res.values[key][name]; len(v) != 1 || v[0] <= 0 {
					t.Errorf("%s of %s: %v", key, name, v)
				}
			}
		}
		if err := res.writeTable(t.Output()); err != nil {
			t.Error(err)
		}
		clean(t)
	}
	// Interrupted in the middle.
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	r, err := newRig(ctx, cfg, t.Output())
	if err == nil {
		_, err = r.measure(ctx)
		r.close()
	}
	if err == nil {
		t.Error("all was measured within 0.7 s")
	}
	clean(t)
}

// clean says that nothing of this process is left.
func clean(t *testing.T) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "list").CombinedOutput()
	if pid := strconv.Itoa(os.Getpid()); err != nil || bytes.Contains(out, []byte("edgeproxy-bench-"+pid)) {
		t.Errorf("namespaces left: %v\n%s", err, out)
	}
	left, err := os.ReadDir(socketDir)
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), "eb"+strconv.Itoa(os.Getpid())) {
			t.Errorf("socket left: %s", f.Name())
		}
	}
}
