package main

import (
	"context"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

func newMembers(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:        "members",
		GroupID:    groupMesh,
		SuggestFor: []string{"nodes", "pops", "peers"},
		Short:      "List the POPs of the mesh",
		Long: `Lists the members of the mesh as one POP sees them.

  status  alive    answers
          leaving  said that it will go
          left     has gone after it said so
          failed   does not answer; back as soon as it does
  rtt     round trip from the POP asked, by network coordinates` + runningHelp,
		Example: `  edgeproxy members
  edgeproxy members --json --api 10.50.0.1:8180
  edgeproxy members forget us-0badcafe`,
		Args:              noCommand,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				all, err := pop.Members(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return c.json(all)
				}
				return c.members(all)
			})
		},
	}
	t.addRunningFlags(cmd.PersistentFlags())
	cmd.AddCommand(&cobra.Command{
		Use:   "forget NODE",
		Short: "Forget a POP that will not come back",
		Long: `Removes a failed or left member from the mesh, on every POP: nobody waits for it
any more, and its name may be taken by another machine. A POP that is alive is
not forgotten; stop it first, or use "edgeproxy leave" on it.`,
		Example:           `  edgeproxy members forget us-0badcafe`,
		Args:              takes("a NODE"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				if err := pop.Forget(ctx, args[0]); err != nil {
					return err
				}
				return t.done(args[0], "forgotten")
			})
		},
	})
	return cmd
}

var statusColours = map[string]colour{"alive": green, "leaving": yellow, "left": yellow, "failed": red}

// members prints a table for people.
func (c *cli) members(all []api.Member) error {
	columns := []column{{name: "name"}, {name: "region"}, {name: "addr"}, {name: "status"}, {"rtt", true}, {name: "version"}}
	rows := make([][]cell, len(all))
	for i, m := range all {
		rows[i] = []cell{{text: m.Name}, {text: m.Region}, {text: m.Addr}, {text: m.Status, paint: statusColours[m.Status]}, {text: milliseconds(m.RTT)}, {text: m.Tags["version"]}}
	}
	return c.table(columns, rows)
}

func newLeave(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:     "leave",
		GroupID: groupMesh,
		Short:   "Take a POP out of the mesh",
		Long: `Tells the other POPs that this one goes for good, then drains and ends it: open
connections may finish for --drain-secs. Nobody waits for it any more. SIGTERM
is for a restart: the others then expect the POP back.` + runningHelp,
		Example: `  edgeproxy leave
  edgeproxy leave --api 10.50.0.1:8180 --token @token`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				if err := pop.Leave(ctx); err != nil {
					return err
				}
				return c.print("leaving: it ends when its connections have\n")
			})
		},
	}
	t.addAPIFlags(cmd.Flags(), "db_path")
	return cmd
}
