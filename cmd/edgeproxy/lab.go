package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/node/lab"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func newLab(c *cli) *cobra.Command {
	var cfg lab.Config
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "lab",
		GroupID: groupPOP,
		Short:   "Show the main job on real traffic, on this machine",
		Long: `Runs a POP, nine backends in three regions and clients from five continents on
loopback, shows who goes where, and judges it. The clients' addresses are public
ones, sent by PROXY header. The database lives in a temporary directory; nothing
is left behind. Exits 1 if an invariant did not hold.`,
		Example: `  edgeproxy lab
  edgeproxy lab --region eu --duration 30s
  edgeproxy lab --duration 5s --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return c.lab(cmd.Context(), cfg, asJSON) },
	}
	f := cmd.Flags()
	f.DurationVar(&cfg.Duration, "duration", 10*time.Second, "how long the traffic lasts")
	f.IntVar(&cfg.Users, "users", 40, "connections at a time")
	f.StringVar(&cfg.Region, "region", "sa", "region of the POP")
	addJSON(f, &asJSON)
	return cmd
}

func (c *cli) lab(ctx context.Context, cfg lab.Config, asJSON bool) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if cfg.Duration <= 0 || cfg.Users <= 0 {
		return usagef("--duration and --users must be above 0")
	}
	// A pipe that somebody closed ends the lab in order, not by SIGPIPE.
	signal.Ignore(syscall.SIGPIPE)
	cfg.Log = c.newLogger(c.stderr, "auto").Level(zerolog.ErrorLevel)
	var failed error // of stdout: somebody closed the pipe
	report, err := lab.Run(ctx, cfg, func(r *lab.Report) {
		if failed == nil {
			if failed = c.labProgress(r, asJSON); failed != nil {
				stop()
			}
		}
	})
	if err != nil {
		return err
	}
	if asJSON {
		err = c.json(report)
	} else {
		err = errors.Join(c.print(c.screen(report.Table()+report.Verdicts())), failed)
	}
	if err == nil && !report.OK() {
		err = errors.New("lab: an invariant did not hold")
	}
	return err
}

// labProgress redraws the table on a terminal and writes a line a second into
// a pipe; beside JSON, that line goes to stderr.
func (c *cli) labProgress(r *lab.Report, asJSON bool) error {
	line := fmt.Sprintf("%.0f s: %d connections, %d failed\n", r.Seconds, r.Connections, r.Failed)
	switch {
	case asJSON:
		_, err := io.WriteString(c.stderr, line)
		return err
	case isTerminal(c.stdout):
		return c.print(c.screen(r.Table() + "\n" + line))
	}
	return c.print(line)
}

// screen puts text at the top of an empty screen, where there is one.
func (c *cli) screen(text string) string {
	if !isTerminal(c.stdout) {
		return text
	}
	return "\x1b[H\x1b[2J" + text // ECMA-48: cursor home, erase display
}
