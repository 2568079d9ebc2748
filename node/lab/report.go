package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/edgeproxy/edgeproxy/geo"
)

// Report is what the lab saw.
type Report struct {
	Seconds     float64       `json:"seconds"`
	Node        string        `json:"node"`
	Region      string        `json:"region"`      // of the POP
	Connections int           `json:"connections"` // that were served
	Failed      int           `json:"failed"`
	FirstByte   Quantiles     `json:"first_byte_ms"` // connect to the POP until the backend's first byte
	Clients     []ClientCount `json:"clients"`       // by country
	Invariants  []Invariant   `json:"invariants"`
}

// Quantiles are in milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// ClientCount says where the clients of one country went.
type ClientCount struct {
	Country     string         `json:"country"`
	Name        string         `json:"name"`
	Region      string         `json:"region"`
	Expected    string         `json:"expected"` // region that should serve them
	Connections int            `json:"connections"`
	Backends    map[string]int `json:"backends"`
	regions     map[geo.Region]int
}

// Invariant is something that must hold, with its verdict.
type Invariant struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
}

// OK says whether every invariant held.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Invariants, func(i Invariant) bool { return !i.OK })
}

// tally collects visits.
type tally struct {
	visits  int
	failed  int
	failure error
	first   []time.Duration
	clients map[string]*ClientCount

	tried map[string]bool // countries that somebody connected from
}

func (t *tally) add(v visit, table *geo.Table, expected geo.Region) {
	t.tried[v.country] = true
	if v.err != nil {
		t.failed++
		t.failure = v.err
		return
	}
	t.visits++
	t.first = append(t.first, v.first)
	c := t.clients[v.country]
	if c == nil {
		c = &ClientCount{Country: v.country, Name: table.Name(v.country), Region: string(v.region), Expected: string(expected),
			Backends: map[string]int{}, regions: map[geo.Region]int{}}
		t.clients[v.country] = c
	}
	c.Connections++
	c.Backends[v.backend]++
	c.regions[v.served]++
}

// report judges what was collected.
func (t *tally) report() Report {
	r := Report{Connections: t.visits, Failed: t.failed}
	slices.Sort(t.first)
	if n := len(t.first); n > 0 {
		ms := func(q float64) float64 { return float64(t.first[int(q*float64(n-1))].Microseconds()) / 1000 }
		r.FirstByte = Quantiles{P50: ms(0.5), P99: ms(0.99)}
	}
	var astray []string
	for _, country := range slices.Sorted(maps.Keys(t.clients)) {
		c := t.clients[country]
		seen := *c // the traffic goes on while somebody reads the report
		seen.Backends, seen.regions = maps.Clone(c.Backends), maps.Clone(c.regions)
		r.Clients = append(r.Clients, seen)
		if n := c.Connections - c.regions[geo.Region(c.Expected)]; n > 0 {
			astray = append(astray, fmt.Sprintf("%d of %d from %s", n, c.Connections, country))
		}
	}
	slices.SortStableFunc(r.Clients, func(a, b ClientCount) int {
		return strings.Compare(a.Expected+a.Region, b.Expected+b.Region)
	})
	detail := ""
	if t.failure != nil {
		detail = fmt.Sprintf("%d failed, the last one: %v", t.failed, t.failure)
	}
	r.Invariants = []Invariant{
		{"clients of every country were served", len(t.clients) == len(t.tried), fmt.Sprintf("%d of %d", len(t.clients), len(t.tried))},
		{"every client went to its region, or to the POP's where it has none", len(astray) == 0, strings.Join(astray, ", ")},
		{"no connection failed and every echo came back intact", t.failed == 0, detail},
	}
	return r
}

// Table says who went where, for people.
func (r *Report) Table() string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CLIENT\tREGION\tCONNECTIONS\tSERVED BY")
	for _, c := range r.Clients {
		var served []string
		for _, b := range slices.Sorted(maps.Keys(c.Backends)) {
			served = append(served, fmt.Sprintf("%s %d", b, c.Backends[b]))
		}
		fmt.Fprintf(tw, "%s %s\t%s\t%d\t%s\n", c.Country, c.Name, c.Region, c.Connections, strings.Join(served, "  "))
	}
	tw.Flush()
	return b.String()
}

// Verdicts says the totals and what held, for people.
func (r *Report) Verdicts() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d connections in %.1f s, %d failed; first byte after p50 %.2f ms, p99 %.2f ms\n",
		r.Connections, r.Seconds, r.Failed, r.FirstByte.P50, r.FirstByte.P99)
	for _, i := range r.Invariants {
		verdict := "ok  "
		if !i.OK {
			verdict = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %s", verdict, i.Name)
		if i.Detail != "" {
			fmt.Fprintf(&b, " (%s)", i.Detail)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}
