//go:build linux

package main

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The load generator and the backends are plain epoll loops, one locked thread each, and call the kernel without telling
// the Go scheduler: a wait costs them nothing but the wait. That is allowed because their processes do nothing else, run
// without garbage collection and have more Ps than loops (see helperEnv and runRole).

const (
	messageSize = 64 // bytes of a request and of its reply

	// First byte of a request.
	wantEcho   = 'E' // reply with the same bytes
	wantStream = 'S' // send until the client closes
)

// loop is an epoll descriptor with room for its events. What stands in an event's Fd is the caller's choice.
type loop struct {
	fd     int
	events [256]unix.EpollEvent
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &loop{fd: fd}, err
}

func (l *loop) add(fd int, events uint32, tag int32) error {
	return unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: tag})
}

func (l *loop) change(fd int, events uint32, tag int32) error {
	return unix.EpollCtl(l.fd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: tag})
}

// wait returns what is ready within ms milliseconds; an interruption counts as nothing. The slice is valid until the next wait.
func (l *loop) wait(ms int) []unix.EpollEvent {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.fd),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), uintptr(ms), 0, 0)
	if errno != 0 {
		return nil
	}
	return l.events[:n]
}

func read(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// discard takes up to len(b) bytes from a TCP socket without copying them (MSG_TRUNC, see tcp(7)).
func discard(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_TRUNC, 0, 0)
	return int(n), errno
}

// write sends without SIGPIPE.
func write(fd int, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), errno
}

func accept(fd int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(n), errno
}

// again tells an error that means "not now" from one that ends the connection.
func again(e unix.Errno) bool { return e == unix.EAGAIN || e == unix.EINTR }

// socketTo returns a socket bound to source, whose port is chosen only at connect: so each pair of addresses has all
// ephemeral ports to itself.
func socketTo(source unix.Sockaddr, flags int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err == nil {
		err = unix.Bind(fd, source)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listenOn returns a listener that shares its address with those of the other loops.
func listenOn(addr netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	for _, opt := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, 1)
		}
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(addr))
	}
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}
