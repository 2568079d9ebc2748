//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a child may take to end after SIGTERM before it is killed.
const stopGrace = 3 * time.Second

// process is a child of bench. Its output goes to a file, whose end is quoted when it dies.
type process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // why; read after done
	stop func() error
}

// spawn starts cmd in a process group of its own, so that Ctrl-C on the terminal reaches bench alone, which then ends its
// children itself. Should bench be killed, the kernel sends SIGTERM (which nginx, unlike SIGKILL, passes on to its workers).
func spawn(name string, cmd *exec.Cmd, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	go func() { // ends with the child; stop waits for it
		p.err = cmd.Wait()
		close(p.done)
	}()
	p.stop = sync.OnceValue(p.end)
	return p, nil
}

// end asks the child to go, then makes it, and its children, go.
func (p *process) end() error {
	children := descendants(p.cmd.Process.Pid)[1:]
	if p.ended() {
		return fmt.Errorf("%s ended by itself: %w\n%s", p.name, p.err, tail(p.log))
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopGrace):
	}
	_ = p.cmd.Process.Kill()
	for _, pid := range children {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	<-p.done
	return nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) pids() []int { return descendants(p.cmd.Process.Pid) }

// tail returns what a log ends with, indented, and before that its first lines, for a panic begins with the reason.
func tail(path string) string {
	const head, end = 4, 8
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) > head+end+1 {
		lines = slices.Concat(lines[:head], []string{"..."}, lines[len(lines)-end:])
	}
	return "    " + strings.Join(lines, "\n    ")
}

// descendants returns pid and the processes below it.
func descendants(pid int) []int {
	out := []int{pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		b, _ := os.ReadFile(list) // a thread that has ended has no children
		for _, f := range strings.Fields(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(out, descendants(child)...)
			}
		}
	}
	return out
}

// footprint is what a target's processes hold.
type footprint struct{ rss, fds float64 } // bytes, descriptors

// footprintOf sums over pids. It reads smaps_rollup, which walks the page tables: VmRSS is kept per core and may be off
// by more than what is looked for here.
func footprintOf(pids []int) (footprint, error) {
	var sum footprint
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return sum, err
		}
		_, rest, _ := strings.Cut(string(b), "\nRss:")
		kb, err := strconv.Atoi(strings.Fields(rest + " x")[0])
		if err != nil {
			return sum, fmt.Errorf("resident memory of process %d: %w", pid, err)
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return sum, err
		}
		sum.rss += float64(kb) * 1024
		sum.fds += float64(len(fds))
	}
	return sum, nil
}

// helper is this binary in a role, with its pipes.
type helper struct {
	*process
	in  *os.File
	out *os.File
	enc *json.Encoder
	dec *json.Decoder
}

func startHelper(role, dir string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, err
	}
	defer childOut.Close()
	cmd := exec.Command(self, roleFlag, role)
	cmd.Env = append(os.Environ(), helperEnv)
	cmd.Stdin, cmd.Stdout = childIn, childOut
	p, err := spawn("bench "+role, cmd, filepath.Join(dir, role+".log"))
	if err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	return &helper{process: p, in: in, out: out, enc: json.NewEncoder(in), dec: json.NewDecoder(out)}, nil
}

// ask sends q and waits for the answer a, at most limit; after that, or when ctx ends, the helper is of no more use.
func (h *helper) ask(ctx context.Context, limit time.Duration, q, a any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	killed := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(killed)
		_ = h.cmd.Process.Kill() // ends the Decode below
	})
	err := h.enc.Encode(q)
	if err == nil {
		err = h.dec.Decode(a)
	}
	if !release() {
		<-killed
		return fmt.Errorf("%s: %w", h.name, context.Cause(ctx))
	}
	if err != nil {
		h.close()
		return fmt.Errorf("%s: %w\n%s", h.name, err, tail(h.log))
	}
	return nil
}

// close ends the helper, which has nothing to put away.
func (h *helper) close() {
	_ = h.in.Close()
	_ = h.cmd.Process.Kill()
	<-h.done
	_ = h.out.Close()
}

// raiseDescriptors lifts the soft limit to the hard one, for bench and its children, and checks that the idle measure fits:
// the load generator and the backend hold one descriptor for each connection, a proxy two or more.
func raiseDescriptors(idle int) error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil { // the children inherit what was set explicitly
		return err
	}
	if need := uint64(2*idle + 500); lim.Max < need {
		return fmt.Errorf("the hard limit of open files is %d, need %d: raise it with ulimit -Hn", lim.Max, need)
	}
	return nil
}
