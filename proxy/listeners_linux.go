package proxy

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenGroup opens as many listeners at the address of ln as there are not
// yet, one for each of n workers, among which the kernel spreads the
// connections (SO_REUSEPORT). That
// ln was bound without this option says that the address is nobody else's; it
// is set only now. ln itself gets no new connections any more: it is in the
// runtime's poller, which would wake a thread for each.
//
// An error means that there is no group, as with a listener that another
// user's process has bound.
func listenGroup(ln *net.TCPListener, fds []int, n int) ([]int, error) {
	given := len(fds)
	err := control(ln, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
		at, err := unix.Getsockname(fd)
		if err != nil {
			return err
		}
		for len(fds) < n {
			one, err := listenAt(fd, at)
			if err != nil {
				return err
			}
			fds = append(fds, one)
		}
		// Without it ln, of which a worker has a copy, gets its share.
		_ = spreadBehindFirst(fd, len(fds))
		return nil
	})
	if err != nil && given == 0 {
		closeAll(fds)
		return nil, err
	}
	return fds, err
}

// listenAt opens a listener like the one given.
func listenAt(like int, at unix.Sockaddr) (fd int, err error) {
	domain, err := unix.GetsockoptInt(like, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return -1, err
	}
	fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	for _, o := range []struct{ level, name int }{
		{unix.SOL_SOCKET, unix.SO_REUSEADDR}, {unix.SOL_SOCKET, unix.SO_REUSEPORT}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
		{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.IPPROTO_TCP, keepIdle}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_IPV6, unix.IPV6_V6ONLY},
	} {
		value, err := unix.GetsockoptInt(like, o.level, o.name)
		if err != nil {
			continue // IPv6's, of an IPv4 socket
		}
		if err := unix.SetsockoptInt(fd, o.level, o.name, value); err != nil {
			return -1, err
		}
	}
	if err := unix.Bind(fd, at); err != nil {
		return -1, err
	}
	return fd, unix.Listen(fd, 4096) // the kernel lowers it to somaxconn
}

// spreadBehindFirst makes the kernel choose among the n listeners that joined
// the group after its first one, at random.
func spreadBehindFirst(fd, n int) error {
	const adRandom = -0x1000 + 56 // SKF_AD_OFF + SKF_AD_RANDOM
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(0x100000000 + adRandom)},
		{Code: unix.BPF_ALU | unix.BPF_MOD | unix.BPF_K, K: uint32(n)},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: 1},
		{Code: unix.BPF_RET | unix.BPF_A},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
		&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}

// takeOver makes the listeners that another process opened descriptors of ours.
func takeOver(lns []*net.TCPListener) (fds []int, err error) {
	for _, ln := range lns {
		fd, cerr := copyOf(ln)
		err = errors.Join(err, cerr)
		if cerr == nil {
			fds = append(fds, fd)
		}
		ln.Close()
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return fds, nil
}

// copyOf is a descriptor of the same socket that nobody else closes.
func copyOf(ln *net.TCPListener) (fd int, err error) {
	err = control(ln, func(of int) (err error) {
		fd, err = unix.FcntlInt(uintptr(of), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// isClosed says whether somebody has closed the listener.
func isClosed(ln *net.TCPListener) bool {
	return errors.Is(control(ln, func(int) error { return nil }), net.ErrClosed)
}

// control calls fn with the descriptor of an open socket.
func control(c syscall.Conn, fn func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = fn(int(fd)) }); err != nil {
		return err
	}
	return failed
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
