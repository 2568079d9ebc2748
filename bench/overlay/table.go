//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/edgeproxy/edgeproxy/wg"
)

// writeTable prints one block per figure and one line per mode in it.
func (r *results) writeTable(w io.Writer) error {
	e := r.env
	direction := "to the client"
	if e.Up {
		direction = "to the backend"
	}
	fmt.Fprintf(w, "%s  Linux %s, %d CPUs, %s; %d rounds of %g s, TCP streams %s: %d\n", e.Time, e.Kernel, e.CPUs, e.Go, e.Rounds, e.Seconds,
		direction, e.Streams)
	for _, name := range slices.Sorted(maps.Keys(e.Versions)) {
		fmt.Fprintf(w, "%s %s  ", name, e.Versions[name])
	}
	fmt.Fprint(w, "\n\n")
	lines := [][]string{{"", "", "median", "min", "max"}}
	for _, ref := range references {
		lines[0] = append(lines[0], "to "+ref)
	}
	for _, f := range figures {
		lines = append(lines, r.lines(f)...)
	}
	if err := writeAligned(w, lines); err != nil {
		return err
	}
	_, err := io.WriteString(w, r.footer())
	return err
}

// lines is the block of one figure.
func (r *results) lines(f figure) (out [][]string) {
	title := f.title + ", " + f.unit
	for _, row := range r.rows(f) {
		line := []string{title, row.mode}
		for _, v := range []float64{row.median, row.min, row.max} {
			line = append(line, fmt.Sprintf("%.*f", f.digits, v))
		}
		for _, q := range row.ratios {
			line = append(line, times(q))
		}
		out = append(out, line)
		title = ""
	}
	return out
}

// writeAligned sets lines in columns: the first two flush left, the others, which are numbers, flush right.
func writeAligned(w io.Writer, lines [][]string) error {
	width := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var row strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i >= 2 {
				cell, pad = pad+cell, ""
			}
			row.WriteString(cell + pad + "  ")
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// footer says what a reader of the table must know.
func (r *results) footer() string {
	var b strings.Builder
	b.WriteString("\n")
	for _, g := range r.goals() {
		verdict := "missed"
		if g.Met {
			verdict = "met"
		}
		fmt.Fprintf(&b, "Goal: throughput of %s at least %.2f× %s: %s, %s.\n", g.Mode, g.Least, g.Than, times(g.Ratio), verdict)
	}
	for _, m := range allModes {
		if slices.Contains(r.env.Modes, m.name) {
			fmt.Fprintf(&b, "%s: %s.\n", m.name, m.what)
		}
	}
	for _, n := range r.notes {
		fmt.Fprintf(&b, "%s.\n", n)
	}
	fmt.Fprintf(&b, "MTU %d but for raw. A ratio is the median over the rounds of own value / the other's; throughput: more is better, all else: less.\n", wg.MTU)
	b.WriteString("CPU of both ends: of their processes, with what they have the kernel do; what soft interrupts do for them in passing may be\n" +
		"missing, what the kernel's own threads do comes in the second block.\n")
	most := 0.0
	for _, v := range r.values[keyOthers] {
		most = max(most, slices.Max(v))
	}
	if most > 0.1 {
		fmt.Fprintf(&b, "Others used up to %.0f %% of the machine: rates and round trips mean little; CPU figures hold better.\n", 100*most)
	}
	return b.String()
}

// times prints a ratio.
func times(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf("%.2f×", v)
}

// report is the JSON form.
type report struct {
	Environment environment    `json:"environment"`
	Figures     []figureReport `json:"figures"`
	Goals       []goalReport   `json:"goals"`
	Notes       []string       `json:"notes"`
}

type figureReport struct {
	Key    string       `json:"key"`
	Title  string       `json:"title"`
	Unit   string       `json:"unit"`
	Better string       `json:"better"` // more or less
	Modes  []modeReport `json:"modes"`
}

type modeReport struct {
	Name   string             `json:"name"`
	Median float64            `json:"median"`
	Min    float64            `json:"min"`
	Max    float64            `json:"max"`
	Rounds []float64          `json:"rounds"`
	To     map[string]float64 `json:"to,omitempty"` // ratios
}

type goalReport struct {
	Mode  string  `json:"mode"`
	Than  string  `json:"than"`
	Least float64 `json:"least"`
	Ratio float64 `json:"ratio"`
	Met   bool    `json:"met"`
}

// goals are those of which both modes were measured.
func (r *results) goals() []goalReport {
	out := []goalReport{}
	for _, g := range goals {
		q := ratio(r.values[keyRate][g.mode], r.values[keyRate][g.than])
		if !math.IsNaN(q) {
			out = append(out, goalReport{g.mode, g.than, g.least, q, q >= g.least})
		}
	}
	return out
}

func (r *results) report() report {
	out := report{Environment: r.env, Figures: []figureReport{}, Goals: r.goals(), Notes: append([]string{}, r.notes...)}
	for _, f := range figures {
		fr := figureReport{Key: f.key, Title: f.title, Unit: f.unit, Better: "less"}
		if f.more {
			fr.Better = "more"
		}
		for _, row := range r.rows(f) {
			m := modeReport{Name: row.mode, Median: row.median, Min: row.min, Max: row.max, Rounds: row.rounds, To: map[string]float64{}}
			for i, ref := range references {
				if !math.IsNaN(row.ratios[i]) {
					m.To[ref] = row.ratios[i]
				}
			}
			fr.Modes = append(fr.Modes, m)
		}
		if len(fr.Modes) > 0 {
			out.Figures = append(out.Figures, fr)
		}
	}
	return out
}

func (r *results) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r.report())
}
