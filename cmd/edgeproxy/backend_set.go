package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// backendFlags are the fields of a backend as flags of add and set.
type backendFlags struct {
	fs                         *pflag.FlagSet
	app, region, addr, country string
	check, proxy               string
	weight, soft, hard         int64
	disabled                   bool
}

const limitsHelp = `

Limits are numbers of connections. A backend is the better filled the nearer
its connections are to soft limit x weight, and takes none beyond its hard
limit, not even from clients that it served before.` + checkHelp

func newAdd(t *target) *cobra.Command {
	f := &backendFlags{}
	cmd := &cobra.Command{
		Use:        "add ID",
		SuggestFor: []string{"create", "new", "insert"},
		Short:      "Add a backend",
		Long: `Adds a backend under a new ID, a name of up to 255 bytes. It takes connections at
once, unless --disabled. With --db, a database file that does not exist is
created.` + limitsHelp,
		Example: `  edgeproxy backend add sa-node-1 --app myapp --region sa --addr 10.50.1.1:8080 --weight 2 --soft 50 --hard 100
  edgeproxy backend add us-1 --region us --addr '[fd00::1]:8080' --db routing.db
  sqlite3 -cmd '.timeout 5000' routing.db "INSERT INTO backends VALUES ('eu-1','myapp','eu','10.50.3.1',8080,1,2,50,100,0)"`,
		Args:              takes("an ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.region == "" || f.addr == "" {
				return usagef("backend add needs --region and --addr; for example: %s", firstExample(cmd))
			}
			return t.with(cmd, true, func(ctx context.Context, pop api.POP) error {
				set := f.patch()
				set.ID = &args[0]
				b, err := pop.CreateBackend(ctx, set)
				return t.report(b, "added", named(err))
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func newSet(t *target) *cobra.Command {
	f := &backendFlags{}
	cmd := &cobra.Command{
		Use:        "set ID",
		SuggestFor: []string{"update", "change", "edit"},
		Short:      "Change a backend",
		Long:       `Changes what the flags say, and leaves the rest of the backend as it is.` + limitsHelp,
		Example: `  edgeproxy backend set sa-node-1 --weight 5
  edgeproxy backend set sa-node-1 --addr 10.50.1.9:8080 --soft 100 --hard 0
  sqlite3 -cmd '.timeout 5000' routing.db "UPDATE backends SET weight=5 WHERE id='sa-node-1'"`,
		Args:              takes("an ID"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			set := f.patch()
			if set == (api.Patch{}) {
				return usagef("nothing to set; for example: %s", firstExample(cmd))
			}
			return t.with(cmd, false, func(ctx context.Context, pop api.POP) error {
				b, err := pop.UpdateBackend(ctx, args[0], set)
				return t.report(b, "changed", named(err))
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (f *backendFlags) add(fs *pflag.FlagSet) {
	f.fs = fs
	fs.StringVar(&f.app, "app", "", "app that it belongs to, a `name` (default none)")
	fs.StringVar(&f.region, "region", "", "region it stands in, a `code` such as sa, us, eu or ap")
	fs.StringVar(&f.addr, "addr", "", "where it listens, `ip:port`")
	fs.StringVar(&f.country, "country", "", "country it stands in, a two-letter `code`, for people only")
	fs.StringVar(&f.check, "health-check", "", "how it is checked, a `check`; empty: as its service says")
	fs.StringVar(&f.proxy, "proxy-protocol", "", "what it is sent before the client's bytes, a PROXY `version` off, v1 or v2; empty: as its service says")
	fs.Int64Var(&f.weight, "weight", 1, "share of the load compared to others, a `number`")
	fs.Int64Var(&f.soft, "soft", 100, "comfortable `number` of connections, per weight")
	fs.Int64Var(&f.hard, "hard", 0, "greatest `number` of connections, 0 for no limit")
	fs.BoolVar(&f.disabled, "disabled", false, "switch it off (healthy = 0); --disabled=false switches it on")
}

// patch is what was given on the command line, and nothing else.
func (f *backendFlags) patch() api.Patch {
	var set api.Patch
	healthy := !f.disabled
	takeGiven(f.fs, map[string]func(){
		"app": func() { set.App = &f.app }, "region": func() { set.Region = &f.region },
		"addr": func() { set.Addr = &f.addr }, "country": func() { set.Country = &f.country },
		"health-check": func() { set.HealthCheck = &f.check }, "proxy-protocol": func() { set.ProxyProtocol = &f.proxy },
		"weight": func() { set.Weight = &f.weight }, "soft": func() { set.SoftLimit = &f.soft },
		"hard": func() { set.HardLimit = &f.hard }, "disabled": func() { set.Healthy = &healthy },
	})
	return set
}

// takeGiven takes what was given on the command line, by the names of the flags.
func takeGiven(fs *pflag.FlagSet, take map[string]func()) {
	for name, f := range take {
		if fs.Changed(name) {
			f()
		}
	}
}

// flagOf is the flag that sets a field, where their names differ.
var flagOf = map[string]string{
	"id": "ID", "wg_ip": "--addr", "port": "--addr", "ip": "--addr",
	"soft_limit": "--soft", "hard_limit": "--hard", "healthy": "--disabled",
}

// named says an error of a field with the name that the command line has for it.
func named(err error) error {
	fe, ok := errors.AsType[*mesh.FieldError](err)
	if !ok {
		return err
	}
	return usagef("%s: %s", cmp.Or(flagOf[fe.Field], "--"+strings.ReplaceAll(fe.Field, "_", "-")), fe.Message)
}

// report says what became of a backend.
func (t *target) report(b api.Backend, done string, err error) error {
	switch {
	case err != nil:
		return err
	case t.json:
		return t.cli.json(b)
	}
	_, err = fmt.Fprintln(t.cli.stdout, printable(fmt.Sprintf("%s %s: %s, %s, %s", b.ID, done, b.Region, b.Addr, b.State)))
	return err
}
