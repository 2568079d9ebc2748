package clustertests

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// adoptOrphans has a process whose parent has ended be ours, as those are that
// an upgrade started: their end can be waited for, and how they ended be seen.
func adoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// inherit upgrades the POP, waits until the process before has drained, and has
// what is done to the POP from then on be done to the new one.
func (p *pop) inherit(t testing.TB) error {
	old := p.PID
	p.upgrade(t)
	err := waitFor(soon, func() error {
		if running(old) {
			return fmt.Errorf("process %d does not end after an upgrade", old)
		}
		return nil
	})
	if err != nil {
		return err
	}
	process, err := os.FindProcess(p.PID)
	if err != nil {
		return err
	}
	cmd, ended := &exec.Cmd{Process: process}, make(chan struct{})
	p.cmd, p.ended = cmd, ended
	p.pid.Store(int64(process.Pid))
	go func() {
		defer close(ended)
		cmd.ProcessState, _ = process.Wait()
	}()
	t.Cleanup(func() { endProcess(t, cmd, ended) })
	return nil
}
