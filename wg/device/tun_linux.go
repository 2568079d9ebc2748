package device

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/rs/zerolog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const tunPath = "/dev/net/tun"

func openTUN(cfg Config, log zerolog.Logger, fail func(error)) (tunnel, network, error) {
	nic, err := createTUN(cfg.Interface, cfg.MTU)
	if err != nil {
		return nil, nil, err
	}
	l := &systemLink{name: cfg.Interface, log: log}
	if l.link, err = netlink.LinkByName(cfg.Interface); err != nil {
		err = l.failed("find it again", err)
	} else {
		err = l.up(cfg.MTU)
	}
	if err != nil {
		nic.Close()
		return nil, nil, err
	}
	t, err := startProcess(cfg, nic, log, fail)
	if err != nil {
		return nil, nil, err
	}
	return t, l, nil
}

// createTUN makes an interface that goes when it is closed, or the process
// ends. It does not use the library's CreateTUN, which takes over whatever
// interface of that name lets itself be.
func createTUN(name string, mtu int) (*steadyTUN, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, tunError(name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, tunError(name, err)
	}
	file := os.NewFile(uintptr(fd), tunPath)
	inner, err := tun.CreateTUNFromFile(file, mtu)
	if err != nil {
		file.Close()
		return nil, tunError(name, err)
	}
	s := &steadyTUN{Device: inner, events: make(chan tun.Event), done: make(chan struct{})}
	s.relay.Go(s.run)
	return s, nil
}

func tunError(name string, err error) error {
	switch {
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return foreign(name)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("make TUN interface %s: %w", name, ErrNoTUN)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("make TUN interface %s: %w", name, ErrRights)
	}
	return fmt.Errorf("make TUN interface %s: %w", name, err)
}

// steadyTUN keeps from WireGuard that the interface was still down when it was
// made, for which it would close its UDP port just after it has opened it.
type steadyTUN struct {
	tun.Device
	events chan tun.Event
	done   chan struct{}
	once   sync.Once
	relay  sync.WaitGroup
}

func (s *steadyTUN) Events() <-chan tun.Event { return s.events }

func (s *steadyTUN) run() {
	defer close(s.events)
	for e := range s.Device.Events() {
		if e&tun.EventMTUUpdate != 0 {
			select {
			case s.events <- tun.EventMTUUpdate:
			case <-s.done:
			}
		}
	}
}

// Close ends the events, too.
func (s *steadyTUN) Close() error {
	s.once.Do(func() { close(s.done) })
	err := s.Device.Close()
	s.relay.Wait()
	return err
}
