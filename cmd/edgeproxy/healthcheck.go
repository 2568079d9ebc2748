package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newHealthcheck(c *cli) *cobra.Command {
	t := &target{cli: c}
	var alive bool
	cmd := &cobra.Command{
		Use:     "healthcheck",
		GroupID: groupPOP,
		Short:   "Exit with 0 if a running POP takes traffic",
		Long: `Asks a running POP whether it is ready for traffic, and exits with 1 and the
reasons if it is not: it starts, drains, or cannot read its database. Made for
container engines, so it needs no shell, no curl and no token. With --alive it
asks only whether the process answers. It gives up after 10 seconds.

The POP asked is the one at --api, else the one that runs here: its address
stands in routing.db.pop, beside the database (EDGEPROXY_DB_PATH).`,
		Example: `  edgeproxy healthcheck
  edgeproxy healthcheck --alive --api 127.0.0.1:8180`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pop, err := t.find(cmd)
			if err != nil {
				return err
			}
			defer pop.Close()
			if alive {
				if err := pop.Health(cmd.Context()); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.stdout, "alive")
				return err
			}
			ready, reasons, err := pop.Ready(cmd.Context())
			if err != nil {
				return err
			}
			if !ready {
				return notReady(reasons)
			}
			_, err = fmt.Fprintln(c.stdout, "ready")
			return err
		},
	}
	t.addAPIFlags(cmd.Flags())
	cmd.Flags().BoolVar(&alive, "alive", false, "ask whether the process is alive, not whether it takes traffic")
	return cmd
}

// notReady has one line for each reason.
func notReady(reasons []string) error {
	var errs []error
	for _, r := range reasons {
		errs = append(errs, errors.New("not ready: "+r))
	}
	if errs == nil {
		return errors.New("not ready")
	}
	return errors.Join(errs...)
}
