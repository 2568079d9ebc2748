package clustertests

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fabric connects network namespaces, each by a TUN device, and this machine's
// own by another. All packets come by here, so links between POPs can be cut,
// lossy and late, in each direction. There is no netem on many machines; and
// loss that we make replays from its seed.
type fabric struct {
	links  *links
	ctx    context.Context
	all    sync.WaitGroup
	subnet string // first three bytes

	mu     sync.Mutex
	ports  map[netip.Addr]*tunPort
	cables map[[2]int]*cable
}

// tunPort is our end of a device. POP -1 is this machine: its links are always good.
type tunPort struct {
	pop  int
	file *os.File
}

func newFabric(t testing.TB, l *links, subnet string) *fabric {
	ctx, cancel := context.WithCancel(context.Background())
	f := &fabric{links: l, ctx: ctx, subnet: subnet, ports: map[netip.Addr]*tunPort{}, cables: map[[2]int]*cable{}}
	t.Cleanup(func() {
		cancel()
		f.mu.Lock()
		for _, p := range f.ports {
			_ = p.file.Close()
		}
		f.mu.Unlock()
		f.all.Wait()
	})
	return f
}

// plug makes a device in a namespace ("" is ours) and carries its packets.
func (f *fabric) plug(space, device string, pop int, addr netip.Addr) error {
	file, err := openTUN(space, device)
	if err != nil {
		return err
	}
	in := func(args ...string) []string {
		if space != "" {
			args = append([]string{"-n", space}, args...)
		}
		return args
	}
	p := &tunPort{pop: pop, file: file}
	f.mu.Lock()
	f.ports[addr] = p
	f.mu.Unlock()
	if err := ip(in("addr", "add", addr.String()+"/24", "dev", device)...); err != nil {
		return err
	}
	if err := ip(in("link", "set", device, "up")...); err != nil {
		return err
	}
	f.all.Go(func() { f.carry(p) })
	return nil
}

// carry reads what a device sends. Only IPv4 has a way to go.
func (f *fabric) carry(from *tunPort) {
	buf := make([]byte, 1<<16)
	for {
		n, err := from.file.Read(buf)
		if err != nil {
			return // closed
		}
		if n < 20 || buf[0]>>4 != 4 {
			continue
		}
		f.mu.Lock()
		to := f.ports[netip.AddrFrom4([4]byte(buf[16:20]))] // the destination, RFC 791
		f.mu.Unlock()
		switch {
		case to == nil:
		case from.pop < 0 || to.pop < 0:
			_, _ = to.file.Write(buf[:n]) // a full queue drops, as queues do
		default:
			if delays := f.links.passes(from.pop, to.pop); len(delays) > 0 {
				f.cable(from.pop, to).send(append([]byte(nil), buf[:n]...), delays)
			}
		}
	}
}

// cable is that from one POP to another; it is laid at its first use.
func (f *fabric) cable(from int, to *tunPort) *cable {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := [2]int{from, to.pop}
	c := f.cables[key]
	if c == nil {
		c = newCable()
		f.cables[key] = c
		f.all.Go(func() { c.run(f.ctx, func(b []byte) { _, _ = to.file.Write(b) }) })
	}
	return c
}

// openTUN makes a TUN device in a namespace. It stays there, wherever the
// thread that made it goes.
func openTUN(space, device string) (*os.File, error) {
	if space != "" {
		runtime.LockOSThread()
		back, err := enter("/proc/thread-self/ns/net", "/var/run/netns/"+space)
		if err != nil {
			return nil, err // with this thread, which ends with its goroutine
		}
		defer runtime.UnlockOSThread()
		defer back()
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make device %s: %w", device, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// enter moves the thread into a namespace; back moves it back where it was.
func enter(now, then string) (back func(), err error) {
	home, err := os.Open(now)
	if err != nil {
		return nil, err
	}
	there, err := os.Open(then)
	if err == nil {
		err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		_ = there.Close()
	}
	if err != nil {
		_ = home.Close()
		return nil, fmt.Errorf("enter %s: %w", then, err)
	}
	return func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // the thread would do other work in a foreign network
		}
		_ = home.Close()
	}, nil
}
