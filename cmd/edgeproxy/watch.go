package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/edgeproxy/edgeproxy/mesh"
	"github.com/spf13/cobra"
)

// A watcher whose connection broke off tries again after a while, longer each
// time, and at once after the first.
const (
	watchAgain = 250 * time.Millisecond
	watchMost  = 10 * time.Second
)

// watching is one run of the command.
type watching struct {
	*target
	from   string
	filter api.WatchFilter
	seen   map[string]map[string]json.RawMessage // kind/key: the last state, for people
}

func newWatch(c *cli) *cobra.Command {
	w := &watching{target: &target{cli: c}, seen: map[string]map[string]json.RawMessage{}}
	cmd := &cobra.Command{
		Use:        "watch",
		GroupID:    groupAsk,
		SuggestFor: []string{"events", "follow", "tail", "changes"},
		Short:      "Watch what changes in the mesh",
		Long: `Prints what changes of backends, services, health and members as one POP sees
it, a line each, until Ctrl-C: first everything there is, then each change. Where
the connection breaks off it comes back and goes on behind what it printed; what
was missed in between comes as its latest state.

  +  is there, or came      ~  is otherwise, and what      -  is no more

With --json it prints the events as they come (docs/watch.md). --from takes the id
of an event to go on behind it, or now for what comes only.` + runningHelp,
		Example: `  edgeproxy watch
  edgeproxy watch --kind health,member --from now
  edgeproxy watch --app myapp --json > events.ndjson`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			find := func() (*running, error) { return w.reach(cmd) }
			r, err := find()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return w.follow(ctx, r, find)
		},
	}
	w.addRunningFlags(cmd.Flags())
	cmd.Flags().StringSliceVar(&w.filter.Kinds, "kind", nil, "only these `kinds`: backend, service, health, member (default all)")
	cmd.Flags().StringVar(&w.filter.App, "app", "", "only what belongs to this app, a `name`")
	cmd.Flags().StringVar(&w.from, "from", "", "go on behind the event with this `id`, or now")
	return cmd
}

// follow prints until ctx ends or the POP refuses. One that comes back may do so
// at another address, where find finds it.
func (w *watching) follow(ctx context.Context, pop *running, find func() (*running, error)) error {
	defer func() { pop.Close() }()
	var failed error // of printing
	for wait := watchAgain; ; {
		err := pop.Watch(ctx, w.from, w.filter, func(e api.Event) error {
			wait = watchAgain
			failed = w.print(e)
			w.from = e.ID
			return failed
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case failed != nil:
			return failed
		case errors.As(err, new(*mesh.FieldError)):
			return named(err)
		case err == nil:
			w.cli.complain(fmt.Sprintf("the stream ended; trying again in %s", wait))
		case !errors.Is(err, api.ErrUnreachable) && !errors.Is(err, api.ErrUnavailable):
			return err
		default:
			w.cli.complain(fmt.Sprintf("%v; trying again in %s", err, wait))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, watchMost)
		if again, err := find(); err == nil {
			pop.Close()
			pop = again
		}
	}
}

func (w *watching) print(e api.Event) error {
	if w.json {
		return w.cli.jsonLine(e)
	}
	at := time.Now().Format("15:04:05.000") + "  "
	switch e.Type {
	case "reset":
		w.seen = map[string]map[string]json.RawMessage{}
		return w.cli.print(at + w.paint("everything anew: "+e.Reason, yellow))
	case "lag":
		return w.cli.print(at + w.paint(fmt.Sprintf("too slow: %d changes are left out", e.Missed), yellow))
	case "ready":
		return w.cli.print(at + w.paint("that was all; now what changes", 0))
	case "end":
		return w.cli.print(at + w.paint("the end: "+e.Reason, yellow))
	case "delete":
		delete(w.seen, e.Kind+"/"+e.Key)
		return w.cli.print(at + w.paint(fmt.Sprintf("- %-7s %s", e.Kind, e.Key), red))
	case "change":
		return w.cli.print(at + w.changed(e))
	}
	return nil // a heartbeat, or what a newer POP says
}

func (w *watching) paint(text string, c colour) string {
	return painted(printable(text), c, w.cli.coloured(w.cli.stdout)) + "\n"
}

// changed is a line about a state: all of it where it is new, else what is otherwise.
func (w *watching) changed(e api.Event) string {
	var state map[string]json.RawMessage
	_ = json.Unmarshal(e.State, &state) // of a POP that is none: the line stays short
	name := e.Kind + "/" + e.Key
	old, known := w.seen[name]
	w.seen[name] = state
	sign, paint := "+", green
	if known {
		sign, paint = "~", yellow
	}
	var parts []string
	for _, field := range sorted(state, old) {
		now, before := short(state[field]), short(old[field])
		switch {
		case field == "id" || field == "name" || field == "tags" && !known:
		case !known && now != "":
			parts = append(parts, field+"="+now)
		case known && now != before && before == "":
			parts = append(parts, field+"="+now)
		case known && now != before:
			parts = append(parts, field+" "+before+" -> "+now)
		}
	}
	if down := string(state["down"]); down == "true" || string(state["status"]) == `"failed"` {
		paint = red
	}
	return w.paint(fmt.Sprintf("%s %-7s %s  %s", sign, e.Kind, e.Key, strings.Join(parts, " ")), paint)
}

func sorted(maps ...map[string]json.RawMessage) (fields []string) {
	for _, m := range maps {
		for field := range m {
			if !slices.Contains(fields, field) {
				fields = append(fields, field)
			}
		}
	}
	slices.Sort(fields)
	return fields
}

// short is a JSON value as a person writes it; empty for one that says nothing.
func short(v json.RawMessage) string {
	var text string
	switch {
	case len(v) == 0 || string(v) == "null" || string(v) == "[]":
		return ""
	case json.Unmarshal(v, &text) == nil:
		return text
	}
	return string(v)
}
