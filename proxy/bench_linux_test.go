package proxy

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The clients and backends of the benchmarks are blocking system calls, so
// that allocations are the relay's alone. Their time and that of the kernel is
// in the figures too: they serve to compare, and to count allocations.

const requestSize = 64

// rawBackend answers each request of 64 bytes with the same, on any number of
// connections, one after the other.
func rawBackend(b testing.TB, serving *sync.WaitGroup) (addr netip.AddrPort, stop func()) {
	fd := rawSocket(b)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		b.Fatal(err)
	}
	if err := unix.Listen(fd, 4096); err != nil {
		b.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		b.Fatal(err)
	}
	serving.Go(func() {
		defer unix.Close(fd)
		buf := make([]byte, requestSize)
		for {
			conn, err := rawAccept(fd)
			if err != nil {
				return
			}
			_ = unix.SetsockoptInt(conn, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
			for rawRead(conn, buf) == nil {
				if _, err := unix.Write(conn, buf); err != nil {
					break
				}
			}
			unix.Close(conn)
		}
	})
	port := sa.(*unix.SockaddrInet4).Port
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }
}

func rawSocket(b testing.TB) int {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	return fd
}

// rawAccept is unix.Accept without the address, which it allocates.
func rawAccept(fd int) (int, error) {
	conn, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(fd), 0, 0, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(conn), nil
}

// rawRead fills b; any other end is an error.
func rawRead(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EPIPE
		}
		b = b[n:]
	}
	return nil
}

func exchange(b testing.TB, fd int, buf []byte) {
	if _, err := unix.Write(fd, buf); err != nil {
		b.Fatal(err)
	}
	if err := rawRead(fd, buf); err != nil {
		b.Fatal(err)
	}
}

// benchRelay runs body against a relay with 9 backends in three regions.
func benchRelay(b *testing.B, body func(b *testing.B, to unix.Sockaddr)) {
	for _, impl := range implementations {
		b.Run(impl.name, func(b *testing.B) {
			var serving sync.WaitGroup
			b.Cleanup(serving.Wait)
			var targets []target
			for i := range 9 {
				addr, stop := rawBackend(b, &serving)
				b.Cleanup(stop)
				targets = append(targets, target{id: fmt.Sprint("b", i), addr: addr, rank: i / 3})
			}
			r := start(b, impl.make, setup{targets: targets, quiet: true, ttl: time.Minute})
			b.ReportAllocs()
			body(b, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: int(r.addr.Port())})
		})
	}
}

// BenchmarkConnection is a connection with one request of 64 bytes: opened,
// answered, ended, by FIN or by reset.
func BenchmarkConnection(b *testing.B) {
	for _, reset := range []bool{false, true} {
		b.Run(map[bool]string{false: "close", true: "reset"}[reset], func(b *testing.B) {
			benchRelay(b, func(b *testing.B, to unix.Sockaddr) {
				buf := make([]byte, requestSize)
				for b.Loop() {
					fd := rawSocket(b)
					if reset {
						_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
					}
					if err := unix.Connect(fd, to); err != nil {
						b.Fatal(err)
					}
					exchange(b, fd, buf)
					unix.Close(fd)
				}
			})
		})
	}
}

// BenchmarkRequest is a request of 64 bytes and its answer on a connection
// that stays.
func BenchmarkRequest(b *testing.B) {
	benchRelay(b, func(b *testing.B, to unix.Sockaddr) {
		buf := make([]byte, requestSize)
		fd := rawSocket(b)
		defer unix.Close(fd)
		if err := unix.Connect(fd, to); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			exchange(b, fd, buf)
		}
	})
}
