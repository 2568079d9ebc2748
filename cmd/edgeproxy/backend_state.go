package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

// newStateCommands are the commands that do one thing to each of several backends.
func newStateCommands(t *target) []*cobra.Command {
	enable := &cobra.Command{
		Use:        "enable ID...",
		SuggestFor: []string{"start", "on", "undrain"},
		Short:      "Let backends take new connections",
		Long: `Switches backends on: sets healthy, ends a drain, and takes back a deleted mark.
Several IDs may be given; one that fails does not keep the others back.`,
		Example: `  edgeproxy backend enable sa-node-1 sa-node-2
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE backends SET healthy=1 WHERE region='sa'"`,
	}
	disable := &cobra.Command{
		Use:        "disable ID...",
		SuggestFor: []string{"stop", "off"},
		Short:      "Switch backends off",
		Long: `Switches backends off (healthy = 0): new connections go elsewhere, also those of
clients that were bound to them. Connections that are open stay open.`,
		Example: `  edgeproxy backend disable sa-node-1
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE backends SET healthy=0 WHERE region='sa'"`,
	}
	drain := &cobra.Command{
		Use:   "drain ID...",
		Short: "Let backends finish and take nothing new",
		Long: `Drains backends before maintenance: new connections go elsewhere, open ones
finish. "edgeproxy backend list" shows how many are left; "enable" or --off ends
the drain.`,
		Example: `  edgeproxy backend drain sa-node-1
  edgeproxy backend drain --off sa-node-1`,
	}
	remove := &cobra.Command{
		Use:        "remove ID...",
		SuggestFor: []string{"rm", "delete", "del"},
		Short:      "Remove backends",
		Long: `Removes backends from the routing database. Connections that are open stay open;
drain first and wait for them if that matters.`,
		Example: `  edgeproxy backend remove sa-node-1
  sqlite3 -cmd '.timeout 5000' routing.db "DELETE FROM backends WHERE id='sa-node-1'"`,
	}

	off := drain.Flags().Bool("off", false, "end the drain instead")
	enable.RunE = t.update("enabled", func() api.Patch {
		return api.Patch{Healthy: new(true), Draining: new(false), Deleted: new(false)}
	})
	disable.RunE = t.update("disabled", func() api.Patch { return api.Patch{Healthy: new(false)} })
	drain.RunE = t.update("changed", func() api.Patch { return api.Patch{Draining: new(!*off)} })
	remove.RunE = t.remove

	all := []*cobra.Command{enable, disable, drain, remove}
	for _, cmd := range all {
		cmd.Args = takes("an ID...")
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	return all
}

// update applies one patch to every backend named.
func (t *target) update(done string, set func() api.Patch) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, ids []string) error {
		return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
			changed := []api.Backend{}
			err := each(ids, func(id string) error {
				b, err := pop.UpdateBackend(ctx, id, set())
				if err != nil {
					return named(err)
				}
				changed = append(changed, b)
				if t.json {
					return nil
				}
				return t.report(b, done, nil)
			})
			if t.json {
				err = errors.Join(t.cli.json(changed), err)
			}
			return err
		})
	}
}

func (t *target) remove(cmd *cobra.Command, ids []string) error {
	return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
		removed := []string{}
		err := each(ids, func(id string) error {
			if err := pop.DeleteBackend(ctx, id); err != nil {
				return named(err)
			}
			removed = append(removed, id)
			if t.json {
				return nil
			}
			_, err := fmt.Fprintln(t.cli.stdout, printable(id+" removed"))
			return err
		})
		if t.json {
			err = errors.Join(t.cli.json(removed), err)
		}
		return err
	})
}

// each does it for every id once, and collects what fails.
func each(ids []string, do func(id string) error) error {
	var errs []error
	seen := make([]string, 0, len(ids))
	for _, id := range ids {
		if slices.Contains(seen, id) {
			continue
		}
		seen = append(seen, id)
		errs = append(errs, do(id))
	}
	return errors.Join(errs...)
}
