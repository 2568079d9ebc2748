//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a child may take to end when told before it is killed.
const stopGrace = 3 * time.Second

// child is a process in a namespace. What it writes to stderr is quoted if it fails.
type child struct {
	name string
	cmd  *exec.Cmd
	said said
	done chan struct{} // closed when it has ended
	in   *os.File      // of one of ours; else nil
	out  *os.File
	enc  *json.Encoder
	dec  *json.Decoder
}

// said keeps what a child writes, up to a limit.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b[:min(len(b), max(0, 8<<10-s.text.Len()))])
	return len(b), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.TrimSpace(s.text.String())
}

// spawn starts a command in a process group of its own, so that Ctrl-C on the terminal reaches overlay alone, which then
// ends it; should overlay be killed, the kernel does.
func (c *child) spawn() error {
	c.cmd.Stderr = &c.said
	c.cmd.WaitDelay = time.Second
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	c.done = make(chan struct{})
	go func() { // ends with the child; stop waits for it
		_ = c.cmd.Wait()
		close(c.done)
	}()
	return nil
}

// startForeign runs a command that ends with SIGTERM.
func startForeign(namespace string, env []string, command ...string) (*child, error) {
	c := &child{name: command[0], cmd: exec.Command("ip", append([]string{"netns", "exec", namespace}, command...)...)}
	c.cmd.Env = append(os.Environ(), env...)
	return c, c.spawn()
}

// startRole runs this binary in a role, to be asked. "ip netns exec" becomes the command, so that the process is the same.
func startRole(namespace, role string) (*child, error) {
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
	c := &child{
		name: role + " in " + namespace, cmd: exec.Command("ip", "netns", "exec", namespace, self, roleFlag, role),
		in: in, out: out, enc: json.NewEncoder(in), dec: json.NewDecoder(out),
	}
	c.cmd.Stdin, c.cmd.Stdout = childIn, childOut
	if err := c.spawn(); err != nil {
		in.Close()
		out.Close()
		return nil, err
	}
	return c, nil
}

// ask waits at most limit; after that, or when ctx ends, the child is killed.
func (c *child) ask(ctx context.Context, limit time.Duration, o order) (a answer, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	killed := make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(killed)
		_ = c.cmd.Process.Kill() // ends the Decode below
	})
	if err = c.enc.Encode(o); err == nil {
		err = c.dec.Decode(&a)
	}
	if !release() {
		<-killed
		err = context.Cause(ctx)
	}
	if err == nil && a.Err != "" {
		err = errors.New(a.Err)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.name, err)
		if text := c.said.String(); text != "" {
			err = fmt.Errorf("%w\n%s", err, text)
		}
	}
	return a, err
}

// stop asks the child to go, then makes it go.
func (c *child) stop() {
	if c.in != nil {
		_ = c.in.Close() // the end of its orders
	} else {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-c.done:
	case <-time.After(stopGrace):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
	if c.out != nil {
		_ = c.out.Close()
	}
}

// cpu is user and system time of all of the child's threads.
func (c *child) cpu() (time.Duration, error) {
	used, err := cpuOf(c.cmd.Process.Pid)
	if err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", c.name, err)
	}
	return used, nil
}

// cpuOf is a process's, to the nanosecond, which getrusage gives only the process itself: the clock is
// MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of include/linux/posix-timers.h.
func cpuOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|2), &t)
	return time.Duration(t.Nano()), err
}

// kernelThreads are the kernel's own: what works on packets later, or for no process.
func kernelThreads() (pids []int) {
	const kthreadd = 2
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // has ended
		}
		if pid, parent, err := parseParent(string(stat)); err == nil && (pid == kthreadd || parent == kthreadd) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// parseParent reads /proc/pid/stat, where the command's name in parentheses may hold anything; see proc_pid_stat(5).
func parseParent(stat string) (pid, parent int, err error) {
	var state string
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return 0, 0, errors.New("want a command's name in parentheses")
	}
	if _, err = fmt.Sscan(stat[:open], &pid); err == nil {
		_, err = fmt.Sscan(stat[end+1:], &state, &parent)
	}
	return pid, parent, err
}

// command runs a short one, and says what it said if it fails.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
