//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// writeTable prints one block per figure and one line per target in it.
func (r *results) writeTable(w io.Writer) error {
	e := r.env
	fmt.Fprintf(w, "%s  Linux %s, %d CPUs, %s network, %s; %d rounds of %g s, %d connections, %d streams, %d idle\n", e.Time, e.Kernel, e.CPUs,
		e.Network, e.Go, e.Rounds, e.Seconds, e.Conns, e.Streams, e.Idle)
	for _, t := range e.Targets {
		if v := e.Versions[t]; v != "" {
			fmt.Fprintf(w, "%s %s  ", t, v)
		}
	}
	fmt.Fprint(w, "\n\n")
	lines := [][]string{{"", "", "median", "min", "max", "to best peer", "to haproxy"}}
	for _, m := range r.measures {
		for _, f := range m.figures {
			lines = append(lines, r.lines(f)...)
		}
	}
	if err := writeAligned(w, lines); err != nil {
		return err
	}
	_, err := io.WriteString(w, r.notes())
	return err
}

// lines is the block of one figure.
func (r *results) lines(f figure) (out [][]string) {
	title := f.title
	if f.unit != "" {
		title += ", " + f.unit
	}
	for _, row := range r.rows(f) {
		out = append(out, []string{title, row.target, number(row.median, f.digits), number(row.min, f.digits),
			number(row.max, f.digits), times(row.vsPeer), times(row.vsHAProxy)})
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
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i < 2 {
				b.WriteString(cell + pad + "  ")
			} else {
				b.WriteString(pad + cell + "  ")
			}
		}
		b.WriteString("\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// notes says what a reader of the table must know.
func (r *results) notes() string {
	var b strings.Builder
	b.WriteString("\nRates and GB/s: more is better, all else: less is. A ratio is the median over the rounds of own value / the other's.\n")
	for _, t := range r.troubles {
		fmt.Fprintf(&b, "%s, %s: %d errors, the first: %s\n", t.Measure, t.Target, t.Errors, t.First)
	}
	for _, helper := range []string{busyLoad, busyBackend} {
		if share := r.busy[helper]; share > 0.9 {
			fmt.Fprintf(&b, "The %s process used up to %.0f %% of its threads: rates may be its limit; CPU figures hold.\n", helper, 100*share)
		}
	}
	if share := r.busy[busyOthers]; share > 0.1 {
		fmt.Fprintf(&b, "Others used up to %.0f %% of the machine: rates and latencies mean little; CPU figures hold better.\n", 100*share)
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

// number prints v with the thousands set apart.
func number(v float64, digits int) string {
	s := strconv.FormatFloat(math.Abs(v), 'f', digits, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if v < 0 && strings.ContainsAny(s, "123456789") {
		whole = "-" + whole
	}
	return whole
}

// report is the JSON form.
type report struct {
	Environment environment        `json:"environment"`
	Figures     []figureReport     `json:"figures"`
	Errors      []trouble          `json:"errors"`
	Busy        map[string]float64 `json:"busy"` // highest shares of CPU time, see busyLoad
}

type figureReport struct {
	Key     string         `json:"key"`
	Title   string         `json:"title"`
	Unit    string         `json:"unit,omitempty"`
	Better  string         `json:"better"` // more or less
	Targets []targetReport `json:"targets"`
}

type targetReport struct {
	Name      string    `json:"name"`
	Median    float64   `json:"median"`
	Min       float64   `json:"min"`
	Max       float64   `json:"max"`
	Rounds    []float64 `json:"rounds"`
	BestPeer  string    `json:"best_peer,omitempty"`
	ToPeer    *float64  `json:"to_best_peer,omitempty"`
	ToHAProxy *float64  `json:"to_haproxy,omitempty"`
}

func (r *results) report() report {
	out := report{Environment: r.env, Figures: []figureReport{}, Errors: append([]trouble{}, r.troubles...), Busy: r.busy}
	for _, m := range r.measures {
		for _, f := range m.figures {
			fr := figureReport{Key: f.key, Title: strings.TrimSpace(f.title), Unit: f.unit, Better: "less"}
			if f.more {
				fr.Better = "more"
			}
			for _, row := range r.rows(f) {
				fr.Targets = append(fr.Targets, targetReport{Name: row.target, Median: row.median, Min: row.min, Max: row.max,
					Rounds: row.rounds, BestPeer: row.peer, ToPeer: finite(row.vsPeer), ToHAProxy: finite(row.vsHAProxy)})
			}
			if len(fr.Targets) > 0 {
				out.Figures = append(out.Figures, fr)
			}
		}
	}
	return out
}

// finite is nil for what JSON cannot say.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func (r *results) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r.report())
}
