//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// enterOwnNetwork gives bench and all its children a network namespace of their own, with nothing but loopback in it. There
// no firewall sees the packets: on a machine with Docker every connection is otherwise tracked for two minutes, which
// doubles its cost and, at 262,144 of them, has the kernel drop packets of everyone on the machine.
//
// Namespaces belong to threads. The calling goroutine stays on its own from now on, and only what it opens and starts itself
// is in the new namespace; bench opens every socket and starts every process from there.
func enterOwnNetwork() error {
	runtime.LockOSThread() // for good: the thread cannot go back
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	return loopbackUp()
}

// loopbackUp does `ip link set lo up`.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_LOOPBACK | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// useNetwork enters an own network if it may and tells how it went.
func useNetwork(shared bool, progress io.Writer) (string, error) {
	if shared {
		return "shared", nil
	}
	err := enterOwnNetwork()
	if errors.Is(err, unix.EPERM) {
		fmt.Fprintln(progress, "no right to a network namespace of its own, measuring in this one; better run it as root, or: unshare -rn go run ./bench")
		return "shared", nil
	}
	return "own", err
}

// checkTracking fails if another window of connections might fill the kernel's connection tracking. Where nothing tracks
// them, there is no file or the count is zero.
func checkTracking(window time.Duration) error {
	const perSecond = 2 * 25_000 // a client's connection and the proxy's
	count, limit := trackingFigure("count"), trackingFigure("max")
	if count > 0 && count+int(perSecond*window.Seconds()) > limit {
		return fmt.Errorf("the kernel tracks %d of at most %d connections (a firewall or Docker has it do so), keeps each for two minutes and drops "+
			"everybody's packets at the limit: run bench as root or under unshare -rn, which gives it a network of its own, or with shorter -seconds", count, limit)
	}
	return nil
}

func trackingFigure(name string) int {
	b, _ := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + name)
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}
