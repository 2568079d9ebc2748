//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sample is what one measurement of one mode found, by figure.
type sample map[string]float64

const (
	keyRate     = "gbits"
	keyCPU      = "cpu"
	keyKernel   = "kernel"
	keyP50      = "p50"
	keyP99      = "p99"
	keyAdded50  = "added.p50"
	keyAdded99  = "added.p99"
	keyOthers   = "others" // share of the machine that others used: of no figure
	tickSeconds = 0.01     // USER_HZ, the same on all machines that Go runs on
)

// figure is a block of the table.
type figure struct {
	key, title, unit string
	digits           int
	more             bool // more is better
}

var figures = []figure{
	{keyRate, "throughput", "Gbit/s", 2, true},
	{keyCPU, "CPU of both ends", "s/GB", 2, false},
	{keyKernel, "and kernel threads", "s/GB", 2, false},
	{keyP50, "round trip p50", "µs", 1, false},
	{keyP99, "round trip p99", "µs", 1, false},
	{keyAdded50, "added to raw p50", "µs", 1, false},
	{keyAdded99, "added to raw p99", "µs", 1, false},
}

// machineTime is since the machine was started, in ticks over all cores.
type machineTime struct{ busy, all float64 }

// parseMachineTime reads /proc/stat; see proc_stat(5). What a hypervisor took is not this machine's.
func parseMachineTime(stat string) (m machineTime, err error) {
	first, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(first)
	if len(fields) < 9 || fields[0] != "cpu" {
		return m, errors.New("/proc/stat: want the times of all CPUs in the first line")
	}
	for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return m, fmt.Errorf("/proc/stat: %w", err)
		}
		m.all += float64(n)
		if i != 3 && i != 4 && i != 7 {
			m.busy += float64(n)
		}
	}
	return m, nil
}

// evaluate makes figures of what was read before and after.
func evaluate(from, to moment, pings answer) (sample, error) {
	bytes, seconds := float64(to.bytes-from.bytes), (to.at - from.at).Seconds()
	if bytes <= 0 || seconds <= 0 {
		return nil, fmt.Errorf("nothing arrived within %.2g s", seconds)
	}
	gb, cpu, kernel := bytes/1e9, (to.cpu - from.cpu).Seconds(), max(0, to.kernel-from.kernel).Seconds()
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	s := sample{
		keyRate: 8 * gb / seconds, keyCPU: cpu / gb, keyKernel: (cpu + kernel) / gb,
		keyP50: micros(pings.Over.P50), keyP99: micros(pings.Over.P99),
		keyAdded50: micros(pings.Over.P50 - pings.Bare.P50), keyAdded99: micros(pings.Over.P99 - pings.Bare.P99),
	}
	if all := (to.machine.all - from.machine.all) * tickSeconds; all > 0 {
		s[keyOthers] = max(0, (to.machine.busy-from.machine.busy)*tickSeconds-cpu-kernel) / all
	}
	return s, nil
}

// results is what a run has found so far: a value per figure, mode and round.
type results struct {
	env    environment
	values map[string]map[string][]float64 // by figure, then mode
	notes  []string
}

func newResults(env environment) *results {
	return &results{env: env, values: make(map[string]map[string][]float64)}
}

func (r *results) add(mode string, s sample) {
	for key, v := range s {
		if r.values[key] == nil {
			r.values[key] = make(map[string][]float64)
		}
		r.values[key][mode] = append(r.values[key][mode], v)
	}
}

// row is one figure of one mode over all rounds. Ratios are this mode's value over the other's, NaN where there is none.
type row struct {
	mode             string
	rounds           []float64
	median, min, max float64
	ratios           []float64 // as references
}

// references are what modes are compared with.
var references = []string{modeExternal, modeLibrary, modeStock}

func (r *results) rows(f figure) (out []row) {
	byMode := r.values[f.key]
	for _, name := range r.env.Modes {
		v := byMode[name]
		if len(v) == 0 || name == modeRaw && (f.key == keyAdded50 || f.key == keyAdded99) {
			continue
		}
		w := row{mode: name, rounds: v, median: median(v), min: slices.Min(v), max: slices.Max(v)}
		for _, ref := range references {
			q := math.NaN()
			if ref != name && name != modeRaw {
				q = ratio(v, byMode[ref])
			}
			w.ratios = append(w.ratios, q)
		}
		out = append(out, w)
	}
	return out
}

// ratio is the median over the rounds of a's value over b's, which were measured within the same minute. NaN if b has
// fewer than half of its values above zero.
func ratio(a, b []float64) float64 {
	var quotients []float64
	n := min(len(a), len(b))
	for i := range n {
		if b[i] > 0 {
			quotients = append(quotients, a[i]/b[i])
		}
	}
	if len(quotients)*2 < n {
		return math.NaN()
	}
	return median(quotients)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// environment says where the figures come from.
type environment struct {
	Time     string            `json:"time"` // RFC 3339
	Kernel   string            `json:"kernel"`
	CPUs     int               `json:"cpus"`
	Go       string            `json:"go"`
	Rounds   int               `json:"rounds"`
	Seconds  float64           `json:"seconds"`
	Streams  int               `json:"streams"`
	Up       bool              `json:"up"` // from the client
	Modes    []string          `json:"modes"`
	Versions map[string]string `json:"versions"`
}

func describe(ctx context.Context, cfg config) environment {
	env := environment{
		Time: time.Now().UTC().Format(time.RFC3339), CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Rounds: cfg.rounds, Seconds: cfg.window.Seconds(), Streams: cfg.streams, Up: cfg.up, Versions: make(map[string]string),
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		env.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if out, err := exec.CommandContext(ctx, "wireguard-go", "--version").Output(); err == nil {
		env.Versions[modeExternal] = firstVersion(string(out))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			switch d.Path {
			case "golang.zx2c4.com/wireguard":
				env.Versions[modeLibrary] = d.Version
			case "gvisor.dev/gvisor":
				env.Versions["gvisor"] = d.Version
			}
		}
	}
	return env
}

// firstVersion is the last word of the first line, as in "wireguard-go v0.0.20220316".
func firstVersion(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return ""
	}
	return fields[len(fields)-1]
}
