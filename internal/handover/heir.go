package handover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Heir is the process that is to take this one's place.
type Heir struct {
	PID   int
	cmd   *exec.Cmd
	talk  *talk
	ended chan struct{} // closed once it is known to have ended
}

// Start starts the command with copies of the sockets, which stay the
// caller's, and with a will, which JSON carries. The command's files beyond the usual three and Variable are set here.
func Start(cmd *exec.Cmd, sockets []Socket, will any) (*Heir, error) {
	body, err := json.Marshal(will)
	if err != nil {
		return nil, err
	}
	own, its, err := pair()
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	defer its.Close()
	talk, err := newTalk(own)
	if err != nil {
		return nil, err
	}
	// Before there is anybody to read it, who might end instead.
	if err := talk.send(message{Will: body}); err != nil {
		talk.conn.Close()
		return nil, fmt.Errorf("handover: %w", err)
	}
	names := []string{control}
	cmd.ExtraFiles = []*os.File{its}
	for _, s := range sockets {
		names = append(names, s.Name)
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.File)
	}
	cmd.Env = append(cmd.Env, Variable+"="+strings.Join(names, ","))
	if err := cmd.Start(); err != nil {
		talk.conn.Close()
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	h := &Heir{PID: cmd.Process.Pid, cmd: cmd, talk: talk, ended: make(chan struct{})}
	go func() { defer close(h.ended); _ = cmd.Wait() }() // how it ended, its log says
	return h, nil
}

// Ready waits until the new process could begin, and returns its version.
func (h *Heir) Ready(ctx context.Context) (version string, err error) {
	m, err := h.talk.receive(ctx)
	if err != nil {
		return "", fmt.Errorf("the new process (pid %d) did not start: %w", h.PID, err)
	}
	return m.Ready, nil
}

// Give tells the new process that it may take what the old one held.
func (h *Heir) Give() error { return h.talk.send(message{Yours: true}) }

// Serving waits until the new process serves, and returns the names of the
// sockets that it does not.
func (h *Heir) Serving(ctx context.Context) (without []string, err error) {
	m, err := h.talk.receive(ctx)
	if err == nil && !m.Serving {
		err = fmt.Errorf("it said %+v", m)
	}
	if err != nil {
		return nil, fmt.Errorf("the new process (pid %d) did not take over: %w", h.PID, err)
	}
	h.talk.conn.Close()
	return m.Without, nil
}

// Kill ends a new process that is not wanted, and returns when it has ended.
func (h *Heir) Kill() {
	_ = h.cmd.Process.Kill() // it may have ended; first, or it would take the end of the talk for the old one's
	<-h.ended
	h.talk.conn.Close()
}
