package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/edgeproxy/edgeproxy/agent"
	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/spf13/cobra"
)

// agentFlags are those of the command agent, as they stand on the command line.
type agentFlags struct {
	target                                  // for the token
	id, app, region, addr, country          string
	weight, soft, hard                      int64
	pops                                    []string
	check, checkAddr, backendCheck, proxied string
	interval                                time.Duration
}

// localCheck finds out within two seconds that a service on this machine is down.
const localCheck = "tcp interval=1s timeout=1s rise=1 fall=2"

func newAgent(c *cli) *cobra.Command {
	f := &agentFlags{target: target{cli: c}}
	cmd := &cobra.Command{
		Use:     "agent",
		GroupID: groupPOP,
		Short:   "Run beside a backend and register it",
		Long: `Runs beside a backend: registers it with a POP, checks it, and sends heartbeats.
All POPs of the mesh route to it then. While its check fails, none does; without
heartbeats it expires (EDGEPROXY_HEARTBEAT_TTL_SECS of the POPs). SIGTERM or
SIGINT takes it out again; a second signal, a moment after the first, ends it at
once.

Of several POPs one is asked, and the next where it does not answer. A backend
that the POPs have forgotten is registered anew, for as long as it takes. The
exit code is 1 where the first POP that answers refuses: the backend makes no
sense, an operator has a backend of that name, or the token is wrong.

The token is that of the POPs' API, from EDGEPROXY_API_TOKEN.`,
		Example: `  edgeproxy agent --app myapp --region us --addr 10.50.2.1:8080 --pop 10.50.0.1:8180,10.50.0.2:8180
  edgeproxy agent --id us-node-1 --app myapp --region us --addr 10.50.2.1:8080 --weight 2 --pop 10.50.0.1:8180 --check 'http path=/health interval=2s'`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.id, "id", "", "`name` of the backend (default this machine's name and the port)")
	fs.StringVar(&f.app, "app", "", "`name` of the app that it serves")
	fs.StringVar(&f.region, "region", "", "its region, a `code`")
	fs.StringVar(&f.addr, "addr", "", "its address as the POPs reach it, `ip:port`")
	fs.StringVar(&f.country, "country", "", "its country, a two-letter `code`")
	fs.Int64Var(&f.weight, "weight", 0, "its weight, a `number`")
	fs.Int64Var(&f.soft, "soft", 0, "its comfortable `number` of connections")
	fs.Int64Var(&f.hard, "hard", 0, "its greatest `number` of connections, 0 for no limit")
	fs.StringSliceVar(&f.pops, "pop", nil, "admin API of a POP, `host:port`; several separated by commas, the preferred one first")
	fs.StringVar(&f.check, "check", localCheck, "how the agent checks it, a `check` as of services, or off")
	fs.StringVar(&f.checkAddr, "check-addr", "", "where the agent checks it, `ip:port` (default its address)")
	fs.StringVar(&f.backendCheck, "health-check", "", "how the POPs check it, a `check`")
	fs.StringVar(&f.proxied, "proxy-protocol", "", "what the POPs send it before the client's bytes: `off|v1|v2`")
	fs.DurationVar(&f.interval, "interval", 0, "`time` between heartbeats, at most half the POP's TTL (default a third of it)")
	fs.StringVar(&f.token, "token", "", "`secret` of the API, or @file [EDGEPROXY_API_TOKEN]; prefer the variable, other users can see flags")
	config.AddFlags(fs, "log_level", "log_format")
	return cmd
}

func (f *agentFlags) run(cmd *cobra.Command) error {
	cfg, err := f.config(cmd)
	if err != nil {
		return err
	}
	logging, _, err := config.Load(cmd.Flags(), f.cli.only("EDGEPROXY_CONFIG", "EDGEPROXY_LOG_LEVEL", "EDGEPROXY_LOG_FORMAT"), config.ReadFile)
	if err != nil {
		return err
	}
	setLevel(logging.LogLevel)
	a, err := agent.New(cfg, f.cli.newLogger(f.cli.stderr, logging.LogFormat))
	if err != nil {
		return usageError{err}
	}
	return a.Run(untilSignal(cmd.Context()))
}

// config makes an agent's configuration of the flags.
func (f *agentFlags) config(cmd *cobra.Command) (c agent.Config, err error) {
	missing := func(flag string) error { return usagef("agent needs --%s; for example: %s", flag, firstExample(cmd)) }
	switch {
	case f.addr == "":
		return c, missing("addr")
	case !cmd.Flags().Changed("app"):
		return c, missing("app")
	case f.region == "":
		return c, missing("region")
	case len(f.pops) == 0:
		return c, missing("pop")
	}
	at, err := netip.ParseAddrPort(strings.TrimSpace(f.addr))
	if err != nil || at.Port() == 0 {
		return c, usagef("--addr: %q is not ip:port, such as 10.50.1.1:8080 or [fd00::1]:8080", f.addr)
	}
	if c.Check, err = mesh.ParseCheck(f.check); err != nil {
		return c, usagef("--check: %v", err)
	}
	if f.checkAddr != "" {
		if c.CheckAt, err = netip.ParseAddrPort(f.checkAddr); err != nil {
			return c, usagef("--check-addr: %q is not ip:port", f.checkAddr)
		}
	}
	if f.interval < 0 {
		return c, usagef("--interval: %s is less than nothing", f.interval)
	}
	id, err := f.name(at.Port())
	if err != nil {
		return c, err
	}
	token, err := f.target.config(cmd)
	if err != nil {
		return c, err
	}
	given := func(flag string, v *int64) *int64 {
		if !cmd.Flags().Changed(flag) {
			return nil
		}
		return v
	}
	text := func(v string) *string {
		if v == "" {
			return nil
		}
		return &v
	}
	c.Backend = api.Registration{
		ID: &id, App: &f.app, Region: &f.region, Addr: new(at.String()), Country: text(f.country),
		Weight: given("weight", &f.weight), SoftLimit: given("soft", &f.soft), HardLimit: given("hard", &f.hard),
		HealthCheck: text(f.backendCheck), ProxyProtocol: text(f.proxied),
	}
	c.POPs, c.Token, c.Interval = slices.Clone(f.pops), string(token.APIToken), f.interval
	return c, nil
}

// name is the backend's: as given, else of this machine and the port.
func (f *agentFlags) name(port uint16) (string, error) {
	host, err := os.Hostname()
	if f.id == "" && (err != nil || host == "") {
		return "", usagef("this machine has no name: give --id")
	}
	return cmp.Or(f.id, fmt.Sprintf("%s-%d", host, port)), nil
}
