package main

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

// leastInterval keeps a typing error from asking without end.
const leastInterval = 100 * time.Millisecond

// top is one run of the command.
type top struct {
	*target
	sort     string
	once     bool
	interval time.Duration
	again    bool // goes on printing
}

func newTop(c *cli) *cobra.Command {
	t := &top{target: &target{cli: c}}
	cmd := &cobra.Command{
		Use:     "top",
		GroupID: groupAsk,
		Short:   "Watch the load of the mesh",
		Long: `Shows POPs and backends with their connections, anew each second, until q or
Ctrl-C. In a pipe it prints them once, or with --interval again and again.

POPs, the one asked first:
  state        alive, leaving, left, failed: as in "edgeproxy members"
               stale   its last report is older than 3 s
               silent  older than 10 s: what it had is not counted any more
  rtt          round trip from the POP asked, by network coordinates
  lag          age of its last report
  connections  with backends
  new/s        new connections per second

Backends:
  state        as in "edgeproxy backend list"
  connections  of all POPs
  own          of the POP asked
  new/s        new connections per second, of the POP asked
  room         connections left up to the hard limit; - is unlimited
  by-pop       connections of each POP that has any` + runningHelp,
		Example: `  edgeproxy top
  edgeproxy top --sort room
  edgeproxy top --once --json --api 10.50.0.1:8180
  edgeproxy top --interval 5s > load.txt`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if orders[t.sort] == nil {
				return usagef("--sort: %q is no column to sort by; there are %s", t.sort, strings.Join(slices.Sorted(maps.Keys(orders)), ", "))
			}
			if t.interval < leastInterval {
				return usagef("--interval: %s is too short, at least %s", t.interval, leastInterval)
			}
			t.again = !t.once && (isTerminal(c.stdout) || cmd.Flags().Changed("interval"))
			return t.ask(cmd, func(ctx context.Context, pop *api.Client) error {
				ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
				defer stop()
				out, is := c.stdout.(*os.File)
				if is && t.again && !t.json && isTerminal(out) {
					return t.live(ctx, pop, cmd.InOrStdin(), out)
				}
				return t.stream(ctx, pop)
			})
		},
	}
	t.addRunningFlags(cmd.Flags())
	cmd.Flags().StringVar(&t.sort, "sort", "connections", "`column` by which backends are sorted: "+strings.Join(slices.Sorted(maps.Keys(orders)), ", "))
	cmd.Flags().BoolVar(&t.once, "once", false, "print once and end")
	cmd.Flags().DurationVar(&t.interval, "interval", time.Second, "time between two looks")
	return cmd
}

// live shows the load on a terminal. A POP that does not answer for a while is
// waited for, with what it said last.
func (t *top) live(ctx context.Context, pop *api.Client, in any, out *os.File) (err error) {
	l, err := pop.Load(ctx)
	if err != nil {
		return err
	}
	s, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer func() { err = s.close() }()
	var failed error
	for {
		width, height := s.size()
		if err := s.draw(screenful(l, t.sort, failed, t.cli.coloured(out), width, height)); err != nil {
			return err
		}
		if s.wait(ctx, t.interval) {
			return nil
		}
		// Shorter than the client's own patience: keys are not read meanwhile.
		asking, cancel := context.WithTimeout(ctx, 2*time.Second)
		next, err := pop.Load(asking)
		cancel()
		if failed = err; err == nil {
			l = next
		}
	}
}

// stream prints the load to a pipe or a file.
func (t *top) stream(ctx context.Context, pop *api.Client) error {
	for first := true; ; first = false {
		l, err := pop.Load(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.print(l, first); err != nil || !t.again {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.interval):
		}
	}
}

func (t *top) print(l api.Load, first bool) error {
	switch {
	case t.json && t.again:
		return t.cli.jsonLine(l)
	case t.json:
		return t.cli.json(l)
	}
	text := strings.Join(screenful(l, t.sort, nil, t.cli.coloured(t.cli.stdout), math.MaxInt, math.MaxInt), "")
	if !first {
		text = "\n" + text
	}
	return t.cli.print(text)
}

// screenful is the load in lines that fit: of POPs and backends as many as there is
// room for, and how many more there are.
func screenful(l api.Load, order string, failed error, coloured bool, width, height int) []string {
	var connections int64
	var rate float64
	for _, p := range l.POPs {
		connections += p.Connections
		rate += p.Rate
	}
	title := fmt.Sprintf("%s  %s  POPs %d  backends %d  connections %d  new/s %.1f", l.Node, l.Time.Format(time.RFC3339), len(l.POPs), len(l.Backends), connections, rate)
	lines := []string{clip(printable(title), width) + "\n"}
	if failed != nil {
		lines = append(lines, painted(clip(printable("no answer: "+failed.Error()), width), red, coloured)+"\n")
	}
	lines = append(lines, "\n")
	columns, rows := popTable(l)
	lines = append(lines, upTo(height/3, width, "POPs", tableLines(columns, rows, coloured, width))...)
	lines = append(lines, "\n")
	columns, rows = backendTable(l, order)
	return append(lines, upTo(height-len(lines), width, "backends", tableLines(columns, rows, coloured, width))...)
}

// upTo is a table that has at most so many lines, of which one says what is left out.
func upTo(most, width int, what string, lines []string) []string {
	most = max(most, 3)
	if len(lines) <= most {
		return lines
	}
	return append(lines[:most-1:most-1], clip(fmt.Sprintf("… %d more %s", len(lines)-most+1, what), width)+"\n")
}
