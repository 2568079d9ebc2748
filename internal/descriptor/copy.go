//go:build unix

// Package descriptor copies descriptors for other processes.
package descriptor

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Copy is another descriptor of an open socket. Unlike what package net's File
// returns it can be given to a child process (os/exec) as it is: that one's
// would be made blocking for it, and with it the original, which is the same
// socket, also in this process.
func Copy(c syscall.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var copied int
	var failed error
	if err := raw.Control(func(fd uintptr) { copied, failed = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("dup", failed)
	}
	return os.NewFile(uintptr(copied), "socket"), nil
}
