package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edgeproxy/edgeproxy/api"
	"github.com/spf13/cobra"
)

// upgradeWithin is how long the new process may take to serve, and where it
// cannot, the binary that ran before to be back.
const upgradeWithin = 90 * time.Second

func newUpgrade(c *cli) *cobra.Command {
	t := &target{cli: c}
	cmd := &cobra.Command{
		Use:        "upgrade",
		GroupID:    groupPOP,
		SuggestFor: []string{"restart", "reload"},
		Short:      "Replace a running POP by the binary that is installed now",
		Long: `Starts the binary that is now where the POP was started from, with the same
arguments, and has it take over: database, membership, the API and the listening
sockets, with the clients that wait in their queues. No client is refused. The
connections that are open go on in the old process until they end, or for
--upgrade-drain-secs; they count as the POP's all the while, and several old
processes may drain at once.

Where the new process cannot read its settings nothing changes. Where it fails
later the binary that ran before takes over again. SIGUSR2 does the same, of
which the log tells. It is refused as process 1 of a container, and with
strict_limits.` + runningHelp,
		Example: `  edgeproxy upgrade
  edgeproxy upgrade --api 10.50.0.1:8180 --token @token --json`,
		Args:              takes(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			var before api.Status
			var up api.Upgrade
			if err := t.ask(cmd, func(ctx context.Context, pop *api.Client) (err error) {
				if before, err = pop.Status(ctx); err == nil {
					up, err = pop.Upgrade(ctx)
				}
				return err
			}); err != nil {
				return err
			}
			if err := t.takenOver(cmd, before.PID, up.PID); err != nil {
				return err
			}
			if t.json {
				return c.json(up)
			}
			return c.print(fmt.Sprintf("process %d, version %s, has taken over in %d ms\n", up.PID, printable(up.Version), time.Since(began).Milliseconds()))
		},
	}
	t.addRunningFlags(cmd.Flags())
	return cmd
}

// takenOver waits until another process than before answers for the POP, and is ready.
func (t *target) takenOver(cmd *cobra.Command, before, pid int) error {
	last := errors.New("no answer yet")
	for end := time.Now().Add(upgradeWithin); time.Now().Before(end); {
		var st api.Status
		err := t.ask(cmd, func(ctx context.Context, pop *api.Client) (err error) {
			st, err = pop.Status(ctx)
			return err
		})
		switch {
		case err != nil:
			last = err // between the two nobody answers
		case st.PID == pid && st.Ready:
			return nil
		case st.PID != pid && st.PID != before:
			return fmt.Errorf("process %d did not take over: the binary that ran before does again, as process %d; the log of the POP says why", pid, st.PID)
		}
		if err == nil {
			last = fmt.Errorf("process %d answers, not ready: %v", st.PID, st.Reasons)
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("process %d has not taken over within %v: %w", pid, upgradeWithin, last)
}
