package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func newStatus(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:     "status",
		GroupID: groupAsk,
		Short:   "Show how a POP is doing",
		Long: `Shows a POP: its name and region, whether it is ready and if not why, the
addresses in use, open connections, clients bound to a backend, backends and
how many of them take new connections, and the country database; of the mesh the
members, the records (two POPs that hold the same print the same digest) and the
streams to the other POPs; addresses at which a POP of the mesh cannot listen for
a service. Rows of the database that make no sense stand at the end. Exit code 0 also when the POP is
not ready; "edgeproxy healthcheck" is for that.` + targetHelp,
		Example: `  edgeproxy status
  edgeproxy status --json --api 10.50.0.1:8180 --token @token`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				st, err := pop.Status(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return c.json(st)
				}
				return c.pairs(statusLines(st, time.Now()))
			})
		},
	}
	t.addFlags(cmd.Flags())
	return cmd
}

func statusLines(st api.Status, now time.Time) [][2]string {
	lines := [][2]string{
		{"node", st.Node},
		{"region", st.Region},
		{"backends", backendCounts(st.Backends)},
		{"countries", fmt.Sprintf("%s, built %s", st.Geo.Source, st.Geo.Built.UTC().Format(time.DateOnly))},
		{"database", st.DB},
	}
	if !st.Started.IsZero() { // else a file was asked, which has none of this
		ready := "yes"
		if !st.Ready {
			ready = "no: " + strings.Join(st.Reasons, "; ")
		}
		lines = append(lines,
			[2]string{"ready", ready},
			[2]string{"connections", fmt.Sprint(st.Connections)},
			[2]string{"bindings", fmt.Sprint(st.Bindings)},
			[2]string{"listen", st.Listen},
			[2]string{"api", st.API},
			[2]string{"dns", cmp.Or(st.DNS, "off")},
			[2]string{"version", st.Version},
			[2]string{"started", fmt.Sprintf("%s, %s ago", st.Started.UTC().Format(time.RFC3339), now.Sub(st.Started).Truncate(time.Second))},
		)
	}
	lines = append(lines, meshLines(st)...)
	for _, c := range st.Certs {
		text := fmt.Sprintf("%s: %s, until %s", c.File, strings.Join(c.Names, " "), c.NotAfter.UTC().Format(time.DateOnly))
		if c.Problem != "" {
			text = c.File + ": " + c.Problem
		}
		lines = append(lines, [2]string{"certificate", text})
	}
	for _, f := range st.Faults {
		lines = append(lines, [2]string{"fault", f.String()})
	}
	for _, p := range st.Problems {
		lines = append(lines, [2]string{"left out", p.String()})
	}
	return lines
}

// backendCounts is how many backends there are, and of which kinds, where there are any.
func backendCounts(c api.BackendCounts) string {
	text := fmt.Sprintf("%d, %d up", c.Total, c.Up)
	if c.Registered > 0 {
		text += fmt.Sprintf(", %d registered themselves", c.Registered)
	}
	if c.Expired > 0 {
		text += fmt.Sprintf(", %d expired", c.Expired)
	}
	if c.Failing > 0 {
		text += fmt.Sprintf(", %d failing", c.Failing)
	}
	return text
}

// meshLines are the lines about the other POPs.
func meshLines(st api.Status) [][2]string {
	if st.Started.IsZero() {
		return nil
	}
	count := map[string]int{}
	for _, m := range st.Members {
		count[m.Status]++
	}
	members := fmt.Sprintf("%d alive", count["alive"])
	for _, status := range []string{"leaving", "left", "failed"} {
		if count[status] > 0 {
			members += fmt.Sprintf(", %d %s", count[status], status)
		}
	}
	r := st.Records
	records := fmt.Sprintf("%d rows, digest %s", r.Rows, r.Digest)
	for _, part := range []struct {
		n    int
		what string
	}{{int(r.Missing), "missing"}, {r.Quarantined, "in quarantine"}, {r.Tombstones, "deleted"}} {
		if part.n > 0 {
			records += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	lines := [][2]string{{"members", members}, {"records", records}}
	if st.Waiting != "" {
		lines = append(lines, [2]string{"waiting", st.Waiting})
	}
	if st.Error != "" {
		lines = append(lines, [2]string{"unsent", st.Error})
	}
	if st.Overlay != "" {
		lines = append(lines, [2]string{"overlay", st.Overlay})
	}
	if st.Offset > 100 || st.Offset < -100 {
		lines = append(lines, [2]string{"clock", fmt.Sprintf("%.0f ms beside the mesh's", -st.Offset)})
	}
	for _, p := range st.Peers {
		text := fmt.Sprintf("%s: connected, %.0f ms behind, %d queued", p.Node, p.Lag, p.Queued)
		if !p.Connected {
			text = fmt.Sprintf("%s: not connected, %d queued", p.Node, p.Queued)
			if p.Error != "" {
				text += ": " + p.Error
			}
		}
		lines = append(lines, [2]string{"stream", text})
	}
	for _, repair := range st.Repairs {
		lines = append(lines, [2]string{"mended", repair})
	}
	return lines
}
