package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/config"
	"github.com/edgeproxy/edgeproxy/node"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// target is the POP that a command talks to: the one at --api, else the file
// of --db, else the one whose address stands beside the database.
type target struct {
	cli        *cli
	api, token string
	json       bool
}

const targetHelp = `

The POP asked is the one at --api, else the database file given as --db (no
edgeproxy needs to run), else the one that runs here: its address stands in
routing.db.pop, beside the database (EDGEPROXY_DB_PATH).`

// addFlags adds the flags of commands that ask a POP or a file.
func (t *target) addFlags(fs *pflag.FlagSet) {
	t.addAPIFlags(fs, "db_path")
	fs.Lookup("db").Usage = "work on this database file, whether edgeproxy runs or not"
	addJSON(fs, &t.json)
}

// addAPIFlags adds the flags of commands that ask a running POP, and those of
// more settings.
func (t *target) addAPIFlags(fs *pflag.FlagSet, settings ...string) {
	fs.StringVar(&t.api, "api", "", "admin API of the POP, `host:port` or URL (default the one that runs here)")
	fs.StringVar(&t.token, "token", "", "`secret` of that API, or @file [EDGEPROXY_API_TOKEN]; prefer the variable, other users can see flags")
	config.AddFlags(fs, append(settings, "config")...)
	fs.Lookup("config").Usage = "YAML file of the POP that runs here [EDGEPROXY_CONFIG]"
}

const runningHelp = `

The POP asked is the one at --api, else the one that runs here: its address
stands in routing.db.pop, beside the database (EDGEPROXY_DB_PATH).`

// addRunningFlags adds the flags of commands that only a running POP can answer.
func (t *target) addRunningFlags(fs *pflag.FlagSet) {
	t.addAPIFlags(fs, "db_path")
	fs.Lookup("db").Usage = "database beside which the address of its edgeproxy stands [EDGEPROXY_DB_PATH]"
	addJSON(fs, &t.json)
}

// ask calls do with the running POP.
func (t *target) ask(cmd *cobra.Command, do func(context.Context, *api.Client) error) error {
	r, err := t.reach(cmd)
	if err != nil {
		return err
	}
	defer r.Close()
	return do(cmd.Context(), r.Client)
}

// reach finds the running POP, and that it is the one that is meant. The caller
// closes it.
func (t *target) reach(cmd *cobra.Command) (*running, error) {
	r, err := t.find(cmd)
	if err != nil {
		return nil, err
	}
	if err := r.probe(cmd.Context()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// fileConfig is the configuration for the database that --db names.
func (t *target) fileConfig(cmd *cobra.Command) (*config.Config, error) {
	if t.api != "" {
		return nil, usagef("--api and --db name two targets; give one of them")
	}
	cfg, _, err := config.Load(cmd.Flags(), t.cli.environ, config.ReadFile)
	return cfg, err
}

// with calls do with the POP. Only a command that may create the database
// says so: for the others a name without a file is a typing error.
func (t *target) with(cmd *cobra.Command, create bool, do func(context.Context, api.POP) error) error {
	ctx := cmd.Context()
	if !cmd.Flags().Changed("db") {
		return t.ask(cmd, func(ctx context.Context, pop *api.Client) error { return do(ctx, pop) })
	}
	cfg, err := t.fileConfig(cmd)
	if err != nil {
		return err
	}
	if _, err := os.Stat(cfg.DBPath); errors.Is(err, fs.ErrNotExist) && !create {
		return fmt.Errorf("%s does not exist; \"edgeproxy backend add\" with this --db creates it", cfg.DBPath)
	}
	file, err := node.OpenFile(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, file), file.Close())
}

// running is a POP that should answer.
type running struct {
	*api.Client
	file string      // that told its address; empty where --api did
	pop  api.PopFile // what file holds
}

// find says where the running POP is, and asks nothing yet.
func (t *target) find(cmd *cobra.Command) (*running, error) {
	cfg, err := t.config(cmd)
	if err != nil {
		return nil, err
	}
	r := &running{}
	addr := t.api
	if addr == "" {
		r.file = cfg.DBPath + ".pop"
		if r.pop, err = readPop(r.file); err != nil {
			return nil, err
		}
		addr = r.pop.API
	}
	if r.Client, err = api.Dial(addr, string(cfg.APIToken)); err != nil {
		return nil, usageError{err}
	}
	return r, nil
}

// done says what became of one thing; for programs, which know what they asked
// for, it names it in a list, as commands do that take several.
func (t *target) done(name, what string) error {
	if t.json {
		return t.cli.json([]string{name})
	}
	return t.cli.print(printable(name+" "+what) + "\n")
}

// config reads the few settings that matter here. Others in the environment
// may be for another program or wrong, and stop nobody from asking.
func (t *target) config(cmd *cobra.Command) (*config.Config, error) {
	environ := t.cli.only("EDGEPROXY_CONFIG", "EDGEPROXY_DB_PATH", tokenVariable)
	if t.token != "" {
		environ = append(environ, tokenVariable+"="+t.token)
	}
	cfg, _, err := config.Load(cmd.Flags(), environ, config.ReadFile)
	if problems, ok := errors.AsType[config.Problems](err); ok && t.token != "" {
		for i := range problems {
			if problems[i].Source == tokenVariable {
				problems[i].Source = "--token"
			}
		}
	}
	return cfg, err
}

const tokenVariable = "EDGEPROXY_API_TOKEN"

func readPop(path string) (api.PopFile, error) {
	var pop api.PopFile
	body, err := config.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		return pop, fmt.Errorf("no edgeproxy runs here (%s does not exist): start one with \"edgeproxy serve\", "+
			"or name one with --api host:port, or a database file with --db", path)
	}
	if err != nil {
		return pop, fmt.Errorf("find the edgeproxy that runs here: %w", err)
	}
	if err := json.Unmarshal(body, &pop); err != nil || pop.API == "" {
		return pop, fmt.Errorf("%s holds no address of an edgeproxy: remove it and start edgeproxy again, or name one with --api host:port", path)
	}
	return pop, nil
}

// probe makes sure that the POP which wrote the address file is the one that
// answers. A killed one leaves the file behind, and by then its port may be
// another's, whose backends nobody meant to change.
func (r *running) probe(ctx context.Context) error {
	if r.file == "" {
		return nil
	}
	st, err := r.Status(ctx)
	var what string
	switch {
	case errors.Is(err, api.ErrUnreachable):
		what = "nothing answers there"
	case err != nil:
		return err
	case st.Node != r.pop.Node:
		what = st.Node + " answers there"
	default:
		return nil
	}
	return fmt.Errorf("%s says that %s (pid %d) has its API at %s, but %s: start it again, or work on its file with --db %s",
		r.file, r.pop.Node, r.pop.PID, r.pop.API, what, strings.TrimSuffix(r.file, ".pop"))
}
