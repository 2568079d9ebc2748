package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/node/lab"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

func newLab(c *cli) *cobra.Command {
	l := &labRun{cli: c}
	cmd := &cobra.Command{
		Use:     "lab",
		GroupID: groupPOP,
		Short:   "Show a whole mesh at work, on this machine",
		Long: `Runs three POPs, nine backends and clients from all continents on loopback,
shows who goes where, and judges it. The clients' addresses are public ones, sent
by PROXY header. A story happens to them: a backend dies and comes back, a POP is
cut off the mesh and put back, a weight changes, a region is drained, another POP
joins. Of the story is played what fits into --duration.

On a terminal, without --duration, --script and --json, you tell the story with
keys. --script takes steps, or a file that holds them, one a line or separated by
commas; what a step leaves out is chosen by --seed:

` + lab.ScriptHelp() + `
Databases live in a temporary directory. Nothing is left behind; what a lab that
was killed has left, the next one removes. Ctrl-C ends it in order, with a report
about what was seen until then. Exit code 0: every invariant held; 1: one did
not, or the lab broke; 2: bad usage.`,
		Example: `  edgeproxy lab
  edgeproxy lab --duration 20s --json
  edgeproxy lab --script kill,revive,cut,heal
  edgeproxy lab --pops 4 --backends 12 --users 80 --seed 7 --duration 1m`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, _ []string) error { return l.run(cmd) },
	}
	f := cmd.Flags()
	f.DurationVar(&l.cfg.Duration, "duration", 20*time.Second, "how long the traffic lasts; longer, where a step takes its time")
	f.IntVar(&l.cfg.POPs, "pops", 3, "POPs at the start")
	f.IntVar(&l.cfg.Backends, "backends", 9, "backends at the start")
	f.IntVar(&l.cfg.Users, "users", 40, "connections at a time")
	f.Uint64Var(&l.cfg.Seed, "seed", 0, "of what the lab chooses; 0: another one each time, printed")
	f.StringVar(&l.script, "script", "", "steps, or a file of them, instead of the default story")
	addJSON(f, &l.json)
	return cmd
}

// labRun is one run of the command.
type labRun struct {
	*cli
	cfg    lab.Config
	script string
	json   bool

	screen *screen // nil: in a pipe, or beside JSON

	mu     sync.Mutex
	failed error    // of stdout: somebody closed the pipe
	recent []string // what happened last, below the table
}

func (l *labRun) run(cmd *cobra.Command) (err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	asked := cmd.Flags().Changed("duration")
	if err := l.configure(asked); err != nil {
		return err
	}
	// A pipe that somebody closed ends the lab in order, not by SIGPIPE.
	signal.Ignore(syscall.SIGPIPE)
	l.cfg.Log = l.newLogger(l.stderr, "auto").Level(zerolog.ErrorLevel)
	l.cfg.Say = func(at time.Duration, line string) { l.say(stop, fmt.Sprintf("%6.2fs  %s\n", at.Seconds(), line)) }
	l.cfg.Show = l.ticker(stop)
	leave := func() error { return nil }
	if out, is := l.stdout.(*os.File); is && isTerminal(out) && !l.json {
		if leave, err = l.takeScreen(ctx, stop, cmd.InOrStdin(), out, asked); err != nil {
			return err
		}
	}
	report, err := lab.Run(ctx, l.cfg)
	err = errors.Join(err, leave())
	if report == nil {
		return err
	}
	return errors.Join(err, l.finish(report))
}

// takeScreen shows the lab on a terminal. With nobody to say how long and what
// happens, keys do.
func (l *labRun) takeScreen(ctx context.Context, stop func(), in any, out *os.File, asked bool) (leave func() error, err error) {
	if l.screen, err = openScreen(in, out); err != nil {
		return nil, err
	}
	l.cfg.Show = func(r *lab.Report) { l.draw(stop, r) }
	var steps chan lab.Step
	if l.screen.keys != nil && l.script == "" && !asked {
		steps = make(chan lab.Step, 4) // keys that are pressed while a step is played
		l.cfg.Duration, l.cfg.Keys = 0, steps
	}
	end := l.readKeys(ctx, stop, steps)
	return func() error {
		end()
		return l.screen.close()
	}, nil
}

// configure checks what the flags say.
func (l *labRun) configure(asked bool) error {
	if l.cfg.Duration <= 0 || l.cfg.Users <= 0 || l.cfg.POPs <= 0 || l.cfg.Backends <= 0 {
		return usagef("--duration, --users, --pops and --backends must be above 0") // 0 is the default to the lab
	}
	if err := l.cfg.Validate(); err != nil {
		return usageError{err}
	}
	if l.script == "" {
		return nil
	}
	if !asked {
		l.cfg.Duration = 0 // as long as the script takes
	}
	text := l.script
	body, err := os.ReadFile(l.script)
	switch {
	case err == nil:
		text = string(body)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("read --script: %w", err)
	}
	if l.cfg.Script, err = lab.ParseScript(text); err != nil {
		return usagef("--script %q: %w", l.script, err)
	}
	return nil
}

// finish prints the report.
func (l *labRun) finish(r *lab.Report) error {
	err := l.failed
	switch {
	case err != nil:
	case l.json:
		err = l.cli.json(r)
	default:
		err = l.print(r.Table() + r.Verdicts())
	}
	if err == nil && !r.OK() {
		err = errors.New("lab: an invariant did not hold")
	}
	return err
}

// say tells what happens: below the table on a terminal, as lines in a pipe,
// on stderr beside JSON.
func (l *labRun) say(stop func(), line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.screen == nil {
		l.writeLocked(stop, line)
		return
	}
	const most = 8
	l.recent = append(l.recent, line)
	l.recent = l.recent[max(0, len(l.recent)-most):]
}

func (l *labRun) writeLocked(stop func(), text string) {
	if l.failed != nil {
		return
	}
	to := l.stdout
	if l.json {
		to = l.stderr
	}
	if _, l.failed = io.WriteString(to, text); l.failed != nil {
		stop()
	}
}

// ticker says once a second how it goes.
func (l *labRun) ticker(stop func()) func(*lab.Report) {
	next := 1.0
	return func(r *lab.Report) {
		if r.Seconds < next {
			return
		}
		next = float64(int(r.Seconds)) + 1
		line := fmt.Sprintf("%6.2fs  %d served, %d failed; added p50 %.2f ms; a write is everywhere in p50 %.1f ms\n",
			r.Seconds, r.Connections, r.Failed, r.Added.P50, r.Propagation.P50)
		l.say(stop, line)
	}
}

// draw shows the picture, what happened last, and the keys.
func (l *labRun) draw(stop func(), r *lab.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return
	}
	foot := append([]string{""}, l.recent...)
	if l.cfg.Keys != nil {
		foot = append(foot, "", keyHelp)
	}
	width, height := l.screen.size()
	lines := slices.Collect(strings.Lines(r.Table()))
	lines = append(lines[:min(len(lines), max(0, height-len(foot)))], foot...)
	for i, line := range lines {
		if runes := []rune(strings.TrimSuffix(line, "\n")); len(runes) > width {
			lines[i] = string(runes[:width])
		}
	}
	if l.failed = l.screen.draw(lines); l.failed != nil {
		stop()
	}
}
