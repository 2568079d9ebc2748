package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Table is the live picture, for people: backends with the load of the mesh,
// who goes where by region, figures, and last the countries, which may not all
// fit on a screen.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "edgeproxy lab  %.0f s  %d served, %d failed\n", r.Seconds, r.Connections, r.Failed)
	fmt.Fprintf(&b, "added by the proxy p50 %.2f ms p99 %.2f ms    a write reaches another POP in p50 %.1f ms p99 %.1f ms\n\n",
		r.Added.P50, r.Added.P99, r.Propagation.P50, r.Propagation.P99)
	r.popTable(&b)
	r.backendTable(&b)
	r.countryTable(&b)
	return b.String()
}

func (r *Report) popTable(b *strings.Builder) {
	for _, p := range r.POPs {
		state := ""
		if p.Cut {
			state = " CUT OFF"
		}
		fmt.Fprintf(b, "%s %d%s   ", p.Name, p.Connections, state)
	}
	fmt.Fprint(b, "(connections)\n\n")
}

// backendTable has a row for each backend, and in it which regions its clients are in.
func (r *Report) backendTable(b *strings.Builder) {
	from := map[string]map[string]int{} // by backend and the client's region
	seen := map[string]bool{}
	for _, c := range r.Clients {
		seen[c.Region] = true
		for id, n := range c.Backends {
			if from[id] == nil {
				from[id] = map[string]int{}
			}
			from[id][c.Region] += n
		}
	}
	columns := slices.SortedFunc(maps.Keys(seen), func(a, b string) int {
		return strings.Compare(fmt.Sprint(place(a), a), fmt.Sprint(place(b), b))
	})
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(tw, "BACKEND\tSTATE\tWEIGHT\tLOAD\t")
	for _, region := range columns {
		fmt.Fprintf(tw, "FROM %s\t", strings.ToUpper(region))
	}
	fmt.Fprintln(tw)
	for _, n := range r.Backends {
		fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t", n.ID, n.State, n.Weight, n.Load)
		for _, region := range columns {
			fmt.Fprintf(tw, "%d\t", from[n.ID][region])
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	fmt.Fprintln(b)
}

func (r *Report) countryTable(b *strings.Builder) {
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CLIENT\tREGION\tCONNECTIONS\tSERVED BY")
	for _, c := range r.Clients {
		var served []string
		for _, id := range slices.Sorted(maps.Keys(c.Backends)) {
			served = append(served, fmt.Sprintf("%s %d", id, c.Backends[id]))
		}
		fmt.Fprintf(tw, "%s %s\t%s\t%d\t%s\n", c.Country, c.Name, c.Region, c.Connections, strings.Join(served, "  "))
	}
	tw.Flush()
}

// Verdicts says the totals and what held, for people.
func (r *Report) Verdicts() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%d connections in %.1f s, %d failed, the first after %.0f ms; seed %d\n", r.Connections, r.Seconds, r.Failed, r.Up, r.Seed)
	fmt.Fprintf(&b, "added by the proxy: p50 %.2f ms, p99 %.2f ms (%d pairs); propagation of a write: p50 %.1f ms, p99 %.1f ms (%d)\n",
		r.Added.P50, r.Added.P99, r.Added.Samples, r.Propagation.P50, r.Propagation.P99, r.Propagation.Samples)
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
	for _, p := range r.NotPlayed {
		fmt.Fprintf(&b, "not played: %s\n", p)
	}
	if r.Interrupted {
		fmt.Fprintln(&b, "interrupted: this is what was seen until then")
	}
	return b.String()
}
