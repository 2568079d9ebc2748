package main

import (
	"context"
	"strconv"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func newBackend(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:     "backend",
		GroupID: groupAsk,
		Short:   "List and change backends",
		Long: `Lists and changes the backends: the servers that connections go to, one row
each of the table backends in the routing database. A change takes effect at
once, and never cuts a connection that is open. The same can be done with SQL
on the file itself, while edgeproxy runs or not.` + targetHelp,
		Example: `  edgeproxy backend add sa-node-1 --app myapp --region sa --addr 10.50.1.1:8080
  edgeproxy backend list
  edgeproxy backend drain sa-node-1
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE backends SET weight=5 WHERE id='sa-node-1'"`,
	})
	t.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(newList(t), newAdd(t), newSet(t))
	cmd.AddCommand(newStateCommands(t)...)
	return cmd
}

func newList(t *target) *cobra.Command {
	return &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show", "get"},
		Short:      "List the backends",
		Long: `Lists the backends with the connections that are open through all POPs.

  state  up         takes new connections
         full       at its hard limit
         draining   serves what is open, takes no new connections
         down       every POP that checks it says so
         ejected    connects of this POP to it failed; "backend enable" ends it
         unhealthy  switched off (healthy = 0)
         expired    it registered itself, and its heartbeats have ended
         failing    its agent says so
         deleted    switched off and waiting to be forgotten (deleted = 1)
  soft   comfortable number of connections, per weight
  hard   greatest number of connections; 0 is unlimited
  why    of the state: who says so, since when

Rows that make no sense are left out, and named on stderr.`,
		Example: `  edgeproxy backend list
  edgeproxy backend list --json --db routing.db
  sqlite3 -cmd '.timeout 5000' routing.db "SELECT id, weight FROM backends"`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				l, err := pop.Backends(ctx)
				if err != nil {
					return err
				}
				for _, p := range l.Problems {
					t.cli.complain("warning: left out " + p.String())
				}
				if t.json {
					return t.cli.json(append([]api.Backend{}, l.Backends...))
				}
				return t.cli.backends(l.Backends)
			})
		},
	}
}

var stateColours = map[string]colour{"up": green, "full": yellow, "draining": yellow, "down": red, "ejected": red, "unhealthy": red, "expired": red, "failing": red, "deleted": red}

// backends prints a table for people.
func (c *cli) backends(list []api.Backend) error {
	columns := []column{{name: "id"}, {name: "app"}, {name: "region"}, {name: "addr"}, {name: "state"},
		{"connections", true}, {"weight", true}, {"soft", true}, {"hard", true}, {name: "country"}}
	rows := make([][]cell, len(list))
	for i, b := range list {
		rows[i] = []cell{
			{text: b.ID}, {text: b.App}, {text: b.Region}, {text: b.Addr}, {text: b.State, paint: stateColours[b.State]},
			{text: strconv.FormatInt(b.Connections, 10)}, {text: strconv.FormatInt(b.Weight, 10)},
			{text: strconv.FormatInt(b.SoftLimit, 10)}, {text: strconv.FormatInt(b.HardLimit, 10)}, {text: b.Country},
		}
	}
	return c.table(withWhy(columns, rows, func(i int) string { return list[i].Why }))
}

// withWhy adds a last column with reasons, where there is any.
func withWhy(columns []column, rows [][]cell, why func(i int) string) ([]column, [][]cell) {
	some := false
	for i := range rows {
		rows[i] = append(rows[i], cell{text: why(i)})
		some = some || why(i) != ""
	}
	if some {
		return append(columns, column{name: "why"}), rows
	}
	for i := range rows {
		rows[i] = rows[i][:len(columns)]
	}
	return columns, rows
}
