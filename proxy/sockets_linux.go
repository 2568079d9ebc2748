package proxy

import (
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"unsafe"

	"github.com/edgeproxy/edgeproxy/proxy/reactor"
	"golang.org/x/sys/unix"
)

// None of the reactor's sockets ever waits, so its calls go to the kernel
// without telling Go's scheduler (RawSyscall): that costs more than some of them.

// sockets are the reactor.Sockets of a worker.
type sockets struct {
	worker  *worker
	conn    *conn // whose turn it is
	scratch [bufferSize]byte
}

// outcome tells the pair how a call ended; n is what it returned.
func outcome(n uintptr, errno syscall.Errno) (int, reactor.Outcome) {
	switch errno {
	case 0:
		return int(n), reactor.Moved
	case unix.EAGAIN:
		return 0, reactor.Wait
	case unix.EINVAL, unix.ENOSYS, unix.EPERM, unix.EOPNOTSUPP: // of splice: not with this socket, kernel or sandbox
		return 0, reactor.Unfit
	}
	return 0, reactor.Broken
}

func (s *sockets) Read(fd int32, b []byte) (int, reactor.Outcome) {
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == unix.EINTR {
			continue
		}
		if n == 0 && errno == 0 {
			return 0, reactor.End
		}
		return outcome(n, errno)
	}
}

func (s *sockets) Write(fd int32, b []byte) (int, reactor.Outcome) {
	s.beforeWrite(fd)
	for {
		n, _, errno := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == unix.EINTR {
			continue
		}
		if errno == 0 && int(n) < len(b) || errno == unix.EAGAIN {
			s.watchRoom(fd)
		}
		return outcome(n, errno)
	}
}

func (s *sockets) Fill(p reactor.Pipe, fd int32) (int, reactor.Outcome) {
	n, errno := splice(fd, p.W, pipeSize)
	if n == 0 && errno == 0 {
		return 0, reactor.End
	}
	return outcome(n, errno)
}

func (s *sockets) Drain(p reactor.Pipe, n int, fd int32) (int, reactor.Outcome) {
	s.beforeWrite(fd)
	m, errno := splice(p.R, fd, n)
	if errno == unix.EAGAIN {
		s.watchRoom(fd)
	}
	return outcome(m, errno)
}

func splice(from, to int32, n int) (uintptr, syscall.Errno) {
	for {
		m, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if errno != unix.EINTR {
			return m, errno
		}
	}
}

// beforeWrite turns Nagle's algorithm off before the second write to a
// backend: the first one leaves at once anyway, and many connections have no other.
func (s *sockets) beforeWrite(fd int32) {
	if c := s.conn; c.nagle != nagleOff && fd == c.pair.FD(reactor.Backend) {
		if c.nagle++; c.nagle == nagleOff {
			setSocket(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		}
	}
}

// watchRoom asks to be told when the client's socket has room again, which
// few ever need: the backend's tells anyway, since that is how it connects.
func (s *sockets) watchRoom(fd int32) {
	if c := s.conn; !c.watched && fd == c.pair.FD(reactor.Client) {
		c.watched = true
		s.worker.control(unix.EPOLL_CTL_MOD, fd, interest|unix.EPOLLOUT, c.mark(reactor.Client))
	}
}

func (s *sockets) Shut(fd int32) reactor.Outcome {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	if errno != 0 && errno != unix.ENOTCONN { // then reading it says what has happened
		return reactor.Broken
	}
	return reactor.Moved
}

func (s *sockets) Scratch() []byte     { return s.scratch[:] }
func (s *sockets) Buffer() *[]byte     { return buffers.Get().(*[]byte) }
func (s *sockets) PutBuffer(b *[]byte) { buffers.Put(b) }

func (s *sockets) Pipe() (reactor.Pipe, bool) {
	p, err := pipes.get()
	if err != nil {
		return reactor.Pipe{}, false // no more of them: the buffer does as well
	}
	return reactor.Pipe{R: int32(p.r), W: int32(p.w)}, true
}

func (s *sockets) PutPipe(rp reactor.Pipe, left int) {
	p := pipe{int(rp.R), int(rp.W)}
	if left > 0 {
		pipes.drop(p)
		return
	}
	pipes.put(p)
}

// setSocket sets what a socket has or has not; a failure changes nothing that matters.
func setSocket(fd int32, level, name int, value int32) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value)), 4, 0)
}

// resetOnClose makes closing send a reset and discard what is not sent.
func resetOnClose(fd int32) {
	linger := [2]int32{1, 0}
	_, _, _ = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&linger)), 8, 0)
}

func closeFD(fd int32) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// socketError is the error that a socket has, and has not told yet.
func socketError(fd int32) syscall.Errno {
	n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return unix.EBADF
	}
	return syscall.Errno(n)
}

// accept takes a connection off a listener's queue.
func accept(ln int, sa *unix.RawSockaddrAny) (fd int32, errno syscall.Errno) {
	size := uint32(unsafe.Sizeof(*sa))
	n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(ln), uintptr(unsafe.Pointer(sa)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int32(n), errno
}

// addressOf is what the kernel wrote, without allocating.
func addressOf(sa *unix.RawSockaddrAny) netip.AddrPort {
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swapped(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		addr := netip.AddrFrom16(in.Addr)
		if in.Scope_id != 0 { // link-local: rare
			zone := strconv.Itoa(int(in.Scope_id))
			if link, err := net.InterfaceByIndex(int(in.Scope_id)); err == nil {
				zone = link.Name
			}
			addr = addr.WithZone(zone)
		}
		return netip.AddrPortFrom(addr.Unmap(), swapped(in.Port))
	}
	return netip.AddrPort{}
}

// swapped is a port in the other of the network's and the machine's byte orders.
func swapped(port uint16) uint16 {
	b := *(*[2]byte)(unsafe.Pointer(&port))
	return uint16(b[0])<<8 | uint16(b[1])
}

// beginConnect opens a socket and begins to connect it.
func beginConnect(to netip.AddrPort) (fd int32, err error) {
	var sa unix.RawSockaddrInet6
	size := uintptr(unix.SizeofSockaddrInet6)
	if addr := to.Addr().Unmap(); addr.Is4() {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sa))
		*in = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: swapped(to.Port()), Addr: addr.As4()}
		size = unix.SizeofSockaddrInet4
	} else {
		sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: swapped(to.Port()), Addr: addr.As16()}
		if zone := addr.Zone(); zone != "" {
			link, err := net.InterfaceByName(zone)
			if err != nil {
				return -1, err
			}
			sa.Scope_id = uint32(link.Index)
		}
	}
	n, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(sa.Family), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if errno != 0 {
		return -1, errno
	}
	_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, n, uintptr(unsafe.Pointer(&sa)), size)
	if errno != 0 && errno != unix.EINPROGRESS {
		closeFD(int32(n))
		return -1, errno
	}
	return int32(n), nil
}

// connectedToItself is what the kernel makes of a connect to a free port of
// this machine that it happens to choose for the socket too.
func connectedToItself(fd int32, to netip.AddrPort) bool {
	if !to.Addr().Unmap().IsLoopback() || to.Port() < 32768 { // where the kernel chooses from, by default
		return false
	}
	return localOf(fd) == netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
}

// localOf is the socket's own address; not valid where the kernel knows none.
func localOf(fd int32) netip.AddrPort {
	var sa unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(sa))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addressOf(&sa)
}
