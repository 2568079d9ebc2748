package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newService(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := group(&cobra.Command{
		Use:        "service",
		GroupID:    groupAsk,
		SuggestFor: []string{"services", "app", "apps"},
		Short:      "Apps: where all POPs listen for them, and what holds for their backends",
		Long: `Lists and changes the services, one row each of the table services: at which
addresses every POP listens for an app, and what holds for all of its backends
that do not say otherwise. The same can be done with SQL on the file itself, while
edgeproxy runs or not.` + targetHelp,
		Example: `  edgeproxy service add web --listen :443 --mode tls-passthrough --sni www.example.com,*.shop.example.com
  edgeproxy service set web --health-check 'http path=/health interval=2s'
  edgeproxy service list
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE services SET hard_limit=200 WHERE app='web'"`,
	})
	t.addFlags(cmd.PersistentFlags())
	cmd.AddCommand(newServiceList(t), newServiceAdd(t), newServiceSet(t), newServiceRemove(t))
	return cmd
}

func newServiceList(t *target) *cobra.Command {
	return &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show", "get"},
		Short:      "List the services",
		Long: `Lists the services. A - stands where a service says nothing: then the POP's
settings hold (check, panic), or the documented defaults.

  listen   where every POP listens for it
  mode     what is done there: tcp, tls-passthrough or tls-terminate
  sni      names by which TLS clients ask for it
  check    how its backends are checked
  panic    percent of its backends that must be up, or checks are not believed
  soft     soft limit of its backends that have none of their own
  hard     hard limit of its backends that have none of their own
  conns    open now through this POP's listeners for it
  up       backends that take new connections, of all
  faults   POPs that cannot listen for it; "edgeproxy status" says why
  options  what else its row says: alpn, proxy_protocol, affinity_ttl,
           connect_timeout, idle_timeout and max_connections`,
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
	columns := []column{{name: "app"}, {name: "listen"}, {name: "mode"}, {name: "sni"}, {name: "check"}, {"panic", true}, {"soft", true}, {"hard", true}, {"conns", true}, {"up", true}, {name: "faults"}, {name: "options"}}
	rows := make([][]cell, len(all))
	said := func(n int64) string {
		if n == 0 {
			return ""
		}
		return strconv.FormatInt(n, 10)
	}
	for i, s := range all {
		threshold, mode, open := "", "", ""
		if s.PanicThreshold != nil {
			threshold = fmt.Sprintf("%d%%", *s.PanicThreshold)
		}
		if len(s.Listen) > 0 {
			mode, open = s.Mode, strconv.FormatInt(s.Connections, 10)
		}
		up := cell{text: fmt.Sprintf("%d/%d", s.Up, s.Backends), paint: green}
		if s.Up < s.Backends {
			up.paint = yellow
		}
		if s.Up == 0 && s.Backends > 0 {
			up.paint = red
		}
		var pops []string
		for _, f := range s.Faults {
			if !slices.Contains(pops, f.POP) {
				pops = append(pops, f.POP)
			}
		}
		rows[i] = []cell{{text: s.App}, {text: strings.Join(s.Listen, ",")}, {text: mode}, {text: strings.Join(s.SNI, ",")}, {text: s.HealthCheck}, {text: threshold},
			{text: said(s.SoftLimit)}, {text: said(s.HardLimit)}, {text: open}, up, {text: strings.Join(pops, ","), paint: red}, {text: serviceOptions(s)}}
	}
	return c.table(columns, rows)
}

// serviceOptions are what a row says and few rows say, those alone.
func serviceOptions(s api.Service) string {
	var said []string
	option := func(is bool, name string, value any) {
		if is {
			said = append(said, fmt.Sprintf("%s=%v", name, value))
		}
	}
	option(len(s.ALPN) > 0, "alpn", strings.Join(s.ALPN, ","))
	option(s.ProxyProtocol != "" && s.ProxyProtocol != "off", "proxy_protocol", s.ProxyProtocol)
	if s.AffinityTTL != nil {
		option(true, "affinity_ttl", fmt.Sprintf("%ds", *s.AffinityTTL))
	}
	option(s.ConnectTimeout != 0, "connect_timeout", fmt.Sprintf("%dms", s.ConnectTimeout))
	option(s.IdleTimeout != 0, "idle_timeout", fmt.Sprintf("%ds", s.IdleTimeout))
	option(s.MaxConnections != 0, "max_connections", s.MaxConnections)
	return strings.Join(said, " ")
}

// checkHelp is shared with the flag of backends.
const checkHelp = `

A health check is off, tcp or http, and behind it any of port=8081 interval=5s
timeout=2s rise=2 fall=3; with http also path=/health status=200-399 host=name.
Two POPs of the backend's region ask; it is down while all who ask say so.`

const serviceHelp = `

With --mode tls-passthrough or tls-terminate any number of services share an
address: clients name whom they want (SNI), in full or by a *.example.com, which
stands for one label; * is everybody else, also who names nobody. The former
leaves the handshake to the backend; for the latter each POP has certificates in
its --cert-dir.`

