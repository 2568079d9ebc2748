package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/spf13/cobra"
)

func newCheck(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check",
		GroupID: groupPOP,
		Short:   "Say what is wrong with settings, database and country file",
		Long: `Reads the settings as serve would (flags, environment, YAML file), the routing
database and the country database, and prints one line for each problem:

  where: what is wrong and what to do

and what the POP that runs on the database, if one does, found there and mended.

Exit code 2 if there are any problems. Nothing is written, and a running POP is not
disturbed. Variables that mean nothing are warnings on stderr only.`,
		Example: `  edgeproxy check
  edgeproxy check --config /etc/edgeproxy/edgeproxy.yaml && systemctl reload edgeproxy`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return check(c, cmd) },
	}
	config.AddFlags(cmd.Flags())
	return cmd
}

func check(c *cli, cmd *cobra.Command) error {
	cfg, warnings, err := config.Load(cmd.Flags(), c.environ, config.ReadFile)
	for _, w := range warnings {
		c.complain("warning: " + w)
	}
	var lines []string
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, p := range problems {
			lines = append(lines, p.String())
		}
	} else if err != nil {
		return err
	} else {
		for _, f := range node.Check(cmd.Context(), cfg) {
			lines = append(lines, f.Where+": "+f.Problem)
		}
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(c.stdout, printable(line)); err != nil {
			return err
		}
	}
	for _, what := range mended(cmd.Context(), cfg) {
		if _, err := fmt.Fprintln(c.stdout, printable("mended already: "+what)); err != nil {
			return err
		}
	}
	if len(lines) > 0 {
		return errFindings
	}
	_, err = fmt.Fprintf(c.stdout, "ok: %s, %s, %s\n",
		cmp.Or(cfg.File, "settings"), cfg.DBPath, cmp.Or(cfg.GeoIPPath, "embedded country database"))
	return err
}

// mended asks the POP that runs on the database what its checks have found.
// None may run, or be one that does not answer us: then there is nothing to add.
func mended(ctx context.Context, cfg *config.Config) []string {
	if cfg == nil {
		return nil
	}
	pop, err := readPop(cfg.DBPath + ".pop")
	if err != nil {
		return nil
	}
	client, err := api.Dial(pop.API, string(cfg.APIToken))
	if err != nil {
		return nil
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := client.Status(ctx)
	if err != nil || st.Node != pop.Node {
		return nil
	}
	return st.Repairs
}
