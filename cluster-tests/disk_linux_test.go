package clustertests

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// diskName marks the disks of a test run, so that those of one that was
// interrupted can be found.
func diskName(pid int) string { return fmt.Sprintf("edgeproxy-test-%d", pid) }

// mountDisk makes a directory a disk of its own until the test ends. It needs root.
func mountDisk(t testing.TB, dir string) {
	t.Helper()
	err := syscall.Mount(diskName(os.Getpid()), dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=755", diskSize))
	if err != nil {
		t.Fatalf("a disk for a POP: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// sweepDisks removes those of test runs that have ended without doing it.
func sweepDisks() {
	mounts, _ := os.ReadFile("/proc/mounts")
	for line := range strings.Lines(string(mounts)) {
		var pid int
		name, rest, _ := strings.Cut(line, " ")
		dir, _, _ := strings.Cut(rest, " ")
		if n, err := fmt.Sscanf(name, "edgeproxy-test-%d", &pid); n == 1 && err == nil && !lives(pid) {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
			_ = os.RemoveAll(dir)
		}
	}
}

// sweepSpaces removes their network namespaces with the POPs in them; links go along.
func sweepSpaces() {
	out, _ := exec.Command("ip", "netns", "list").Output()
	for line := range strings.Lines(string(out)) {
		var pid, n int
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := fmt.Sscanf(strings.Replace(name, "-hub", "-0", 1), "ep%d-%d", &pid, &n); err == nil && !lives(pid) {
			pops, _ := exec.Command("ip", "netns", "pids", name).Output()
			for _, p := range strings.Fields(string(pops)) {
				if orphan, err := strconv.Atoi(p); err == nil {
					_ = syscall.Kill(orphan, syscall.SIGKILL)
				}
			}
			_ = ip("netns", "del", name)
		}
	}
}

// lives says whether a process exists.
func lives(pid int) bool { return syscall.Kill(pid, 0) != syscall.ESRCH }
