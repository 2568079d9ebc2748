package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/spf13/cobra"
)

func newKeys(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:     "keys",
		GroupID: groupMesh,
		Short:   "Change the secret of a mesh while it runs",
		Long: `A mesh may accept several cluster keys, and sends with one of them. To change
the secret of a running mesh, on any one POP:

  edgeproxy keygen > new.key
  edgeproxy keys add @new.key       every POP accepts it, as it hears of it
  edgeproxy keys list               ... until all members stand beside it
  edgeproxy keys use ID             every POP sends with it
  edgeproxy keys remove OLD-ID      nobody accepts the old one any more

Put the new key into the settings of every POP afterwards. A POP that was off
comes back by itself until the old key is removed; later it needs the new one.` + runningHelp,
		Example: `  edgeproxy keys add @new.key
  edgeproxy keys list`,
	})
	t.addRunningFlags(cmd.PersistentFlags())
	force := false
	use := t.keyCommand("use ID", "Send with a key from now on", "used", &force,
		`Makes a key the one that every POP sends with. Refused while a live member does
not accept it yet; --force does it all the same, and cuts that member off.`,
		(*api.Client).UseKey)
	remove := t.keyCommand("remove ID", "Stop accepting a key", "removed", &force,
		`Stops accepting a key, on every POP. The one in use cannot be removed. Refused
while a member that is expected back has not heard of the others; --force cuts
that member off until it is started with the new key.`,
		(*api.Client).RemoveKey)
	cmd.AddCommand(t.listKeys(), t.addKey(), use, remove)
	return cmd
}

func (t *target) listKeys() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the keys that the mesh accepts",
		Long: `Lists the keys by their public names; the secrets are not shown. One
that came with the settings has a - for the time when it was ADDED. MEMBERS are
the live members that say they accept the key.`,
		Example:           `  edgeproxy keys list --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				keys, err := pop.Keys(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(keys)
				}
				var rows [][]cell
				for _, k := range keys {
					state := cell{text: "accepted"}
					if k.Primary {
						state = cell{text: "in use", paint: green}
					}
					var added cell
					if !k.Added.IsZero() {
						added.text = k.Added.UTC().Format(time.RFC3339)
					}
					rows = append(rows, []cell{{text: k.ID}, state, added, {text: strings.Join(k.Members, ",")}})
				}
				return t.cli.table([]column{{name: "id"}, {name: "state"}, {name: "added"}, {name: "members"}}, rows)
			})
		},
	}
}

func (t *target) addKey() *cobra.Command {
	return &cobra.Command{
		Use:   "add KEY|@FILE",
		Short: "Accept one more key",
		Long: `Has every POP accept one more key, as printed by "edgeproxy keygen". Prefer a
file: other users of this machine can see arguments.`,
		Example:           `  edgeproxy keys add @new.key`,
		Args:              takes("a KEY or @FILE"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			key := strings.TrimSpace(args[0])
			if path, isFile := strings.CutPrefix(key, "@"); isFile {
				text, err := config.ReadFile(path)
				if err != nil {
					return fmt.Errorf("read the key: %w", err)
				}
				key = strings.TrimSpace(string(text))
			}
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				added, err := pop.AddKey(ctx, key)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(added)
				}
				return t.cli.print(added.ID + " added\n")
			})
		},
	}
}

// keyCommand does one thing to one key.
func (t *target) keyCommand(use, short, done string, force *bool, long string, do func(*api.Client, context.Context, string, bool) error) *cobra.Command {
	verb, _, _ := strings.Cut(use, " ")
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long,
		Example:           "  edgeproxy keys " + verb + " 3f2a9c0b1d4e5f60",
		Args:              takes("an ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				if err := do(pop, ctx, args[0], *force); err != nil {
					return err
				}
				return t.done(args[0], done)
			})
		},
	}
	cmd.Flags().BoolVar(force, "force", false, "also where it cuts a member off")
	return cmd
}
