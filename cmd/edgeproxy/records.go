package main

import (
	"context"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func newRecords(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:        "records",
		GroupID:    groupMesh,
		SuggestFor: []string{"quarantine"},
		Short:      "Look after the records that POPs exchange",
		Long: `The rows of the routing database travel between POPs as records, each with the
time of its writes. "edgeproxy status" counts them.` + runningHelp,
		Example: `  edgeproxy records quarantine list`,
	})
	quarantine := group(&cobra.Command{
		Use:   "quarantine",
		Short: "Records from the future",
		Long: `A record whose time lies ahead of the mesh's waits here until its time has come;
its row can be written all the while. The clock of the POP that wrote it is
wrong: "edgeproxy status" there says by how much.`,
		Example: `  edgeproxy records quarantine list
  edgeproxy records quarantine drop backends/sa-node-1`,
	})
	t.addRunningFlags(cmd.PersistentFlags())
	cmd.AddCommand(quarantine)
	quarantine.AddCommand(t.listQuarantine(),
		t.quarantined("release ROW", "Take a record over now", "released",
			`Merges a record as if its time had come. Later writes to the row get later times
than it has.`, (*api.Client).Release),
		t.quarantined("drop ROW", "Forget a record", "dropped",
			`Forgets a record on this POP. Others may still hold it.`, (*api.Client).Drop))
	return cmd
}

func (t *target) listQuarantine() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the records that wait",
		Long:  `Lists the records that wait until their time has come, with who wrote them.`,
		Example: `  edgeproxy records quarantine list
  edgeproxy records quarantine list --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				all, err := pop.Quarantine(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(all)
				}
				var rows [][]cell
				for _, q := range all {
					rows = append(rows, []cell{{text: q.Row}, {text: q.Time.UTC().Format(time.RFC3339)}, {text: q.From}, {text: q.Reason}})
				}
				return t.cli.table([]column{{name: "row"}, {name: "time"}, {name: "from"}, {name: "reason"}}, rows)
			})
		},
	}
}

// quarantined does one thing to the record of one row.
func (t *target) quarantined(use, short, done, long string, do func(*api.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Example:           "  edgeproxy records quarantine " + use[:len(use)-len("ROW")] + "backends/sa-node-1",
		Args:              takes("a ROW"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				if err := do(pop, ctx, args[0]); err != nil {
					return err
				}
				return t.done(args[0], done)
			})
		},
	}
}
