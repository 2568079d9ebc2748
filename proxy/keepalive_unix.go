//go:build unix

package proxy

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// keepAlive makes the kernel probe a silent peer after a minute and give it up
// after about two more (nine probes of 15 s), so that a client that vanished
// without a word frees its place long before the idle timeout.
func keepAlive(c syscall.RawConn) error {
	return setOptions(c, sockopt{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		sockopt{unix.IPPROTO_TCP, keepIdle, 60}, sockopt{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15})
}

// noDelay turns Nagle's algorithm off.
func noDelay(c syscall.RawConn) error {
	return setOptions(c, sockopt{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1})
}

type sockopt struct{ level, name, value int }

func setOptions(c syscall.RawConn, options ...sockopt) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		for _, o := range options {
			if failed = unix.SetsockoptInt(int(fd), o.level, o.name, o.value); failed != nil {
				return
			}
		}
	})
	if failed != nil {
		return failed
	}
	return err
}
