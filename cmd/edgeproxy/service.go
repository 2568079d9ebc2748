package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/spf13/cobra"
)

func newService(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:        "service",
		GroupID:    groupAsk,
		SuggestFor: []string{"services", "app", "apps"},
		Short:      "List and change what holds for a whole app",
		Long: `Lists and changes the services: what holds for all backends of an app that do
not say otherwise, one row each of the table services. The same can be done with
SQL on the file itself, while edgeproxy runs or not.` + targetHelp,
		Example: `  edgeproxy service set myapp --health-check 'http path=/health interval=2s'
  edgeproxy service list
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE services SET hard_limit=200 WHERE app='myapp'"`,
	})
	t.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(newServiceList(t), newServiceSet(t), newServiceRemove(t))
	return cmd
}

func newServiceList(t *target) *cobra.Command {
	return &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show", "get"},
		Short:      "List the services",
		Long: `Lists the services. A - stands where a service says nothing: then the POP's
settings hold (health_check, panic_threshold), or the documented defaults.

  check  how its backends are checked
  panic  percent of its backends that must be up, or checks are not believed
  soft   soft limit of its backends that have none of their own
  hard   hard limit, the same
  up     backends that take new connections, of all`,
		Example: `  edgeproxy service list
  edgeproxy service list --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				all, err := pop.Services(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.cli.json(all)
				}
				return t.cli.services(all)
			})
		},
	}
}

// services prints a table for people.
func (c *cli) services(all []api.Service) error {
	columns := []column{{name: "app"}, {name: "check"}, {"panic", true}, {"soft", true}, {"hard", true}, {"up", true}}
	rows := make([][]cell, len(all))
	said := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	for i, s := range all {
		threshold := ""
		if s.PanicThreshold != nil {
			threshold = fmt.Sprintf("%d%%", *s.PanicThreshold)
		}
		up := cell{text: fmt.Sprintf("%d/%d", s.Up, s.Backends), paint: green}
		if s.Up < s.Backends {
			up.paint = yellow
		}
		if s.Up == 0 && s.Backends > 0 {
			up.paint = red
		}
		rows[i] = []cell{{text: s.App}, {text: s.HealthCheck}, {text: threshold}, {text: said(s.SoftLimit)}, {text: said(s.HardLimit)}, up}
	}
	return c.table(columns, rows)
}

// checkHelp is shared with the flag of backends.
const checkHelp = `

A health check is off, tcp or http, and behind it any of port=8081 interval=5s
timeout=2s rise=2 fall=3; with http also path=/health status=200-399 host=name.
Two POPs of the backend's region ask; it is down while all who ask say so.`

func newServiceSet(t *target) *cobra.Command {
	var check string
	var threshold, soft, hard int64
	cmd := &cobra.Command{
		Use:        "set APP",
		SuggestFor: []string{"add", "create", "update", "change"},
		Short:      "Set what holds for an app",
		Long: `Sets what the flags say and leaves the rest of the service as it is; a service
that does not exist is made. An empty check, a threshold of -1 and a limit of 0
take back what was said.` + checkHelp,
		Example: `  edgeproxy service set myapp --health-check 'http path=/health interval=2s'
  edgeproxy service set myapp --soft 50 --hard 100 --panic-threshold 50
  sqlite3 -cmd '.timeout 5000' routing.db "INSERT INTO services (app, health_check) VALUES ('myapp', 'tcp interval=2s')"`,
		Args:              takes("an APP"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	fs := cmd.Flags()
	fs.StringVar(&check, "health-check", "", "how its backends are checked, a `check`")
	fs.Int64Var(&threshold, "panic-threshold", 0, "`percent` of its backends that must be up, or checks are not believed")
	fs.Int64Var(&soft, "soft", 0, "soft limit of its backends that have none, a `number` of connections")
	fs.Int64Var(&hard, "hard", 0, "hard limit, the same")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var set api.ServicePatch
		for name, take := range map[string]func(){
			"health-check": func() { set.HealthCheck = &check }, "panic-threshold": func() { set.PanicThreshold = &threshold },
			"soft": func() { set.SoftLimit = &soft }, "hard": func() { set.HardLimit = &hard },
		} {
			if fs.Changed(name) {
				take()
			}
		}
		if set == (api.ServicePatch{}) {
			return usagef("nothing to set; for example: %s", firstExample(cmd))
		}
		return t.with(cmd, true, func(ctx context.Context, pop api.POP) error {
			s, err := pop.SetService(ctx, args[0], set)
			if fe, ok := errors.AsType[*mesh.FieldError](err); ok && fe.Field == "app" {
				return usagef("APP: %s", fe.Message)
			}
			if err != nil {
				return named(err)
			}
			if t.json {
				return t.cli.json(s)
			}
			return t.cli.print(printable(args[0]+" set") + "\n")
		})
	}
	return cmd
}

func newServiceRemove(t *target) *cobra.Command {
	return &cobra.Command{
		Use:        "remove APP",
		SuggestFor: []string{"rm", "delete", "del"},
		Short:      "Remove what is said of an app",
		Long:       `Removes a service: for its backends hold the POP's settings again. They stay.`,
		Example:    `  edgeproxy service remove myapp`,
		Args:       takes("an APP"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				if err := pop.DeleteService(ctx, args[0]); err != nil {
					return err
				}
				return t.cli.print(printable(args[0]+" removed") + "\n")
			})
		},
	}
}