// serviceFlags are those of a service's row; patch is what of them was given.
func serviceFlags(fs *pflag.FlagSet) (patch func() api.ServicePatch) {
	var set api.ServicePatch
	take := map[string]func(){}
	text := func(name, help string, to **string) {
		v := fs.String(name, "", help)
		take[name] = func() { *to = v }
	}
	number := func(name, help string, to **int64) {
		v := fs.Int64(name, 0, help)
		take[name] = func() { *to = v }
	}
	text("listen", "where every POP listens for it, separated by commas: `addresses` such as :443 or 192.0.2.1:443", &set.Listen)
	text("mode", "what is done there: `mode` tcp, tls-passthrough or tls-terminate", &set.Mode)
	text("sni", "`names` by which TLS clients ask for it, separated by commas", &set.SNI)
	text("alpn", "`protocols` that tls-terminate offers, separated by commas: h2,http/1.1", &set.ALPN)
	text("proxy-protocol", "what its backends are sent first: `version` off, v1 or v2", &set.ProxyProtocol)
	number("affinity-ttl", "`seconds` for which a client keeps its backend; 0: it does not; -1: as the POP says", &set.AffinityTTL)
	number("connect-timeout-ms", "how long one connect to a backend may take, in `milliseconds`", &set.ConnectTimeout)
	number("idle-timeout-secs", "after how many `seconds` without a byte a connection ends", &set.IdleTimeout)
	number("max-connections", "`number` of connections open at a time through one POP; more are reset", &set.MaxConnections)
	text("health-check", "how its backends are checked, a `check`", &set.HealthCheck)
	number("panic-threshold", "`percent` of its backends that must be up, or checks are not believed", &set.PanicThreshold)
	number("soft", "soft limit of its backends that have none of their own, a `number` of connections", &set.SoftLimit)
	number("hard", "hard limit of its backends that have none of their own, a `number` of connections", &set.HardLimit)
	return func() api.ServicePatch {
		takeGiven(fs, take)
		return set
	}
}

func newServiceAdd(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "add APP",
		SuggestFor: []string{"create", "new"},
		Short:      "Have all POPs listen for an app",
		Long:       `Adds a service; one that exists is not changed.` + serviceHelp + checkHelp,
		Example: `  edgeproxy service add web --listen :443 --mode tls-passthrough --sni www.example.com
  edgeproxy service add db --listen :5432 --proxy-protocol v2 --affinity-ttl 0`,
	}
	return serviceCommand(t, cmd, "added", true)
}

func newServiceSet(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "set APP",
		SuggestFor: []string{"update", "change"},
		Short:      "Set what holds for an app",
		Long: `Sets what the flags say and leaves the rest of the service as it is; a service
that does not exist is made. An empty text, a threshold or TTL of -1 and any other
number of 0 take back what was said. Connections that are open go on as they began.` + serviceHelp + checkHelp,
		Example: `  edgeproxy service set myapp --health-check 'http path=/health interval=2s'
  edgeproxy service set myapp --soft 50 --hard 100 --panic-threshold 50
  sqlite3 -cmd '.timeout 5000' routing.db "INSERT INTO services (app, health_check) VALUES ('myapp', 'tcp interval=2s')"`,
	}
	return serviceCommand(t, cmd, "set", false)
}

func serviceCommand(t *target, cmd *cobra.Command, done string, isNew bool) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = takes("an APP"), cobra.NoFileCompletions
	patch := serviceFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set := patch()
		if set == (api.ServicePatch{}) {
			return usagef("nothing to set; for example: %s", firstExample(cmd))
		}
		set.New = isNew
		return t.with(cmd, true, func(ctx context.Context, pop api.POP) error {
			s, err := pop.SetService(ctx, args[0], set)
			if err != nil {
				return namedService(err)
			}
			if t.json {
				return t.cli.json(s)
			}
			return t.cli.print(printable(args[0]+" "+done) + "\n")
		})
	}
	return cmd
}

// namedService is named for commands whose argument is the app.
func namedService(err error) error {
	if fe, ok := errors.AsType[*mesh.FieldError](err); ok && fe.Field == "app" {
		return usagef("APP: %s", fe.Message)
	}
	return named(err)
}

func newServiceRemove(t *target) *cobra.Command {
	return &cobra.Command{
		Use:        "remove APP",
		SuggestFor: []string{"rm", "delete", "del"},
		Short:      "Remove what is said of an app",
		Long: `Removes a service: no POP listens for it any more, and for its backends hold
the POP's settings again. They stay, as do connections that are open.`,
		Example: `  edgeproxy service remove myapp`,
		Args:    takes("an APP"), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				if err := pop.DeleteService(ctx, args[0]); err != nil {
					return namedService(err)
				}
				return t.done(args[0], "removed")
			})
		},
	}
}
