//go:build unix

package proxy

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// cork holds written bytes back until the half-close, whose FIN then travels
// in their segment.
func cork(t testing.TB, c *net.TCPConn) {
	t.Helper()
	if err := setOption(c, unix.IPPROTO_TCP, optionCork, 1); err != nil {
		t.Fatal(err)
	}
}

func setReceiveBuffer(c syscall.Conn, n int) error {
	return setOption(c, unix.SOL_SOCKET, unix.SO_RCVBUF, n)
}

func setOption(c syscall.Conn, level, name, value int) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); cerr != nil {
		return cerr
	}
	return err
}
