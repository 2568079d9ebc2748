package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/edgeproxy/edgeproxy/config"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	groupPOP  = "pop"
	groupAsk  = "ask"
	groupMesh = "mesh"
)

// newRoot builds the tree of commands. The root is serve, because that is what
// the binary does when a container or a unit file gives no command.
func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "edgeproxy",
		Short: "TCP proxy for many points of presence that agree by themselves",
		Long: `edgeproxy sends TCP connections to the best of many backends: nearest region
first, then the least load. What it knows stands in a local SQLite file,
routing.db, which anybody may change at any time.

Without a command it serves: "edgeproxy --region us" is "edgeproxy serve
--region us", and "edgeproxy serve --help" lists the settings.`,
		Example: `  edgeproxy --region us --listen 127.0.0.1:8080
  edgeproxy status
  edgeproxy explain 200.160.2.3`,
		Version:       version(),
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return serve(c, cmd) },
		SilenceErrors: true, // run prints them
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("edgeproxy {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	config.AddFlags(root.Flags())
	root.Flags().VisitAll(func(f *pflag.Flag) { f.Hidden = true }) // the help of serve has them

	root.AddGroup(&cobra.Group{ID: groupPOP, Title: "Run a POP:"}, &cobra.Group{ID: groupAsk, Title: "Ask and change one:"},
		&cobra.Group{ID: groupMesh, Title: "The mesh:"})
	root.AddCommand(
		newServe(c), newAgent(c), newLab(c), newCheck(c), newHealthcheck(c), newKeygen(c),
		newBackend(c), newService(c), newExplain(c), newDNS(c), newStatus(c), newTop(c), newWatch(c), newQuery(c), newQueryWorker(c),
		newMembers(c), newLeave(c), newUpgrade(c), newKeys(c), newWG(c), newRecords(c), newBackup(c), newRestore(c),
		newVersion(c),
	)
	root.SetHelpCommand(newHelp())
	root.SetHelpFunc(helpOf(c, root.HelpFunc()))
	addCompletion(root)
	return root
}

// noCommand refuses words that are no command.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		for i := range near {
			near[i] = fmt.Sprintf("%q", cmd.CommandPath()+" "+near[i])
		}
		return usagef("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return usagef("unknown command %q; \"%s --help\" lists the commands", args[0], cmd.CommandPath())
}

// group makes cmd a command that only holds others.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = noCommand
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// takes checks the number of arguments: the words of what must be there, and
// with a last word that ends in "..." any number of more.
func takes(what ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		many := len(what) > 0 && strings.HasSuffix(what[len(what)-1], "...")
		switch {
		case len(args) < len(what):
			name := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
			return usagef("%s needs %s; for example: %s", name, strings.TrimSuffix(strings.Join(what[len(args):], " "), "..."), firstExample(cmd))
		case len(args) > len(what) && !many:
			return usagef("unexpected argument %q; \"%s --help\" shows the usage", args[len(what)], cmd.CommandPath())
		}
		return nil
	}
}

func firstExample(cmd *cobra.Command) string {
	line, _, _ := strings.Cut(strings.TrimSpace(cmd.Example), "\n")
	return line
}

// flagError makes sentences of what the flag parser says.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		kind := "a " + bad.GetFlag().Value.Type()
		switch bad.GetFlag().Value.Type() {
		case "int64", "int", "uint64":
			kind = "a whole number"
		case "duration":
			kind = "a duration, such as 20s"
		case "bool":
			kind = "true or false"
		}
		return usagef("--%s: %q is not %s", bad.GetFlag().Name, bad.GetValue(), kind)
	}
	return usageError{config.FlagError(cmd.Flags(), err)}
}

// helpOf keeps cobra, which checks no arguments beside --help, from showing the
// help of something else where a word is no command.
func helpOf(c *cli, show func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		if cmd.HasSubCommands() {
			if c.unknown = noCommand(cmd, cmd.Flags().Args()); c.unknown != nil {
				return
			}
		}
		show(cmd, args)
	}
}

// newHelp replaces cobra's, which shows the help of something else where a
// topic does not exist.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:     "help [command]",
		Short:   "Show the help of a command",
		Long:    `Shows the help of a command, as its flag --help does.`,
		Example: `  edgeproxy help backend add`,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil {
				return usageError{err}
			}
			if len(rest) > 0 {
				return noCommand(about, rest)
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}
