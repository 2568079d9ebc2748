package clustertests

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A disk that fails when a test says so: the POP runs under a seccomp filter,
// and the kernel asks us before each of its system calls that writes or syncs a
// file whether it shall be done or what error to return (seccomp_unotify(2)).
// That reaches SQLite and Go alike, needs no root, and is the kernel's answer to
// whoever calls. What is not ours is let through.

// faultsVariable is where the POP's other role sends the listener.
const faultsVariable = "CLUSTERTESTS_FAULTS"

// The kernel's structures, linux/seccomp.h.
type (
	seccompNotif struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	seccompResp struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
)

var writing = []uint32{unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FALLOCATE}
var syncing = []uint32{unix.SYS_FSYNC, unix.SYS_FDATASYNC}

// ioFaults decides what becomes of what a POP writes into its database.
type ioFaults struct {
	dir string // of the POP

	mu     sync.Mutex
	calls  int           // that write the database, since arm
	from   int           // the call from which on they fail, from 1; 0: none does
	errno  syscall.Errno // as what
	failed int
	slow   time.Duration // that each sync takes longer
	synced int
}

// arm has the n-th call from now on fail, and all after it.
func (f *ioFaults) arm(n int, errno syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.from, f.errno, f.failed = 0, n, errno, 0
}

func (f *ioFaults) mend() { f.arm(0, 0) }

// hit is nil where a call has failed since arm.
func (f *ioFaults) hit() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == 0 {
		return fmt.Errorf("%d calls, none of which has failed", f.calls)
	}
	return nil
}

// slowSync has every sync take longer; it says how many there were before.
func (f *ioFaults) slowSync(d time.Duration) (before int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, f.slow, f.synced = f.synced, d, 0
	return before
}

// faulty has a POP run under faults from its next start on.
func faulty(t testing.TB, p *pop) *ioFaults {
	t.Helper()
	f := &ioFaults{dir: p.dir}
	path := filepath.Join(t.TempDir(), "listener")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			all.Go(func() {
				if err := f.serve(c); err != nil {
					t.Errorf("faults of %s: %v", p.Node, err)
				}
			})
		}
	})
	t.Cleanup(func() { // its processes have ended before, as they were started later
		_ = ln.Close()
		all.Wait()
	})
	p.wrap = func(cmd *exec.Cmd) {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Args = self, append([]string{self}, cmd.Args...)
		cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], roleVariable+"=faults", faultsVariable+"="+path)
	}
	return f
}

// underFaults is the POP's process before it becomes edgeproxy.
func underFaults(args []string) error {
	runtime.LockOSThread() // the filter is this thread's, which is the one that stays
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: os.Getenv(faultsVariable), Net: "unix"})
	if err != nil {
		return err
	}
	calls := append(append([]uint32{}, writing...), syncing...)
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the call's number
	for i, nr := range calls {
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: uint8(len(calls) - i)})
	}
	program = append(program, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_USER_NOTIF})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("a seccomp filter with a listener (Linux 5.5): %w", errno)
	}
	if _, _, err := c.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil); err != nil {
		return err
	}
	env := []string{}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, roleVariable+"=") && !strings.HasPrefix(e, faultsVariable+"=") {
			env = append(env, e)
		}
	}
	unix.CloseOnExec(int(fd))
	return syscall.Exec(args[0], args, env)
}

// serve answers the kernel for one process until that has ended.
func (f *ioFaults) serve(c *net.UnixConn) error {
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := c.ReadMsgUnix(make([]byte, 1), rights)
	_ = c.Close()
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("no listener: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	fd := fds[0]
	var late sync.WaitGroup
	defer func() {
		late.Wait()
		_ = unix.Close(fd)
	}()
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return err
		}
		if ready[0].Revents&unix.POLLIN == 0 {
			return nil // nobody is left who could ask
		}
		var q seccompNotif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			continue // it was killed meanwhile
		}
		errno, wait := f.judge(q)
		late.Go(func() {
			if wait > 0 {
				<-time.After(wait)
			}
			a := seccompResp{id: q.id, err: -int32(errno)}
			if errno == 0 {
				a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
			}
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))) // or it was killed
		})
	}
}

// judge says what becomes of a call.
func (f *ioFaults) judge(q seccompNotif) (errno syscall.Errno, wait time.Duration) {
	file, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", q.pid, int32(q.args[0])))
	if !strings.HasPrefix(file, f.dir) {
		return 0, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, nr := range syncing {
		if uint32(q.nr) == nr {
			wait = f.slow
			f.synced++
		}
	}
	if name := filepath.Base(file); name != "routing.db" && name != "routing.db-wal" {
		return 0, wait
	}
	f.calls++
	if f.from == 0 || f.calls < f.from {
		return 0, wait
	}
	f.failed++
	return f.errno, 0
}
